"""Folders of raw vocabulary files give the ids of transformers' own classes and of SentencePiece."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hornbook.errors import HornbookError, ModelFileError, UnsupportedModel
from hornbook.text.layouts import LAYOUTS
from hornbook.text.stream import StreamDecoder
from hornbook.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")
Make = Callable[..., Path]


def their(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def assert_equal(folder: Path, texts: list[str], *, decodes: bool = True) -> tuple[Tokenizer, Any]:
    """Our ids and theirs of every text, control tokens in it parsed, and the text that both make of the ids."""
    ours, theirs = Tokenizer.from_folder(folder), their(folder)
    for text in texts:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text, parse_special=True) == ids, text
        if decodes:
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
    return ours, theirs


SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def test_bert_and_a_cased_chinese_bert(make: Make, texts: list[str]) -> None:
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    folder = make("wordpiece", {"tokenizer_class": "BertTokenizer"}, lower=True, special=marks)
    ours, _ = assert_equal(folder, [*texts, "a [MASK] b"])
    assert (ours.bos_id, ours.eos_id, ours.pad_id, ours.unk_id) == (2, 3, 0, 1)
    # the CKIP checkpoints: cased, and config.json names the class of an ALBERT or a GPT-2 that has a BERT vocabulary
    folder = make("wordpiece", {"do_lower_case": False, "strip_accents": None}, lower=False, special=marks)
    (folder / "config.json").write_text('{"model_type": "albert", "tokenizer_class": "BertTokenizerFast"}', "utf-8")
    assert_equal(folder, texts)


def test_a_bert_with_odd_special_tokens(make: Make, texts: list[str]) -> None:
    odd = {
        "pad_token": "<none>",
        "unk_token": "<what>",
        "cls_token": "<go>",
        "sep_token": "<end>",
        "mask_token": "<hide>",
    }
    folder = make("wordpiece", {"tokenizer_class": "BertTokenizer"}, lower=True, special=list(odd.values()))
    (folder / "special_tokens_map.json").write_text(json.dumps(odd), "utf-8")
    ours = Tokenizer.from_folder(folder)
    theirs = transformers.BertTokenizer.from_pretrained(folder, **odd)
    for text in [*texts, "a <hide> b"]:
        assert ours.encode(text, parse_special=True) == theirs(text)["input_ids"], text


def test_gpt2_and_phi2(make: Make, texts: list[str]) -> None:
    folder = make("bpe", {"tokenizer_class": "GPT2Tokenizer"}, special=["<|endoftext|>"])
    ours, _ = assert_equal(folder, [*texts, "a<|endoftext|>b"])
    assert ours.eos_id == ours.bos_id == 0 and not ours.add_bos
    prefixed = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}
    assert_equal(make("bpe", prefixed, special=["<|endoftext|>"]), texts)
    runs = {str(900 + n): {"content": " " * (8 - n), "normalized": True, "special": False} for n in range(6)}
    added = {**runs, "0": {"content": "<|endoftext|>", "normalized": False, "special": True}}
    flags = {"lstrip": False, "rstrip": False, "single_word": False}
    added = {id: {**entry, **flags} for id, entry in added.items()}
    config = {"tokenizer_class": "CodeGenTokenizer", "added_tokens_decoder": added}
    ours, _ = assert_equal(make("bpe", config, special=["<|endoftext|>"]), texts)
    assert ours.encode("a     b").count(903) == 1


def test_roberta(make: Make, texts: list[str]) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    mask = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False}
    folder = make("bpe", {"tokenizer_class": "RobertaTokenizer", "mask_token": mask}, special=special)
    ours, theirs = assert_equal(folder, [*texts, "a <mask> b"])
    assert (ours.bos_id, ours.eos_id, ours.pad_id, ours.unk_id) == (0, 2, 1, 3)
    pair = ours.backend.encode("a", "b")
    assert pair.ids == theirs("a", "b")["input_ids"]


def test_qwen2(make: Make, texts: list[str]) -> None:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    added = {str(900 + at): {"content": name, **flags} for at, name in enumerate(names)}
    config = {"added_tokens_decoder": added, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None}
    folder = make("bpe", {**config, "tokenizer_class": "Qwen2Tokenizer"}, special=[])
    ours, _ = assert_equal(folder, [*texts, "<|im_start|>user\nHi 2025<|im_end|>"])
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (None, 902, 900)
    implied = make("bpe", config, special=[])
    (implied / "config.json").write_text('{"model_type": "qwen3_moe"}', "utf-8")
    assert [Tokenizer.from_folder(implied).encode(text) for text in texts] == [ours.encode(text) for text in texts]


def test_added_tokens_of_older_folders(make: Make) -> None:
    folder = make("bpe", {"tokenizer_class": "GPT2Tokenizer"}, special=["<|endoftext|>"])
    (folder / "added_tokens.json").write_text('{"<|two|>": 901, "<|one|>": 900}', "utf-8")
    (folder / "special_tokens_map.json").write_text('{"additional_special_tokens": ["<|one|>"]}', "utf-8")
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode("<|one|><|two|>", parse_special=True) == [900, 901]
    assert 901 in tokenizer.encode("<|one|><|two|>") and 900 not in tokenizer.encode("<|one|><|two|>")


def test_the_first_gpt(make: Make, texts: list[str]) -> None:
    folder = make("gpt", {"tokenizer_class": "OpenAIGPTTokenizer"}, special=["<unk>"])
    ours, theirs = assert_equal(folder, texts)
    for text in texts:
        stream = StreamDecoder(ours)
        ids = ours.encode(text)
        assert (
            "".join([*map(stream.push, ids), stream.flush()])
            == ours.decode(ids)
            == theirs.decode(ids, skip_special_tokens=True)
        )


@pytest.mark.parametrize("legacy", [True, False])
def test_llama(make: Make, texts: list[str], legacy: bool) -> None:
    config = {
        **SPECIAL,
        "tokenizer_class": "LlamaTokenizer",
        "legacy": legacy,
        "add_bos_token": True,
        "add_eos_token": False,
    }
    options = {"algorithm": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    folder = make("tokenizer.model", config, remove_extra_whitespaces=False, **options)
    ours = Tokenizer.from_folder(folder)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in texts:
        if legacy or not text.startswith(" "):  # the newer form writes a first space once
            assert ours.encode(text) == [1, *processor.encode(text)], text
    if not legacy:
        conversation = [f"<s>[INST] {text}</s> and {text}" for text in texts if text]
        assert_equal(folder, [*texts, *conversation])


def test_gemma(make: Make, texts: list[str]) -> None:
    config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True}
    options = {"algorithm": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    places = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "bos_piece": "<bos>", "eos_piece": "<eos>"}
    symbols = ["<mask>", "\n\n", "<start_of_turn>", "▁▁", "▁▁▁"]
    folder = make("tokenizer.model", config, remove_extra_whitespaces=False, add_dummy_prefix=False, split_digits=True,
                  user_defined_symbols=symbols, **places, **options)  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    ours = Tokenizer.from_folder(folder)
    assert (ours.bos_id, ours.eos_id, ours.pad_id, ours.unk_id, ours.add_bos) == (2, 1, 0, 3, True)
    for text in [*texts, "<start_of_turn>user\n\nHi"]:
        assert ours.encode(text) == [2, *processor.encode(text)], text
        assert ours.decode(ours.encode(text)) == processor.decode(processor.encode(text))


def likelihood(processor: Any, ids: list[int]) -> float:
    return sum(map(processor.get_score, ids))


def test_t5_and_its_sentinels(make: Make, texts: list[str]) -> None:
    places = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    folder = make("spiece.model", {"tokenizer_class": "T5Tokenizer"}, algorithm="unigram", **places)
    ours, theirs = assert_equal(folder, [*texts, "a <extra_id_0> b <extra_id_99>"], decodes=False)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert ours.vocab_size == len(theirs) == len(processor) + 100
    assert ours.id("<extra_id_0>") == ours.vocab_size - 1 and ours.id("<extra_id_99>") == len(processor)
    for text in texts:
        ids, expected = ours.encode(text)[:-1], processor.encode(text)
        # of equally likely cuts of a row of dashes SentencePiece, which adds up in single precision, takes another
        assert ids == expected or likelihood(processor, ids) == pytest.approx(likelihood(processor, expected)), text
        assert ours.vocab_size > max(ours.encode(f"{text} <extra_id_0>")) and ours.vocab_size - 1 not in ours.encode(
            f"{text} <extra_id_0>"
        )


def test_albert(make: Make, texts: list[str]) -> None:
    places = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}
    folder = make(
        "spiece.model", {"tokenizer_class": "AlbertTokenizer"}, algorithm="unigram", pad_piece="<pad>", **places
    )
    ours, theirs = assert_equal(folder, [*texts, "a [MASK] b"], decodes=False)
    assert (ours.bos_id, ours.eos_id, ours.pad_id, ours.unk_id) == (2, 3, 0, 1)
    assert ours.backend.encode("a", "b").type_ids == [0, 0, 0, 1, 1]
    assert ours.backend.encode("a", "b").ids == theirs("a", "b")["input_ids"]


def test_pieces_that_alberts_trainer_was_given_do_not_part_a_text(make: Make, texts: list[str]) -> None:
    places = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}
    config = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": False, "keep_accents": True}
    given = ["(", ")", "-", "–", ","]
    folder = make("spiece.model", config, algorithm="unigram", user_defined_symbols=given, **places)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    ours = Tokenizer.from_folder(folder)
    for text in [*texts, "(a)(b) in-side, – of"]:
        if "``" not in text and "-----" not in text:
            assert ours.encode(text) == [2, *processor.encode(text), 3], text
    assert set(given) <= set(map(ours.token, ours.encode("(a), von-der – end")))


def test_no_piece_of_albert_ends_in_a_digit_and_a_comma(make: Make, texts: list[str]) -> None:
    places = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}
    numbers = [f"In {n},999, {n}, and 20,{n}, there were" for n in range(300)]
    together = {"split_by_unicode_script": False, "split_by_number": False, "vocab_size": 300, "corpus": numbers}
    folder = make("spiece.model", {"tokenizer_class": "AlbertTokenizer"}, algorithm="unigram", **together, **places)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    ours = Tokenizer.from_folder(folder)

    def joined(pieces: list[str]) -> bool:
        return any(piece[-1] == "," and piece[-2:-1].isdigit() for piece in pieces)

    assert joined(processor.encode(numbers[7], out_type=str))
    assert not joined([ours.token(id) for text in numbers for id in ours.encode(text)])


@pytest.fixture(scope="module")
def marian(make: Make, texts: list[str]) -> Path:
    config = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de"}
    folder = make("source.spm", config, algorithm="unigram", vocab_size=2000, character_coverage=0.98)
    other = make("target.spm", config, algorithm="unigram", vocab_size=2500)
    (other / "target.spm").rename(folder / "target.spm")
    tokens = ["</s>", "<unk>", ">>fr<<"]
    for side in ("target.spm", "source.spm"):
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / side))
        tokens += [processor.id_to_piece(id) for id in range(3, len(processor))]
    ids = {token: id for id, token in enumerate(dict.fromkeys([*tokens, "<pad>"]))}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), "utf-8")
    return folder


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian(marian: Path, texts: list[str]) -> None:
    ours, theirs = Tokenizer.from_folder(marian), transformers.MarianTokenizer.from_pretrained(marian)
    goal = Tokenizer.from_folder(marian, target=True)
    compared = 0
    for text in [*(text for text in texts if "-----" not in text), ">>fr<< Hello"]:  # equally likely cuts, see above
        ids, expected = ours.encode(text), theirs(text)["input_ids"]
        if (
            ours.unk_id not in expected
        ):  # of unknown characters in a row they make one, though the other side knows each
            assert ids == expected, text
            compared += 1
        assert goal.encode(text) == theirs(text_target=text)["input_ids"], text
        if ours.unk_id not in ids:
            assert ours.decode(ids) == goal.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert compared > 400
    assert ours.pad_id == ours.id("<pad>") == ours.vocab_size - 1
    assert all(ours.id(ours.token(id)) == id for id in range(ours.vocab_size))


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian_is_saved_in_its_own_files(marian: Path, smollm2: Tokenizer, texts: list[str], tmp_path: Path) -> None:
    before = Tokenizer.from_folder(marian)
    smollm2.save(tmp_path)  # an earlier tokenizer.json, which would be read first
    before.save(tmp_path, context_length=256)
    names = ["source.spm", "target.spm", "tokenizer_config.json", "vocab.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    theirs, first = (
        transformers.AutoTokenizer.from_pretrained(tmp_path),
        transformers.AutoTokenizer.from_pretrained(marian),
    )
    assert type(theirs) is type(first) and theirs.model_max_length == 256 and theirs.target_lang == "de"
    after = Tokenizer.from_folder(tmp_path)
    for text in texts[::5]:
        assert theirs(text)["input_ids"] == first(text)["input_ids"]
        assert after.encode(text) == before.encode(text)
    with pytest.raises(UnsupportedModel, match="a translator's vocabulary of two sides"):
        before.gguf_metadata()


# --------------------------------------------------------------------------------------------------------- bad input


def test_a_million_sentinels_are_refused(make: Make) -> None:
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 1_000_000}
    folder = make("spiece.model", config, algorithm="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    with pytest.raises(ModelFileError, match="1,000,000 extra_ids, 10,000 at most"):
        Tokenizer.from_folder(folder)


def test_every_class_is_read_in_a_test() -> None:
    source = Path(__file__).read_text("utf-8")
    assert [name for name in LAYOUTS if f'"tokenizer_class": "{name}"' not in source] == []


def spoiled(folder: Path) -> Iterator[tuple[type[HornbookError], str]]:
    """Spoil a folder of GPT-2's layout in one way after another; what must be said each time."""
    config, vocabulary = folder / "tokenizer_config.json", folder / "vocab.json"
    config.write_text('{"tokenizer_class": "WhisperTokenizer"}', "utf-8")
    yield UnsupportedModel, "WhisperTokenizer is not one that Hornbook reads"
    config.write_text('{"tokenizer_class": "T5Tokenizer"}', "utf-8")
    yield UnsupportedModel, "names T5Tokenizer, which reads sentencepiece files, but holds byte-level ones"
    config.write_text('{"added_tokens_decoder": {"905": {"content": "<|far|>"}}}', "utf-8")
    yield ModelFileError, "'<|far|>' with the id 905, but its place is 900"
    config.write_text('{"tokenizer_class": "OpenAIGPTTokenizer", "unk_token": {"content": null}}', "utf-8")
    yield ModelFileError, "lacks one of a token for unk"
    config.write_text('{"bos_token": {"content": "a", "lstrip": "yes"}}', "utf-8")
    yield ModelFileError, "does not hold a sound tokenizer"
    config.write_text("{}", "utf-8")
    vocabulary.write_text('{"a": "b"}', "utf-8")
    yield ModelFileError, "does not map tokens to ids"
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(b"")
    vocabulary.write_text('{"a": 0, "b": 2}', "utf-8")
    yield ModelFileError, "does not give 2 tokens the ids from 0 to 1"
    vocabulary.write_text('{"a": 0, "b": 1}', "utf-8")
    yield ModelFileError, "lacks one of <unk>, </s>, <pad>"
    vocabulary.write_text('{"</s>": 0, "<unk>": 1, "<pad>": 2}', "utf-8")
    yield ModelFileError, "source.spm is not a sound SentencePiece model"


def test_a_spoiled_folder_is_named(make: Make) -> None:
    folder = make("bpe", {}, special=[])
    for kind, said in spoiled(folder):
        with pytest.raises(kind) as error:
            Tokenizer.from_folder(folder)
        assert said in error.value.what
