"""A model written in another format is believed when it has been read again; a copy that drifts never gets its name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hornbook.checkpoint import drift, export, load
from hornbook.checkpoint.drift import DriftError
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.loading import Checkpoint
from hornbook.errors import UnsupportedModel, UsageError


@pytest.fixture(scope="module")
def tiny(tiny_llm_path: Path) -> Checkpoint:
    opened = load(tiny_llm_path, device="cpu")
    opened.model.requires_grad_(False)
    return opened


def test_a_file_in_half_precision_answers_alike_and_talks_alike(tiny: Checkpoint, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = export(tiny, tmp_path / "deep" / "m.gguf", to="gguf", progress=lambda what, at, of: seen.append((at, of)))
    assert done.drift.top1 > 0.99 and done.drift.kl < 1e-3 and done.size == done.path.stat().st_size
    assert seen == sorted(seen) and seen[-1][1] == done.size
    again = load(done.path, device="cpu")
    assert again.chat_template is not None and tiny.chat_template is not None
    messages = [{"role": "user", "content": "Guten Tag, 你好!"}]
    ours, theirs = (c.chat_template.render(messages, reply=True) for c in (tiny, again))
    assert ours.ids == theirs.ids and again.tokenizer.stop_ids == tiny.tokenizer.stop_ids


def test_there_and_back_is_the_same_model_bit_for_bit(tiny: Checkpoint, tmp_path: Path) -> None:
    export(tiny, tmp_path / "m.gguf", to="gguf", quantise="F32")
    export(load(tmp_path / "m.gguf", device="cpu"), tmp_path / "folder", to="hf")
    back = load(tmp_path / "folder", device="cpu")
    for name, weight in back.model.state_dict().items():
        assert torch.equal(weight, tiny.model.state_dict()[name]), name
    text = drift.text()
    assert back.tokenizer.encode(text) == tiny.tokenizer.encode(text)


def test_what_is_in_the_type_wanted_already_goes_over_byte_for_byte_unless_it_was_changed(
    tiny: Checkpoint, tmp_path: Path
) -> None:
    """The K types lose a little each time that they are packed; a changed weight must not be taken from the old file."""
    loose, files = {"max_kl": 99.0, "min_top1": 0.0}, {}
    export(tiny, tmp_path / "first.gguf", to="gguf", quantise="Q5_1", **loose)
    again = load(tmp_path / "first.gguf", device="cpu")
    again.model.requires_grad_(False)
    export(again, tmp_path / "second.gguf", to="gguf", quantise="Q5_1", **loose)
    again.model.get_parameter("blocks.1.feedforward.up.weight").mul_(2)
    export(again, tmp_path / "third.gguf", to="gguf", quantise="Q5_1", **loose)
    for name in ("first", "second", "third"):
        with GGUF.open(tmp_path / f"{name}.gguf") as file:
            files[name] = {tensor: file.raw(tensor).copy() for tensor in file.tensors}
    differ = [name for name, raw in files["first"].items() if not np.array_equal(raw, files["second"][name])]
    assert differ == []
    differ = [name for name, raw in files["first"].items() if not np.array_equal(raw, files["third"][name])]
    assert differ == ["blk.1.ffn_up.weight"]


def test_a_copy_that_drifts_is_not_kept_and_the_figures_are_said(tiny: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    target.write_text("what stood there before")
    with pytest.raises(
        DriftError, match=r"the copy drifts: .*% same first choice, KL \d\.\d+ .* Q4_0 may have 100\.0%"
    ):
        export(tiny, target, to="gguf", quantise="Q4_0", max_kl=0.0, min_top1=1.0, overwrite=True)
    assert target.read_text() == "what stood there before"
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"], "nothing else is left"


def test_a_damaged_copy_is_noticed(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One matrix of zeros among the written ones, and the usual limit refuses it."""
    from hornbook.checkpoint import gguf_writer

    whole = gguf_writer.quantize

    def spoilt(values, type, *, name):  # type: ignore[no-untyped-def]
        return whole(values * 0 if name == "blk.1.ffn_down.weight" else values, type, name=name)

    monkeypatch.setattr(gguf_writer, "quantize", spoilt)
    with pytest.raises(DriftError, match="the copy drifts"):
        export(tiny, tmp_path / "m.gguf", to="gguf")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_replaced_unless_allowed(tiny: Checkpoint, tmp_path: Path) -> None:
    export(tiny, tmp_path / "m", to="hf")
    with pytest.raises(UsageError, match="is there already"):
        export(tiny, tmp_path / "m", to="hf")
    export(tiny, tmp_path / "m", to="hf", quantise="bfloat16", overwrite=True, max_kl=0.1, min_top1=0.9)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(("to", "quantise"), [("gguf", "Q9_9"), ("hf", "Q4_0"), ("gguf", "float32")])
def test_unknown_quantisations_are_refused_with_the_known(
    tiny: Checkpoint, tmp_path: Path, to: str, quantise: str
) -> None:
    with pytest.raises(UsageError, match=rf"{quantise}.*\nTake one of: \w+, "):
        export(tiny, tmp_path / "m", to=to, quantise=quantise)  # type: ignore[arg-type]


def test_a_model_that_the_format_cannot_say_is_refused_by_what_it_is(tiny: Checkpoint, tmp_path: Path) -> None:
    strange = replace(tiny, config=replace(tiny.config, logit_softcap=3.0))
    with pytest.raises(UnsupportedModel, match=r"cannot be written as llama.* logit_softcap \(3.0"):
        export(strange, tmp_path / "m.gguf", to="gguf")
    assert not list(tmp_path.iterdir())


def test_the_drift_of_a_model_from_itself_is_none_and_from_another_is_large(tiny: Checkpoint) -> None:
    ids = drift.ids_of(tiny.tokenizer)
    same = drift.measure(tiny.model, tiny.model, ids)
    assert same.top1 == 1.0 and same.kl == pytest.approx(0, abs=1e-6)
    assert same.perplexity is not None and same.perplexity[0] == same.perplexity[1]
    other = load(tiny.path, device="cpu").model
    with torch.no_grad():
        other.blocks[0].attention.value.weight.zero_()
    found = drift.measure(tiny.model, other, ids)
    assert found.top1 < 0.9 and found.kl > 0.01


def test_only_a_model_is_ever_replaced(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thesis, home = tmp_path / "home" / "thesis.txt", tmp_path / "home"
    home.mkdir()
    thesis.write_text("years of work")
    monkeypatch.chdir(home)
    for target, to, said in [
        (home, "hf", "where you are"),
        (tmp_path, "hf", "around it"),
        (Path("."), "gguf", "where you are"),
        (thesis, "hf", "is a file"),
    ]:
        with pytest.raises(UsageError, match=said):
            export(tiny, target, to=to, overwrite=True)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(UsageError, match="holds no model"):
        export(tiny, home, to="hf", overwrite=True)
    with pytest.raises(UsageError, match="is a folder"):
        export(tiny, home, to="gguf", overwrite=True)
    assert thesis.read_text() == "years of work" and [file.name for file in tmp_path.iterdir()] == ["home"]


def test_a_small_letter_and_one_limit_of_ones_own_keep_the_other(tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(DriftError, match=r"Q8_0 may have 100\.0% and 0\.02"):
        export(tiny, tmp_path / "m.gguf", to="gguf", quantise="q8_0", min_top1=1.0)
