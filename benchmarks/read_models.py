"""How fast a GGUF file opens, gives its vocabulary and is dequantised whole, beside the gguf package.

python benchmarks/read_models.py MODEL.gguf...
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from hornbook.checkpoint.dequantize import THREADS
from hornbook.checkpoint.gguf import GGUF


def best(work: Callable[[], Any], times: int = 3) -> float:
    """Seconds of the fastest of a few runs."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def dequantise(path: Path) -> None:
    with GGUF.open(path) as model:
        for name in model.tensors:
            model.tensor(name)


def dequantise_reference(reader: gguf.GGUFReader) -> None:
    with np.errstate(all="ignore"):
        for tensor in reader.tensors:
            gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def main() -> None:
    print(f"threads: {THREADS}; seconds, best of 3 (of 1 for the gguf package)")
    print("| model | values | open | vocabulary | dequantise all | gguf: open | gguf: dequantise all |")
    print("|---|---|---|---|---|---|---|")
    for path in map(Path, sys.argv[1:]):
        values = sum(int(np.prod(info.shape)) for info in GGUF.open(path).tensors.values())
        opening = best(lambda path=path: GGUF.open(path))
        vocabulary = best(lambda path=path: GGUF.open(path).metadata["tokenizer.ggml.tokens"]) - opening
        ours = best(lambda path=path: dequantise(path)) - opening
        reader: list[gguf.GGUFReader] = []
        their_opening = best(lambda path=path, reader=reader: reader.append(gguf.GGUFReader(path)), 1)
        theirs = best(lambda reader=reader: dequantise_reference(reader[0]), 1)
        figures = " | ".join(f"{x:.2f}" for x in (opening, vocabulary, ours, their_opening, theirs))
        print(f"| {path.stem} | {values / 1e6:.0f} M | {figures} |")


if __name__ == "__main__":
    main()
