"""TensorBoard's event files: what its own reader finds in them, and the error where the package is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fake_runs import make_run
from hornbook.errors import StoreError, UsageError
from hornbook.train import events
from hornbook.train.events import Events
from hornbook.train.loop import Step


def made(step: int, loss: float) -> Step:
    return Step(step, loss, {}, labels=3, rate=1e-4, gradient_norm=float("nan"), seconds=0.1, tokens=5, memory=6)


def test_a_run_that_goes_on_shows_what_led_to_its_weights(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = make_run(tmp_path / "run", 6, every=2)
    with Events(folder) as first:
        first.validation(0, 100.0)
        for step in (1, 2, 3, 4, 5, 6):
            first(made(step, 100.0))
    with Events(folder) as again:
        again(made(5, 7.0))
        again.validation(5, 8.0)
    read = EventAccumulator(str(folder / "events"))
    read.Reload()
    losses = {one.step: one.tensor_proto.float_val[0] for one in read.Tensors("train/loss")}
    assert list(losses) == [1, 2, 3, 4, 5] and losses[5] == 7.0 and losses[1] < 3
    assert [one.step for one in read.Tensors("held-out/loss")] == [0, 2, 4, 5]
    assert len(read.Tensors("train/gradient_norm")) == 4, "what is no number is left out"


def test_without_the_package_or_a_place_to_write_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("tensorboard"):
        (tmp_path / "events").write_text("a file is in the way")
        with pytest.raises(StoreError, match="cannot be written"), Events(tmp_path) as writing:
            writing(made(1, 1.0))
    monkeypatch.setattr(events, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="tensorboard is not installed"):
        Events(tmp_path)
