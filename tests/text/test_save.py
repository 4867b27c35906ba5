"""A tokenizer of any source, saved as a folder, is the same tokenizer to transformers and to us."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hornbook.errors import ModelFileError
from hornbook.text.chat import ChatTemplate
from hornbook.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")
Make = Callable[..., Path]
FACTS = ("bos_id", "eos_id", "pad_id", "unk_id", "stop_ids", "add_bos", "vocab_size", "control_ids")
TURNS = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Where does 漢字 come from?\n\n  And why 2025? 🦙"},
    {"role": "assistant", "content": "China."},
    {"role": "user", "content": "Sure?"},
]


def assert_saved(
    tokenizer: Tokenizer, folder: Path, texts: list[str], template: ChatTemplate | None = None
) -> tuple[Any, Tokenizer]:
    """Save; transformers and we read the folder and give equal ids, equal texts of ids, and tell equal facts."""
    written = tokenizer.save(folder, template, context_length=2048)
    assert sorted(written) == sorted(path for path in folder.rglob("*") if path.is_file())
    theirs, again = transformers.AutoTokenizer.from_pretrained(folder), Tokenizer.from_folder(folder)
    for text in [*texts, "".join(tokenizer.control_tokens[:5]), "it's , n't . x"]:
        ids = tokenizer.encode(text, parse_special=True)
        assert theirs(text)["input_ids"] == ids == again.encode(text, parse_special=True), text
        assert again.encode(text) == tokenizer.encode(text), text
        for skip in (True, False):
            decoded = tokenizer.decode(ids, skip_special=skip)
            assert theirs.decode(ids, skip_special_tokens=skip) == decoded == again.decode(ids, skip_special=skip)
    assert {name: getattr(again, name) for name in FACTS} == {name: getattr(tokenizer, name) for name in FACTS}
    for role in tokenizer.parts.marks:
        assert getattr(theirs, f"{role}_token_id") == tokenizer.parts.marks[role]
    assert theirs.model_max_length == 2048
    return theirs, again


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Nothing may be logged as a warning while the test runs."""
    with caplog.at_level(logging.WARNING):
        yield
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("model_type", [None, "llama"])
def test_smollm2_from_gguf(
    smollm2: Tokenizer,
    smollm2_metadata: Mapping[str, Any],
    texts: list[str],
    tmp_path: Path,
    model_type: str,
    quiet: None,
) -> None:
    template = ChatTemplate.from_gguf(smollm2_metadata, smollm2)
    assert template is not None
    smollm2.save(tmp_path, template)
    if model_type is None:
        theirs, again = assert_saved(smollm2, tmp_path, texts, template)
    else:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), "utf-8")
        theirs, again = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_folder(tmp_path)
    reread = ChatTemplate.from_folder(tmp_path, again)
    assert reread is not None and reread.source == template.source
    for reply in (True, False):
        ids = theirs.apply_chat_template(TURNS, add_generation_prompt=reply, return_dict=False)
        rendered = template.render(TURNS, reply=reply)
        assert theirs.apply_chat_template(TURNS, add_generation_prompt=reply, tokenize=False) == rendered.text
        assert reread.render(TURNS, reply=reply).ids == rendered.ids == ids


