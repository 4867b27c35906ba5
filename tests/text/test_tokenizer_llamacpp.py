"""Hornbook's tokenizers and llama.cpp's agree on the text of the world, under every pre-tokenizer name."""

from __future__ import annotations

import gzip
import json
import re
import socket
import unicodedata
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from hornbook.checkpoint.gguf import GGUF
from hornbook.text.pretokenize import CUTS
from hornbook.text.tokenizer import Tokenizer

xllamacpp = pytest.importorskip("xllamacpp")
Ask = Callable[[str], list[int]]

ODD = [
    "  a   b\n\n\n\nc\t\t\td  \n ",
    "<|im_end|><bos>[INST]",
    "\u3000\u00a0 \u200d👨‍👩‍👧‍👦 🇫🇷 e\u0301",
    " " * 70,
    "\n" * 50,
    "a" * 231,
    "1234567890 12 3.5e10 ٣٤٥٦ ½ Ⅷ",
    "HelloWorld fooBar ÉCOLE école_x's I'LL we'RE don't DON'T it'S",
    "漢字かなカナ 한국어 ___--- $100+=<> `code` \r\n\r\n\t x  \n  y a/b//c\n",
    "x",
]


@contextmanager
def llamacpp(path: Path) -> Iterator[Ask]:
    """llama.cpp's /tokenize over loopback: what it makes of a text, control tokens in it not parsed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.port = 64, 1, False, port
    params.cpuparams.n_threads, params.verbosity = 1, -1
    server = [xllamacpp.Server(params)]
    address = server[0].listening_address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": True, "parse_special": False}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/tokenize", body, headers)
        ids: list[int] = json.load(opener.open(request))["tokens"]
        return ids

    try:
        yield ask
    finally:
        server.clear()  # it stops when nobody holds it


def corpus(shared: Path) -> list[str]:
    def read(name: str) -> str:
        with gzip.open(shared / "lm_text" / name, "rt", encoding="utf-8") as file:
            return file.read()

    long = ["wikitext2_valid", "wagahai_ja", "cmrc_trial_contexts_zh", "tinyshakespeare", "botchan_en"]
    return [
        *read("udhr_first_article_all.txt.gz").split("\n"),
        *(read(f"{name}.txt.gz")[:10_000] for name in long),
        *ODD,
    ]


@pytest.mark.models
@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_the_default_models_agree_with_llamacpp(request: pytest.FixtureRequest, shared: Path, name: str) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    texts = corpus(shared)
    assert len(texts) > 1500
    with llamacpp(request.getfixturevalue(f"{name}_path")) as ask:
        differ = [text[:80] for text in texts if ask(text) != tokenizer.encode(text)]
    assert not differ


# One name of each cut. The last two differ from llama.cpp on combining marks: its regex engine has no \p{M}, \p{Lu} or
# \p{Ll} and counts a mark as no letter; the models' own cuts, which we follow, count it as one.
NAMES = list({cut: name for name, cut in CUTS.items()}.values())
MARKS_DIFFER = {"tekken", "minimax-m2"}


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_agrees_with_llamacpp(
    shared: Path, tmp_path: Path, vocabulary: Callable[[str], dict[str, Any]], name: str
) -> None:
    metadata = shortened(vocabulary("gpt-2"))
    metadata["tokenizer.ggml.pre"] = name
    write_tiny_model(tmp_path / "tiny.gguf", metadata)
    tokenizer = Tokenizer.from_gguf(metadata)
    texts = [*corpus(shared)[:1500:8], *ODD]
    if name in MARKS_DIFFER:
        texts = [text for text in texts if "\u0331'" not in text]
    with llamacpp(tmp_path / "tiny.gguf") as ask:
        differ = [text[:80] for text in texts if ask(text) != tokenizer.encode(text)]
    assert not differ


def shortened(metadata: dict[str, Any], merges: int = 4000) -> dict[str, Any]:
    """GPT-2's vocabulary before its later merges: 256 bytes, a token for each merge, and the end."""
    tokens = [*metadata["tokenizer.ggml.tokens"][: 256 + merges], "<|endoftext|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (256 + merges) + [3],
        "tokenizer.ggml.merges": list(metadata["tokenizer.ggml.merges"])[:merges],
        "tokenizer.ggml.bos_token_id": 256 + merges,
        "tokenizer.ggml.eos_token_id": 256 + merges,
    }


def write_tiny_model(path: Path, metadata: Mapping[str, Any], width: int = 32) -> None:
    """A Llama of one layer with weights of zero and the tokenizer that the metadata describes."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width)
    for key, value in metadata.items():
        if isinstance(value, np.ndarray) and value.dtype == np.uint8:
            writer.add_key_value(key, value.tobytes(), gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8)
        elif isinstance(value, (list, np.ndarray)):
            if len(value):
                writer.add_array(key, value if isinstance(value, list) else value.tolist())
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            writer.add_uint32(key, value) if isinstance(value, int) else writer.add_string(key, value)
    rows = len(metadata["tokenizer.ggml.tokens"])
    writer.add_tensor("token_embd.weight", np.zeros((rows, width), np.float16))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.zeros(width, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((width, width), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --------------------------------------------------------------------------------- what we write, llama.cpp reads


def assert_written(tokenizer: Tokenizer, path: Path, texts: list[str], *, but: str = "") -> Mapping[str, Any]:
    """llama.cpp, and we again, read the metadata and give the tokenizer's ids; texts with a match of ``but`` left out."""
    metadata = tokenizer.gguf_metadata(rows=tokenizer.vocab_size + 7)
    write_tiny_model(path, metadata)
    with GGUF.open(path) as file:
        again = Tokenizer.from_gguf(file.metadata)
    assert again.vocab_size == tokenizer.vocab_size + 7 and again.token(again.vocab_size - 1).startswith("[PAD")
    kept = [text for text in texts if not (but and re.search(but, text))]
    assert len(kept) > 300
    expected = {text: tokenizer.encode(text) for text in kept}
    assert [text for text in kept if again.encode(text) != expected[text]] == []
    with llamacpp(path) as ask:
        assert [text[:80] for text in kept if ask(text) != expected[text]] == []
    return metadata


