"""A program that trains a tiny model in a folder, once for each line of its input, in a process of its own each time.

The line is JSON: {"folder": ..., and what `go` takes}. It answers with the process's id, then with how it ended, as a line each.
Importing torch takes seconds and a fork takes none, so that a test can kill many trainings.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from hornbook.errors import HornbookError
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer
from hornbook.train import optim, schedule
from hornbook.train.average import MovingAverage
from hornbook.train.batch import Batch
from hornbook.train.fit import Whole, fit
from hornbook.train.folder import RunFolder
from hornbook.train.initialise import initialise
from hornbook.train.losses import causal_lm
from hornbook.train.precision import make

CONFIG = ModelConfig(
    vocab_size=31, layers=2, width=16, heads=2, kv_heads=1, head_width=8, feedforward_width=24, context_length=32,
    dropout=0.1, pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip


class Draws:
    """Endless batches, each drawn by its number."""

    def __init__(self, at: int = 0) -> None:
        self.at = at

    def __iter__(self) -> Iterator[Batch]:
        while True:
            draw = torch.Generator().manual_seed(self.at)
            self.at += 1
            ids = torch.randint(31, (3, int(torch.randint(4, 12, (), generator=draw))), generator=draw)
            yield Batch(ids, ids, rows=tuple(range(3 * self.at - 3, 3 * self.at)))

    def state(self) -> dict[str, Any]:
        return {"at": self.at}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.at = state["at"]


def held_out() -> list[Batch]:
    source = iter(Draws(10_000))
    return [next(source) for _ in range(2)]


def go(
    folder: Path,
    *,
    steps: int = 12,
    optimizer: str = "adamw",
    precision: str = "float32",
    rate: float = 0.01,
    slow: float = 0.0,
    spoil: int = 0,
    die_after: int = 0,
    say: Any = print,
) -> None:
    """Train as little as it takes. ``slow``: seconds that a step lasts; ``spoil``: the step before which a weight is lost;
    ``die_after``: the step after which, unsaved, the process is killed."""
    torch.manual_seed(3)
    model = initialise(Transformer(CONFIG), generator=torch.Generator().manual_seed(0))
    numbers = make(precision)
    trained = numbers.take(model.named_parameters())
    chosen = optim.make(optimizer, trained, rate=rate, weight_decay=0.1)
    mean = MovingAverage(trained, decay=0.9, changed=numbers.settle)

    def dawdle(step: Any) -> None:
        time.sleep(slow)
        if step.step == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if step.step + 1 == spoil:
            with torch.no_grad():
                trained["norm.weight"].fill_(torch.nan)
                numbers.settle()

    with RunFolder(folder) as run:
        asked = {"recipe": "tiny", "training": {"steps": steps, "rate": rate, "optimizer": optimizer}}
        run.begin(asked, model="none", steps=steps, say=say)
        fit(
            model, Draws(), causal_lm(), chosen,
            folder=run, checkpoints=Whole(run.checkpoints, trained, chosen), steps=steps, accumulate=2, clip=1.0,
            schedule=schedule.cosine(steps, warmup=3), precision=numbers, average=mean, seed=5, save_every=3, keep=2,
            validate=held_out, validate_every=4, keep_best=True, on_step=[dawdle], say=say,
        )  # fmt: skip
        run.finish()


def _die_at(operation: int) -> None:
    """Kill this process, as the system would, right before the n-th thing that is made final on the disk."""
    left = [operation]

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*given: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **more)

        setattr(os, name, call)

    for name in ("rename", "replace", "fsync"):
        counted(name)


def _child(asked: dict[str, Any]) -> int:
    sys.stdout = sys.stderr = (Path(asked["folder"]).parent / "said.txt").open("a", buffering=1)
    if "die_at" in asked:
        _die_at(asked.pop("die_at"))
    if "file_size" in asked:
        size = asked.pop("file_size")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    folder = Path(asked.pop("folder"))
    try:
        go(folder, **asked)
    except HornbookError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    with TemporaryDirectory() as nowhere:
        go(Path(nowhere), steps=2, say=lambda word: None)  # what is imported late is there before the forks
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = _child(json.loads(line))
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
