"""A run's folder: what is written into it, what is cut from it, and what is refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from hornbook.errors import StoreError, TrainingStopped, UsageError
from hornbook.train.folder import RunFolder, differences, read_state, running
from hornbook.train.guard import Signals
from hornbook.train.loop import Step

RECIPE = {"recipe": "sft", "training": {"rate": 1e-5, "keep": 2}, "data": [{"path": "文書/données.jsonl"}]}


def step(number: int) -> Step:
    return Step(number, 2.5, {"next token": 2.5}, 7, 1e-3, 0.5, 0.01, 9, 1 << 20)


def pretend_checkpoint(folder: Path) -> None:
    (folder / "checkpoints" / "step-000002").mkdir(parents=True)


def quiet(word: str) -> None:
    raise AssertionError(word)


def test_lines_after_the_step_and_half_lines_are_cut(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.begin(RECIPE, steps=9, say=quiet)
        for number in range(1, 5):
            run.step(step(number))
            run.sample(number, "¿Qué?", "それは…")
        run.validation(4, float("nan"), 3, 0.1)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "lo')
    whole = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert json.loads(whole[4]) == {"step": 4, "validation": {"loss": None, "labels": 3, "seconds": 0.1}}
    for cut, left in ((4, 5), (2, 2), (0, 0)):
        with RunFolder(tmp_path) as run:
            run.begin(RECIPE, steps=9, say=quiet)
            run.cut(cut)
        assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(whole[:left])
        assert len((tmp_path / "samples.jsonl").read_text("utf-8").splitlines()) == min(cut, 4)
    with RunFolder(tmp_path) as run:
        run.begin(RECIPE, steps=9, say=quiet)
        run.validation(0, 1.0, 1, 0.1)
    with RunFolder(tmp_path) as run:
        run.begin(RECIPE, steps=9, say=quiet)
        run.cut(None)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"", "without a checkpoint nothing was before the first step"


def test_a_changed_recipe_is_told_key_by_key_and_some_keys_are_free(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.begin(RECIPE, say=quiet)
    pretend_checkpoint(tmp_path)
    with RunFolder(tmp_path) as run:
        run.begin(RECIPE, say=quiet)
        run.begin({**RECIPE, "training": {"rate": 1e-5, "keep": 3}}, free=["training.keep"], say=quiet)
        with pytest.raises(UsageError, match="training.rate was 1e-05 and is 0.5; seed was not given and is 1"):
            run.begin({**RECIPE, "training": {"rate": 0.5, "keep": 3}, "seed": 1}, say=quiet)
    (tmp_path / "recipe.yaml").write_text("a: [", "utf-8")
    with RunFolder(tmp_path) as run, pytest.raises(StoreError, match="recipe.yaml cannot be read"):
        run.begin(RECIPE, say=quiet)


def test_differences_go_down_to_what_differs_and_are_short() -> None:
    assert differences({"a": {"b": [1, 2]}, "c": None}, {"a": {"b": [1, 2]}}) == []
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 2, "c": 3}}, {"a.c"}) == ["a.b was 1 and is 2"]
    assert differences({"a": {"b": 1}}, {"a": None}) == ['a was {"b": 1} and is not given']
    (long,) = differences({"text": "x" * 500}, {"text": "y"})
    assert len(long) < 100 and "..." in long


def test_other_versions_and_another_number_of_threads_are_told(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.begin(RECIPE, say=quiet)
    environment = json.loads((tmp_path / "environment.json").read_text("utf-8"))
    environment["versions"]["torch"], environment["threads"] = "1.13", 96
    (tmp_path / "environment.json").write_text(json.dumps(environment), "utf-8")
    pretend_checkpoint(tmp_path)
    words: list[str] = []
    with RunFolder(tmp_path) as run:
        run.begin(RECIPE, say=words.append)
    assert len(words) == 1 and 'torch was "1.13" and is' in words[0]


@pytest.mark.parametrize(
    ("error", "status", "what"),
    [
        (TrainingStopped("stopped after step 3"), "stopped", "stopped after step 3"),
        (KeyboardInterrupt(), "stopped", "interrupted at once"),
        (ZeroDivisionError("division by zero"), "failed", "ZeroDivisionError: division by zero"),
    ],
)
def test_how_a_run_ended_is_written(tmp_path: Path, error: BaseException, status: str, what: str) -> None:
    with pytest.raises(type(error)), RunFolder(tmp_path) as run:
        run.begin(RECIPE, model="smollm2:135m", steps=9, say=quiet)
        run.step(step(3))
        assert running(tmp_path) and read_state(tmp_path)["status"] == "running"
        raise error
    state = read_state(tmp_path)
    assert (state["status"], state["step"], state["steps"], state["model"]) == (status, 3, 9, "smollm2:135m")
    assert state["error"].startswith(what) and state["ended"] and not running(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(StoreError, match="file/run cannot be written"), RunFolder(tmp_path / "file" / "run"):
        pass
    assert read_state(tmp_path / "nowhere") == {} and not running(tmp_path / "nowhere")


def test_the_first_signal_is_noted_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.asked == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
