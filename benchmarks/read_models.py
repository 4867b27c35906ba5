"""How fast a GGUF file opens, gives its vocabulary and is dequantised whole, beside the gguf package.

    python benchmarks/read_models.py MODEL.gguf...

Prints the table of docs/results/reading-models.md. Processor seconds count all threads and are what compares on a
machine that is busy with other things.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from hornbook.checkpoint.dequantize import THREADS
from hornbook.checkpoint.gguf import GGUF


class Seconds(NamedTuple):
    wall: float
    processor: float


def best(work: Callable[[], Any], times: int) -> Seconds:
    """The fastest of a few runs."""
    runs = []
    for _ in range(times):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        runs.append(Seconds(time.perf_counter() - wall, time.process_time() - processor))
    return Seconds(min(run.wall for run in runs), min(run.processor for run in runs))


def open_with_vocabulary(path: Path) -> None:
    with GGUF.open(path) as model:
        _ = model.metadata["tokenizer.ggml.tokens"]


def dequantise(model: GGUF) -> None:
    for name in model.tensors:
        model.tensor(name)


def dequantise_reference(reader: gguf.GGUFReader) -> None:
    with np.errstate(all="ignore"):
        for tensor in reader.tensors:
            gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def main() -> None:
    print(f"{THREADS} threads; the fastest of 8 runs, of the gguf package 1 to open and 2 to dequantise\n")
    print("| | values | what | Hornbook, wall | Hornbook, processor | gguf package, processor |")
    print("|---|---|---|---|---|---|")
    for path in map(Path, sys.argv[1:]):
        model, readers = GGUF.open(path), []
        values = f"{sum(int(np.prod(info.shape)) for info in model.tensors.values()) / 1e6:.0f} M"
        opening = best(partial(GGUF.open, path), 8)
        whole = best(partial(open_with_vocabulary, path), 8)
        their_opening = best(lambda path=path, readers=readers: readers.append(gguf.GGUFReader(path)), 1)
        ours = best(partial(dequantise, model), 8)
        theirs = best(partial(dequantise_reference, readers[0]), 2)
        for what, a, b in (
            ("open", opening, None),
            ("open, with the vocabulary", whole, their_opening),
            ("dequantise all", ours, theirs),
        ):
            theirs_shown = f"{b.processor:.2f} s" if b else ""
            print(f"| {path.stem} | {values} | {what} | {a.wall:.2f} s | {a.processor:.2f} s | {theirs_shown} |")


if __name__ == "__main__":
    main()
