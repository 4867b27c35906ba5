"""What a run gave is written down and read back, whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_tasks import Remembering, Sums, Texts, Words

from hornbook import __version__
from hornbook.errors import DataError, StoreError
from hornbook.evals import folder as folders
from hornbook.evals.outcome import FILE, Identity, Outcome, samples_file
from hornbook.evals.run import run
from hornbook.evals.task import Item, Setting
from hornbook.settings import Settings

ODD = "\u2028 中文 \ud800 </script> \0"


class OddWords(Words):
    def __init__(self) -> None:
        super().__init__(2)
        self._items = [Item("odd", {"word": ODD}), Item("plain", {"word": "x"})]


def test_an_outcome_comes_back_from_its_folder_with_its_samples(tmp_path: Path) -> None:
    outcome = run(Remembering(), [Sums(12, groups=("a", "b")), OddWords(), Texts()], setting=Setting(seed=7))
    outcome.results[0].columns["acc"][0] = np.nan
    folders.write(outcome, tmp_path, samples=True)
    back = Outcome.read(tmp_path)
    assert back.to_json() == outcome.to_json()
    assert back.setting == Setting(seed=7) and back.model == outcome.model
    assert np.isnan(back.results[0].columns["acc"][0])
    assert [result.samples for result in back.results] == [result.samples for result in outcome.results]
    assert not back.results[0].metrics
    known = back.with_metrics({"sums": Sums.metrics})
    assert known.results[0].metrics == Sums.metrics and known.result("texts").metrics == ()
    with pytest.raises(KeyError):
        back.result("other")


def test_json_for_programs_holds_no_items() -> None:
    told = run(Remembering(), [Sums()]).to_json(items=False)
    assert set(told["results"][0]) == {
        "task", "version", "shots", "chat", "items", "fewer_shots", "figures", "groups",
    }  # fmt: skip
    assert told["hornbook"] == __version__ and told["form"] == 1
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '"x"', '{"form": 1, "model": {}}', '{"form": null}'])
def test_what_is_no_outcome_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match=FILE):
        Outcome.read(tmp_path)


def test_an_outcome_of_a_later_hornbook_is_refused(tmp_path: Path) -> None:
    told = run(Remembering(), [Sums(2)]).to_json()
    (tmp_path / FILE).write_text(json.dumps({**told, "form": 99}))
    with pytest.raises(DataError, match=r"form 99.*up to 1"):
        Outcome.read(tmp_path)


def test_a_damaged_sample_is_named_with_its_line(tmp_path: Path) -> None:
    folders.write(run(Remembering(), [Sums(3)]), tmp_path, samples=True)
    path = tmp_path / samples_file("sums")
    path.write_text(path.read_text() + '{"id": 3}\n')
    with pytest.raises(DataError, match="line 4 is no sample"):
        Outcome.read(tmp_path)


def test_files_of_samples_are_told_apart_whatever_tasks_are_called() -> None:
    names = [
        samples_file(name) for name in ("boolq", "perplexity:a/b.txt", "perplexity:a-b.txt", "../../etc/x", "中文")
    ]
    assert len(set(names)) == 5 and names[0] == "samples-boolq.jsonl"
    assert not any("/" in name or ".." in name.removeprefix("samples-..-..") for name in names)


def test_a_folder_is_named_by_model_tasks_and_what_makes_answers_others(home: Path) -> None:
    settings = Settings.load()
    model = Identity("smollm2:135m", "smollm2:135m", "ab" * 32, "native avx2", 8192)
    first = folders.folder_for(settings, model, [Sums(), Words()], Setting())
    assert first.parent == home / "evals" and first.name.startswith("smollm2-135m-sums+words-")
    same = replace(model, source="elsewhere")
    assert folders.folder_for(settings, same, [Sums(), Words()], Setting()) == first
    others = [
        folders.folder_for(settings, replace(model, fingerprint="cd" * 32), [Sums(), Words()], Setting()),
        folders.folder_for(settings, replace(model, runs_on="torch cpu"), [Sums(), Words()], Setting()),
        folders.folder_for(settings, model, [Sums()], Setting()),
        folders.folder_for(settings, model, [Sums(), Words()], Setting(shots=3)),
        folders.folder_for(settings, model, [Sums(), Words()], Setting(system="x")),
    ]
    assert len({first, *others}) == 6
    many = folders.folder_for(settings, model, [Sums(name=f"a/b:{n}") for n in range(99)], Setting())
    assert many.parent == first.parent and len(many.name) < 150


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be written"):
        folders.write(run(Remembering(), [Sums(2)]), tmp_path / "file" / "below")
    with pytest.raises(StoreError, match="cannot be written"):
        run(Remembering(), [Sums(2)], folder=tmp_path / "file" / "below")
