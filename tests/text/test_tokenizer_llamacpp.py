"""Hornbook's tokenizers and llama.cpp's agree on the text of the world, under every pre-tokenizer name."""

from __future__ import annotations

import gzip
import json
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    write_tiny_model(tmp_path / "tiny.gguf", metadata, name)
    tokenizer = Tokenizer.from_gguf({**metadata, "tokenizer.ggml.pre": name})
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


def write_tiny_model(path: Path, metadata: dict[str, Any], pre: str, width: int = 32) -> None:
    """A Llama of one layer with weights of zero and this vocabulary, cut as ``pre`` says."""
    gguf = pytest.importorskip("gguf")
    tokens = metadata["tokenizer.ggml.tokens"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(metadata["tokenizer.ggml.token_type"])
    writer.add_token_merges(metadata["tokenizer.ggml.merges"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), width), np.float16))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.zeros(width, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((width, width), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