@pytest.mark.parametrize("fixture", ["gemma", "minilm", "phi3", "gpt2", "mistral3"])
def test_real_tokenizers_of_every_source(
    request: pytest.FixtureRequest, texts: list[str], tmp_path: Path, fixture: str, quiet: None
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    texts = texts[::3]
    _, again = assert_saved(tokenizer, tmp_path / "new" / "folder", texts)
    if fixture != "gemma":  # to GGUF and back costs 8 s there and is the same as for phi3
        back = Tokenizer.from_gguf(again.gguf_metadata())
        assert [text for text in texts if back.encode(text) != tokenizer.encode(text)] == []
        assert {name: getattr(back, name) for name in FACTS} == {name: getattr(tokenizer, name) for name in FACTS}


FOLDERS: dict[str, dict[str, Any]] = {
    "RobertaTokenizer": {"kind": "bpe", "special": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]},
    "Qwen2Tokenizer": {"kind": "bpe", "special": ["<|endoftext|>"]},
    "OpenAIGPTTokenizer": {"kind": "gpt", "special": ["<unk>"]},
    "T5Tokenizer": {
        "kind": "spiece.model",
        "algorithm": "unigram",
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
    },
    "AlbertTokenizer": {
        **{"kind": "spiece.model", "algorithm": "unigram", "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1},
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
    },
    "LlamaTokenizer": {
        **{"kind": "tokenizer.model", "algorithm": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False},
        "normalization_rule_name": "identity",
    },
}


@pytest.mark.parametrize("name", FOLDERS)
def test_raw_files_of_every_kind(make: Make, texts: list[str], tmp_path: Path, name: str, quiet: None) -> None:
    options = dict(FOLDERS[name])
    folder = make(options.pop("kind"), {"tokenizer_class": name}, **options)
    tokenizer = Tokenizer.from_folder(folder)
    theirs, again = assert_saved(tokenizer, tmp_path, [*texts, "a <mask> b <extra_id_3>"])
    assert theirs("a", "b")["input_ids"] == tokenizer.backend.encode("a", "b").ids == again.backend.encode("a", "b").ids


def test_a_cased_bert_stays_cased_in_berts_own_class(make: Make, texts: list[str], tmp_path: Path) -> None:
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer.from_folder(make("wordpiece", {"do_lower_case": False}, lower=False, special=marks))
    theirs, _ = assert_saved(tokenizer, tmp_path, texts)
    assert theirs("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]
    for own in (transformers.BertTokenizer, transformers.AutoTokenizer):
        (tmp_path / "config.json").write_text('{"model_type": "bert"}', "utf-8")
        again = own.from_pretrained(tmp_path)
        assert [again(text)["input_ids"] for text in texts] == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("name", FOLDERS)
def test_what_transformers_saves_is_read(make: Make, texts: list[str], tmp_path: Path, name: str) -> None:
    options = dict(FOLDERS[name])
    theirs = getattr(transformers, name).from_pretrained(make(options.pop("kind"), {}, **options))
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    for text in texts[::3]:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text, parse_special=True) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_several_templates_are_saved_by_name(smollm2: Tokenizer, tmp_path: Path) -> None:
    template = ChatTemplate(
        "plain", smollm2, named={"tool_use": "tools: {{ tools | length }}", "rag": "with documents"}
    )
    smollm2.save(tmp_path, template)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.chat_template == {"default": "plain", **template.named}
    again = ChatTemplate.from_folder(tmp_path, smollm2)
    assert again is not None and (again.source, again.named) == (template.source, template.named)
    tool = {"type": "function", "function": {"name": "look", "description": "", "parameters": {}}}
    assert again.render([TURNS[1]]).text == "plain"
    assert again.render([TURNS[1]], tools=[tool]).text == "tools: 1"
    rag = ChatTemplate.from_folder(tmp_path, smollm2, name="rag")
    assert rag is not None and rag.render([TURNS[1]], tools=[tool]).text == "with documents"
    from_gguf = ChatTemplate.from_gguf(smollm2.gguf_metadata(template), smollm2)
    assert from_gguf is not None and (from_gguf.source, from_gguf.named) == (template.source, template.named)


def test_a_folder_may_be_saved_over(smollm2: Tokenizer, minilm: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "[MASK]"}', "utf-8")
    (tmp_path / "weights").write_text("kept", "utf-8")
    smollm2.save(tmp_path, "a template")
    minilm.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json", "weights"]
    assert Tokenizer.from_folder(tmp_path).eos_id == minilm.eos_id


def test_named_templates_of_an_earlier_model_are_removed(smollm2: Tokenizer, tmp_path: Path) -> None:
    smollm2.save(tmp_path, ChatTemplate("old", smollm2, named={"tool_use": "old tools", "rag": "old documents"}))
    smollm2.save(tmp_path, ChatTemplate("new", smollm2, named={"rag": "new documents"}))
    again = ChatTemplate.from_folder(tmp_path, smollm2)
    assert again is not None and (again.source, again.named) == ("new", {"rag": "new documents"})
    smollm2.save(tmp_path)
    assert ChatTemplate.from_folder(tmp_path, smollm2) is None
    assert ChatTemplate.from_folder(tmp_path, smollm2, name="rag") is None


def test_a_write_that_fails_leaves_the_old_files(
    smollm2: Tokenizer, minilm: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minilm.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelFileError, match="No space left"):
        smollm2.save(tmp_path, "a template")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_cannot_be_written_is_named(smollm2: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ModelFileError, match="cannot be written to"):
        smollm2.save(tmp_path / "file")
    outside = ChatTemplate("a", smollm2, named={"../../outside": "b"})
    with pytest.raises(ModelFileError, match="cannot be a file's"):
        smollm2.save(tmp_path / "deep" / "model", outside)
    assert not list(tmp_path.rglob("outside*"))