@pytest.mark.models
def test_from_gguf_to_a_folder_and_back(smollm2: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    smollm2.save(tmp_path)
    assert_written(Tokenizer.from_folder(tmp_path), tmp_path / "tiny.gguf", [*texts, *ODD])


def test_a_gguf_files_metadata_goes_back_word_for_word(smollm2_metadata: Mapping[str, Any], smollm2: Tokenizer) -> None:
    theirs = {key: value for key, value in smollm2_metadata.items() if key.startswith("tokenizer.")}
    ours = smollm2.gguf_metadata()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    assert smollm2.gguf_metadata("another")["tokenizer.chat_template"] == "another"


# llama.cpp knows no longest word, and takes the vowels of India's scripts and of Korean for accents.
LONG = "a{101}"
VOWELS = "[\u0900-\u0dff\u1000-\u109f\u1780-\u17ff\uac00-\ud7a3]"


def test_a_wordpiece_folder(minilm: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    assert_written(minilm, tmp_path / "tiny.gguf", texts, but=f"{LONG}|{VOWELS}")


@pytest.mark.parametrize("lower", [True, False])
def test_a_bert_of_raw_files(make: Callable[..., Path], texts: list[str], tmp_path: Path, lower: bool) -> None:
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    folder = make("wordpiece", {"do_lower_case": lower}, lower=lower, special=marks)
    but = f"{LONG}|{VOWELS}" if lower else LONG
    metadata = assert_written(Tokenizer.from_folder(folder), tmp_path / "tiny.gguf", texts, but=but)
    assert metadata.get("tokenizer.ggml.normalizer.lowercase", True) is lower


BYTES = pre_tokenizers.ByteLevel(False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(False)
CUTS_OF_FOLDERS = {
    "llama-bpe": [pre_tokenizers.Split(Regex(CUTS["llama3"].patterns[0]), "isolated"), BYTES],
    "qwen2": [pre_tokenizers.Split(Regex(CUTS["qwen2"].patterns[0]), "isolated"), BYTES],
    "gpt-2": [GPT2],
    "smollm": [pre_tokenizers.Digits(True), GPT2],
    "falcon": [
        *(pre_tokenizers.Punctuation("contiguous"), GPT2, pre_tokenizers.Digits(False)),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ],
}


@pytest.mark.parametrize("name", CUTS_OF_FOLDERS)
def test_a_cut_is_found_by_its_expression(texts: list[str], tmp_path: Path, name: str) -> None:
    backend = Backend(models.BPE(ignore_merges=name == "llama-bpe"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(CUTS_OF_FOLDERS[name])
    backend.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=special, initial_alphabet=BYTES.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    metadata = assert_written(Tokenizer.from_folder(tmp_path), tmp_path / "tiny.gguf", [*texts, *ODD])
    assert metadata["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize("legacy", [True, False])
def test_a_llama_of_a_sentencepiece_file(
    make: Callable[..., Path], texts: list[str], tmp_path: Path, legacy: bool
) -> None:
    options = {"byte_fallback": True, "remove_extra_whitespaces": False, "normalization_rule_name": "identity"}
    folder = make(
        "tokenizer.model", {"tokenizer_class": "LlamaTokenizer", "legacy": legacy}, algorithm="bpe", **options
    )
    tokenizer = Tokenizer.from_folder(folder)
    said = assert_written(tokenizer, tmp_path / "tiny.gguf", texts, but="" if legacy else "^ ")
    tokenizer.save(tmp_path)  # a tokenizer.json keeps the merges, not the scores
    derived = assert_written(Tokenizer.from_folder(tmp_path), tmp_path / "tiny.gguf", texts, but="" if legacy else "^ ")
    assert said["tokenizer.ggml.tokens"] == derived["tokenizer.ggml.tokens"]


def test_a_qwen2_of_raw_files_without_a_bos(make: Callable[..., Path], texts: list[str], tmp_path: Path) -> None:
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "bos_token": None}
    folder = make("bpe", config, special=["<|endoftext|>", "<|im_end|>"])
    tokenizer = Tokenizer.from_folder(folder)
    composed = [text for text in texts if unicodedata.is_normalized("NFC", text)]  # GGUF cannot say NFC
    metadata = assert_written(tokenizer, tmp_path / "tiny.gguf", composed)
    assert metadata["tokenizer.ggml.pre"] == "qwen2" and "tokenizer.ggml.bos_token_id" not in metadata
    assert Tokenizer.from_gguf(metadata).control_ids == tokenizer.control_ids == {0, 1}


def test_a_t5(make: Callable[..., Path], texts: list[str], tmp_path: Path) -> None:
    places = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    folder = make("spiece.model", {"tokenizer_class": "T5Tokenizer"}, algorithm="unigram", **places)
    metadata = assert_written(Tokenizer.from_folder(folder), tmp_path / "tiny.gguf", texts, but="-----")
    assert metadata["tokenizer.ggml.tokens"][-8:-7] == ["<extra_id_0>"]
