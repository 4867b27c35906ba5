"""IFEval: instructions whose obedience a program can check (arXiv 2311.07911), as lm-evaluation-harness' ifeval has it.

A prompt counts as followed where all its instructions are (prompt level), each instruction counts for itself (instruction
level); strictly, or after a line around the answer and the asterisks of Markdown are left out (loosely).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from hornbook.errors import DataError
from hornbook.evals.data import Data, Row, field
from hornbook.evals.instructions.kinds import Instruction, followed, loosely_followed
from hornbook.evals.metric import Metric, ratio
from hornbook.evals.prompting import framed
from hornbook.evals.registry import Kinds, plain
from hornbook.evals.task import Answer, Grade, Item, Request, Setting, Task, Writing
from hornbook.evals.written import read_items, written
from hornbook.types import SamplingParams

_FILES = (
    "ifeval_input_data.jsonl",
    "instruction_following_eval/data/input_data.jsonl",
    "ifeval.jsonl",
    "ifeval.jsonl.gz",
)
_SAMPLING = SamplingParams(temperature=0.0, max_tokens=1280)


class IFEval(Task):
    """Columns of a grade: the two of the prompt, 0 or 1; the counts of ``instructions``, and of those followed."""

    name = "ifeval"
    version = "4"
    chat = True
    metrics = (
        Metric("prompt_level_strict_acc"),
        Metric("inst_level_strict_acc", total=ratio("followed_strict", "instructions")),
        Metric("prompt_level_loose_acc"),
        Metric("inst_level_loose_acc", total=ratio("followed_loose", "instructions")),
    )

    def __init__(self, data: Data) -> None:
        self._data = data

    def items(self) -> Sequence[Item]:
        return self._items

    @cached_property
    def _items(self) -> list[Item]:
        return read_items(self._data.find(self.name, *_FILES, hub="google/IFEval")[:1], _item)

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        prompt = framed(self, item, setting, lambda one: str(one.data["prompt"]), self.target)
        return (Writing(prompt, _SAMPLING),)

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        response = written(answers)
        told: Sequence[Instruction] = item.data["instructions"]
        strict = sum(followed(one, response) for one in told)
        loose = sum(loosely_followed(one, response) for one in told)
        return {
            "prompt_level_strict_acc": float(strict == len(told)),
            "prompt_level_loose_acc": float(loose == len(told)),
            "followed_strict": float(strict),
            "followed_loose": float(loose),
            "instructions": float(len(told)),
        }

    def target(self, item: Item) -> str:
        """The instructions, one a line."""
        return "\n".join(map(str, item.data["instructions"]))


def _item(row: Row, id: str) -> Item:
    names, given = field(row, "instruction_id_list", list), field(row, "kwargs", list)
    if not names or len(names) != len(given) or not all(isinstance(one, dict) for one in given):
        raise DataError(
            f"{row.place}: {len(names)} names of instructions, and {len(given)} sets of parameters",
            "Give one {} for each name.",
        )
    instructions = tuple(Instruction.read(str(name), one, row.place) for name, one in zip(names, given, strict=True))
    key = row.value.get("key")
    return Item(id if key is None else str(key), {"prompt": field(row, "prompt", str), "instructions": instructions})


TASKS: Kinds = {
    "ifeval": plain("instructions that a program can check: lengths, words, layout, language", IFEval),
}
