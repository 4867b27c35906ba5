"""A run that is killed, stopped, out of disk or out of numbers loses nothing that it had saved, and ends as if nothing had been.

The trainings run in processes of their own (tests/train/tiny_training.py), which are really killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hornbook.train.folder import read_state, running

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the program that trains forks")


class Trainer:
    """The program, which trains once for each line that it is given."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("tiny_training.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self._runs = False

    def start(self, folder: Path, **asked: Any) -> int:
        """-> the id of the process that trains."""
        assert self._process.stdin is not None
        if self._runs:  # a test failed before it saw the end of its training
            self.end()
        self._runs = True
        self._process.stdin.write(json.dumps({"folder": str(folder), **asked}) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def end(self) -> int:
        """How it ended: its exit code, or minus the signal."""
        self._runs = False
        return int(self._line())

    def run(self, folder: Path, **asked: Any) -> int:
        self.start(folder, **asked)
        return self.end()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the program ended"
        return line

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    trainer = Trainer()
    yield trainer
    trainer.close()


@pytest.fixture(scope="module")
def through(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("through") / "run"
    assert trainer.run(folder) == 0
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics without what time and the machine make of them."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        for one in (row, row.get("validation", {})):
            one.pop("seconds", None)
            one.pop("memory", None)
    return rows


def files(folder: Path) -> dict[str, bytes]:
    """All checkpoints, byte by byte: weights, the optimizer's states, the mean, random states, places."""
    found = sorted(path for path in (folder / "checkpoints").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def said(folder: Path) -> str:
    return (folder.parent / "said.txt").read_text("utf-8")


def assert_same(folder: Path, through: Path) -> None:
    assert read_state(folder)["status"] == "finished"
    assert lines(folder) == lines(through)
    ours, theirs = files(folder), files(through)
    assert list(ours) == list(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_a_run_writes_its_recipe_environment_state_and_a_line_a_step(through: Path) -> None:
    assert (through / "recipe.yaml").read_text("utf-8").startswith("recipe: tiny\ntraining:\n  steps: 12\n")
    assert set(json.loads((through / "environment.json").read_text("utf-8"))["versions"]) >= {"torch", "python"}
    state = read_state(through)
    assert (state["status"], state["recipe"], state["step"], state["steps"]) == ("finished", "tiny", 12, 12)
    rows = [json.loads(line) for line in (through / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "validation" in row] == [0, 4, 8, 12]
    keys = "step loss parts labels rate gradient_norm seconds tokens memory"
    assert all(set(row) == set(keys.split()) for row in rows if "loss" in row)
    assert all(row["memory"] > 1e7 and row["tokens"] >= row["labels"] > 0 for row in rows if "loss" in row)
    assert "checkpoints/step-000012/average.safetensors" in files(through)


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw8bit", "precision": "bfloat16"}], ids=["adamw", "8bit"])
def test_killed_at_any_moment_it_ends_with_the_same_bytes(
    trainer: Trainer, through: Path, tmp_path: Path, options: dict[str, str]
) -> None:
    """Killed again and again: by the clock, and right before each thing that is made final on the disk."""
    if options:
        assert trainer.run(through := tmp_path / "through", **options) == 0
    draw, folder, kills, timed = random.Random(1), tmp_path / "run", 0, 0
    for at in range(3, 60, 4):
        if trainer.run(folder, die_at=at, **options) == 0:
            break
        kills += 1
    assert kills > 3, "it was over before it could be killed"
    assert_same(folder, through)
    if options:
        return
    folder = tmp_path / "again"
    for _ in range(6):
        process = trainer.start(folder, slow=0.05, **options)
        time.sleep(draw.uniform(0.02, 0.2))
        os.kill(process, signal.SIGKILL)
        timed += trainer.end() == -signal.SIGKILL
    assert timed > 2, "three times there are more steps left than fit in the time"
    assert trainer.run(folder, **options) == 0
    assert_same(folder, through)
    assert not list(folder.rglob(".*.partial")) and not list(folder.rglob(".*.old"))


def test_each_moment_of_a_checkpoint_may_be_its_last(trainer: Trainer, through: Path, tmp_path: Path) -> None:
    """Killed once at every rename and every fsync of the first two checkpoints, each in a run of its own."""
    for at in range(2, 30, 5):
        folder = tmp_path / f"run-{at}"
        assert trainer.run(folder, die_at=at) == -signal.SIGKILL
        assert not running(folder)
        assert trainer.run(folder) == 0
        assert_same(folder, through)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_end_it_saves_and_says_so(
    trainer: Trainer, through: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "run"
    process = trainer.start(folder, slow=0.05)
    while not (folder / "metrics.jsonl").exists() or '"step": 2,' not in (folder / "metrics.jsonl").read_text("utf-8"):
        time.sleep(0.01)
    os.kill(process, number)
    assert trainer.end() == code
    state = read_state(folder)
    assert state["status"] == "stopped" and state["error"].startswith("stopped after step ")
    assert (folder / "checkpoints" / f"step-{state['step']:06}").is_dir(), "the step that it was at is saved"
    assert trainer.run(folder) == 0
    assert lines(folder) == lines(through)
    assert (
        files(folder)["checkpoints/step-000012/weights.safetensors"]
        == (files(through)["checkpoints/step-000012/weights.safetensors"])
    )


def test_a_damaged_checkpoint_is_passed_over_with_a_word(trainer: Trainer, through: Path, tmp_path: Path) -> None:
    for name, spoil in {
        "weights.safetensors": lambda old: old[:-1] + bytes([old[-1] ^ 1]),  # one bit
        "optimizer.safetensors": lambda old: old[: len(old) // 2],
        "state.json": lambda old: b"{",
        "random.safetensors": None,
    }.items():
        folder = tmp_path / name.split(".")[0]
        assert trainer.run(folder, die_after=7) == -signal.SIGKILL
        newest = max((folder / "checkpoints").glob("step-*"))
        path = newest / name
        if spoil is None:
            path.unlink()
        else:
            path.write_bytes(spoil(path.read_bytes()))
        assert trainer.run(folder) == 0
        assert f"the checkpoint {newest.name} is damaged ({name}" in said(folder)
        assert_same(folder, through)


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(trainer: Trainer, through: Path, tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk: what is behind it is not written."""
    folder = tmp_path / "run"
    assert trainer.run(folder, die_after=5) == -signal.SIGKILL
    before = files(folder)
    sizes = sorted(len(content) for content in before.values())
    assert trainer.run(folder, file_size=sizes[-1] - 100) == 1
    assert "cannot be saved" in said(folder) and "The checkpoint of step 3 is whole; make room" in said(folder)
    assert read_state(folder)["status"] == "failed"
    assert files(folder) == before, "a checkpoint was spoilt"
    assert trainer.run(folder, file_size=1200) == 1, "there is not even room for the lines"
    assert f"{folder / 'metrics.jsonl'} cannot be written" in said(folder)
    assert files(folder) == before
    assert trainer.run(folder) == 0
    assert_same(folder, through)


def test_a_loss_that_is_no_number_names_step_and_examples_and_keeps_what_was_saved(
    trainer: Trainer, through: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert trainer.run(folder, spoil=8) == 1
    state = read_state(folder)
    assert state["status"] == "failed"
    # two micro-batches of three examples are a step: the eighth has those from 42 on
    assert "step 8 has a loss of nan" in state["error"] and "of the examples 42, 43, 44, 45, 46, 47" in state["error"]
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-000003", "step-000006"]
    assert trainer.run(folder) == 0
    assert_same(folder, through)


def test_another_recipe_is_refused_with_the_difference_once_there_is_a_checkpoint(
    trainer: Trainer, through: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert trainer.run(folder, die_at=3, rate=0.5) == -signal.SIGKILL, "before there is a checkpoint"
    assert trainer.run(folder) == 0, "another recipe may begin where nothing is lost"
    assert_same(folder, through)
    before = files(folder)
    assert trainer.run(folder, rate=0.02, steps=20) == 2
    difference = "holds a run of another recipe: training.steps was 12 and is 20; training.rate was 0.01 and is 0.02"
    assert difference in said(folder)
    assert files(folder) == before and read_state(folder)["status"] == "finished"


def test_one_process_at_a_time(trainer: Trainer, tmp_path: Path) -> None:
    from hornbook.errors import UsageError
    from hornbook.train.folder import RunFolder

    folder = tmp_path / "run"
    process = trainer.start(folder, slow=0.2)
    while not running(folder) or not read_state(folder):
        time.sleep(0.01)
    with (
        pytest.raises(UsageError, match=f"is being trained in by another process \\({process}, at step"),
        RunFolder(folder),
    ):
        pass
    os.kill(process, signal.SIGKILL)
    assert trainer.end() == -signal.SIGKILL
    assert not running(folder) and read_state(folder)["status"] == "running", "nobody was there to write it"
    with RunFolder(folder):
        pass
