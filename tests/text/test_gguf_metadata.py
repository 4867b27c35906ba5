"""What GGUF has no words for is named; what it has words for is said in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from hornbook.errors import UnsupportedModel, UsageError
from hornbook.text.pretokenize import CUTS, name_of
from hornbook.text.tokenizer import Tokenizer

Make = Callable[..., Path]


def byte_level(
    folder: Path, pre_tokenizer: Any, normalizer: Any = None, *, ignore_merges: bool = False, more: tuple[str, ...] = ()
) -> Tokenizer:
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", *more]
    vocabulary = {letter: id for id, letter in enumerate(letters)}
    backend = Backend(models.BPE(vocabulary, [("t", "h")], ignore_merges=ignore_merges))
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.from_folder(folder)


UNSAYABLE = [
    (pre_tokenizers.ByteLevel(True), None, "the pre-tokenizer ByteLevel with a space before the text"),
    (pre_tokenizers.ByteLevel(False, use_regex=False), None, "has no name in GGUF"),
    (
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("a+"), "isolated"), pre_tokenizers.ByteLevel(False)]),
        None,
        "has no name in GGUF, so llama.cpp would cut otherwise: 'a\\+' then",
    ),
    (
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("a"), "removed"), pre_tokenizers.ByteLevel(False)]),
        None,
        "the pre-tokenizer Split",
    ),
    (pre_tokenizers.ByteLevel(False), normalizers.Lowercase(), r"before byte-level BPE \(Lowercase\)"),
]


@pytest.mark.parametrize(("pre_tokenizer", "normalizer", "said"), UNSAYABLE)
def test_a_byte_level_tokenizer_that_gguf_cannot_say(
    tmp_path: Path, pre_tokenizer: Any, normalizer: Any, said: str
) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        byte_level(tmp_path, pre_tokenizer, normalizer).gguf_metadata()


def test_whole_words_matter_only_where_the_merges_do_not_make_them(tmp_path: Path) -> None:
    gpt2 = pre_tokenizers.ByteLevel(False)
    metadata = byte_level(tmp_path, gpt2, ignore_merges=True).gguf_metadata()
    assert metadata["tokenizer.ggml.pre"] == "gpt-2"
    with pytest.raises(UnsupportedModel, match="has no name in GGUF"):
        byte_level(tmp_path, gpt2, ignore_merges=True, more=("whole",)).gguf_metadata()


def test_other_tokenizers_that_gguf_cannot_say(make: Make) -> None:
    places = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}
    albert = make("spiece.model", {"tokenizer_class": "AlbertTokenizer"}, algorithm="unigram", **places)
    no_bytes = make("tokenizer.model", {"tokenizer_class": "LlamaTokenizer"}, algorithm="bpe")
    gpt = make("gpt", {"tokenizer_class": "OpenAIGPTTokenizer"}, special=["<unk>"])
    bert = {"tokenize_chinese_chars": False}
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    together = make("wordpiece", bert, special=marks)
    cases = {albert: "Replace", no_bytes: "BPE tokenizer that is neither", gpt: "BPE", together: "Chinese characters"}
    for folder, said in cases.items():
        with pytest.raises(UnsupportedModel, match=f"GGUF has no words for .*{said}"):
            Tokenizer.from_folder(folder).gguf_metadata()


def test_fewer_rows_than_tokens_are_refused(smollm2: Tokenizer) -> None:
    with pytest.raises(UsageError, match="49152 tokens, but the model only 49000 rows"):
        smollm2.gguf_metadata(rows=49000)


def test_unused_rows_keep_their_places(smollm2: Tokenizer) -> None:
    metadata = smollm2.gguf_metadata(rows=49160)
    assert metadata["tokenizer.ggml.tokens"][49152:] == [f"[PAD{id}]" for id in range(49152, 49160)]
    assert metadata["tokenizer.ggml.token_type"][-9:].tolist() == [1, *[5] * 8]
    assert smollm2.gguf_metadata(rows=49152).keys() == metadata.keys()
    assert Tokenizer.from_gguf(metadata).vocab_size == 49160


def test_roberta_says_what_stands_around_a_text(make: Make, texts: list[str]) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer.from_folder(make("bpe", {"tokenizer_class": "RobertaTokenizer"}, special=special))
    metadata = tokenizer.gguf_metadata(architecture="bert")
    again = Tokenizer.from_gguf(metadata)
    assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]
    assert metadata["tokenizer.ggml.mask_token_id"] == 4
    assert metadata["tokenizer.ggml.token_type"][:6].tolist() == [3, 3, 3, 3, 3, 1]


def test_ends_that_no_text_tells_are_written(tmp_path: Path) -> None:
    pre_tokenizer = pre_tokenizers.ByteLevel(False)
    byte_level(tmp_path, pre_tokenizer)
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    added = {str(257 + at): {"content": text, **flags} for at, text in enumerate(["<eos>", "<stop>", "<|im_end|>"])}
    config = {"added_tokens_decoder": added, "eos_token": "<eos>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [257, 258, 259]}', "utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path)
    metadata = tokenizer.gguf_metadata()
    assert (metadata["tokenizer.ggml.eos_token_id"], metadata["tokenizer.ggml.eot_token_id"]) == (257, 258)
    assert Tokenizer.from_gguf(metadata).stop_ids == tokenizer.stop_ids == {257, 258, 259}


def test_a_cut_has_the_name_nearest_to_the_architecture() -> None:
    gpt2, digits = CUTS["gpt-2"], CUTS["smollm"]
    names = [name_of(gpt2.patterns, whole_words=False, near=near) for near in ("", "phi2", "gpt2", "llama")]
    assert names == ["gpt-2", "phi-2", "gpt-2", "gpt-2"]
    assert name_of(digits.patterns, whole_words=False, near="starcoder") == "starcoder"
    assert name_of(digits.patterns, whole_words=True) is None
    for cut in CUTS.values():
        name = name_of(cut.patterns, whole_words=cut.whole_words)
        assert name is not None and CUTS[name].patterns == cut.patterns


def test_the_table_of_characters_goes_with_a_unigram(make: Make) -> None:
    folder = make("spiece.model", {}, algorithm="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    metadata = Tokenizer.from_folder(folder).gguf_metadata()
    table = metadata["tokenizer.ggml.precompiled_charsmap"]
    assert table.dtype == np.uint8 and len(table) > 1000
    assert metadata["tokenizer.ggml.remove_extra_whitespaces"] is True
