"""What is measured, in which order, and what is made of it.

Every round goes through all programs before the next begins, so that a machine that grows slower is slow for each of them;
a figure is the median of its rounds, and a ratio is of two medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Asked = dict[str, Any]


class Program(Protocol):
    name: str

    def __call__(self, **request: Any) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Measure:
    """One row: what is asked of a program, and the figure that its answer gives."""

    key: str
    title: str
    unit: str
    asked: Asked
    more_is_better: bool = True

    def figure(self, answer: Mapping[str, float | None], file_bytes: int) -> float | None:
        """None where a program cannot tell."""
        if self.unit == "tokens/s":
            tokens = self.asked["tokens"] * self.asked.get("batch", 1)
            seconds = answer["seconds"]
            return tokens / seconds if seconds and seconds > 0 else None
        if self.unit == "ms":
            return 1000 * float(answer["seconds"] or 0)
        if self.unit == "% of the first":
            return 100 * float(answer["second"] or 0) / float(answer["first"] or 1)
        peak = answer["peak"]
        return None if peak is None else (peak - file_bytes) / 1e6


STEPS = {1: 96, 4: 48, 8: 32, 16: 32, 64: 16}  # tokens of each answer, so that every batch takes about as long


def decode(batch: int, prompt: int = 16) -> Measure:
    title = "decode, one answer" if batch == 1 else f"decode, {batch} at once"
    asked = {"measure": "decode", "batch": batch, "tokens": STEPS[batch], "prompt": prompt}
    return Measure(f"decode_{batch}", title, "tokens/s", asked)


def prefill(tokens: int) -> Measure:
    return Measure(
        f"prefill_{tokens}", f"prefill, {tokens:,} tokens", "tokens/s", {"measure": "prefill", "tokens": tokens}
    )


# The memory first: a process's peak is that of all it has done.
MEMORY = Measure(
    "memory", "peak memory beyond the file, 2,048 tokens", "MB", {"measure": "memory", "tokens": 2048}, False
)
FIRST_TOKEN = Measure(
    "first_token", "time to first token, 10 tokens", "ms", {"measure": "prefill", "tokens": 10}, False
)
SHARED = Measure(
    "shared_prefix", "a second prompt with the same 1,500 tokens", "% of the first",
    {"measure": "shared_prefix", "tokens": 1500, "tail": 20}, False,
)  # fmt: skip
ALL = (MEMORY, FIRST_TOKEN, *map(decode, (1, 4, 16, 64)), prefill(512), prefill(2048), SHARED)


@dataclass(slots=True)
class Row:
    """The figures of one measure: program -> one a round; ``failed``: program -> why it has none."""

    measure: Measure
    figures: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def median(self, program: str) -> float | None:
        values = self.figures.get(program)
        return statistics.median(values) if values else None

    def ratio(self, program: str, other: str) -> float | None:
        """How many times better ``program`` is than ``other``."""
        mine, theirs = self.median(program), self.median(other)
        if not mine or not theirs or mine < 0 or theirs < 0:
            return None
        return mine / theirs if self.measure.more_is_better else theirs / mine

    def to_json(self) -> dict[str, Any]:
        names = list(self.figures)
        return {
            "measure": self.measure.key,
            "title": self.measure.title,
            "unit": self.measure.unit,
            "asked": self.measure.asked,
            "figures": {name: [round(value, 3) for value in values] for name, values in self.figures.items()},
            "median": {name: _rounded(self.median(name)) for name in names},
            "ratio": {other: _rounded(self.ratio(names[0], other)) for other in names[1:]} if names else {},
            "failed": self.failed,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def run(measure: Measure, programs: Sequence[Program], rounds: int, file_bytes: int) -> Row:
    """``rounds`` rounds of one measure, and one before that does not count. What a program cannot do is kept as its failure."""
    row = Row(measure, {program.name: [] for program in programs})
    once = measure is MEMORY
    for number in range(1 if once else rounds + 1):
        for program in programs:
            if program.name in row.failed:
                continue
            try:
                figure = measure.figure(program(**measure.asked), file_bytes)
            except Exception as error:
                row.failed[program.name] = str(error)
                continue
            if figure is not None and (once or number):
                row.figures[program.name].append(figure)
    return row
