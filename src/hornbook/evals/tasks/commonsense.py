"""Everyday sense: BoolQ (arXiv 1905.10044), PIQA (arXiv 1911.11641), WinoGrande (arXiv 1907.10641), COPA (Roemmele et al. 2011).

Prompts are those of lm-evaluation-harness; of BoolQ and COPA those of SuperGLUE. Files are read as they are published, by the
hub, by SuperGLUE or by the authors, and with rows that hold a prompt: ``query`` or ``context_options``, ``choices``, ``gold``.
"""

from __future__ import annotations

import re

from hornbook.errors import DataError
from hornbook.evals.choices import ACC, Files, MultipleChoice, chosen, cut
from hornbook.evals.clusters import named
from hornbook.evals.data import Data, Row, field
from hornbook.evals.prompting import Framing
from hornbook.evals.registry import Kinds, plain
from hornbook.evals.task import Item, Likelihood, Request, Setting

_MEND = "Mend the row, or take the file the task is made for."


def boolq(data: Data) -> MultipleChoice:
    """Yes or no, from a passage."""
    files = Files(
        data, "boolq", _boolq,
        ("boolq/validation-*.parquet", "boolq/data/validation-*.parquet", "BoolQ/val.jsonl", "boolq/dev.jsonl", "boolq.jsonl",
         "boolq.jsonl.gz"),
        ("boolq/train-*.parquet", "boolq/data/train-*.parquet", "BoolQ/train.jsonl", "boolq/train.jsonl"),
        hub="aps/super_glue:boolq",
    )  # fmt: skip
    return MultipleChoice("boolq", files.items, examples=files.examples, metrics=(ACC,), version="2")


def _boolq(row: Row, id: str) -> Item:
    if "query" in row.value:
        passage, _, question = cut(row, "query", "Passage: ", "?").rpartition("\nQuestion: ")
        right = field(row, "gold", int)
        if not passage:
            raise DataError(f"{row.place}: the query has no line Question: after its passage", _MEND)
    else:
        passage, question = field(row, "passage", str), field(row, "question", str)
        right = field(row, "answer" if "answer" in row.value else "label", int)  # true and false are numbers too
        id = str(row.value.get("idx", id))
    asked = f"{passage}\nQuestion: {question}?\nAnswer:"
    return Item(id, {"question": asked, **chosen(row, ("no", "yes"), right)}, cluster=named(passage))


def piqa(data: Data) -> MultipleChoice:
    """Which of two ways reaches a goal."""
    labels = _Labels()
    files = Files(
        data, "piqa", labels.item,
        ("piqa_validation.parquet", "piqa/data/validation-*.parquet", "piqa/valid.jsonl", "physicaliqa-train-dev/dev.jsonl",
         "piqa.jsonl", "piqa.jsonl.gz"),
        ("piqa_train.parquet", "piqa/data/train-*.parquet", "piqa/train.jsonl", "physicaliqa-train-dev/train.jsonl"),
        hub="baber/piqa",
    )  # fmt: skip
    return MultipleChoice("piqa", files.items, examples=files.examples)


class _Labels:
    """PIQA's authors keep the right answers in a second file, dev-labels.lst beside dev.jsonl: a number a line."""

    def __init__(self) -> None:
        self._read: dict[str, list[str]] = {}

    def of(self, row: Row) -> int:
        path = row.path.with_name(f"{row.path.name.split('.')[0]}-labels.lst")
        if str(path) not in self._read:
            try:
                self._read[str(path)] = path.read_text("utf-8").split()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(
                    f"{row.place} has no label, and {path.name} beside it cannot be read: {error}",
                    "Put the labels' file there.",
                ) from error
        labels = self._read[str(path)]
        if row.number >= len(labels) or labels[row.number] not in ("0", "1"):
            says = f"says {labels[row.number]!r}" if row.number < len(labels) else f"ends after {len(labels)} lines"
            raise DataError(f"{row.place}: {path.name} {says}", "Take both files from the same place.")
        return int(labels[row.number])

    def item(self, row: Row, id: str) -> Item:
        if "query" in row.value:
            goal, options, right = (
                cut(row, "query", "Question: ", "\n"),
                field(row, "choices", list),
                field(row, "gold", int),
            )
        else:
            goal, options = field(row, "goal", str), [field(row, "sol1", str), field(row, "sol2", str)]
            right = field(row, "label", int) if "label" in row.value else self.of(row)
        return Item(id, {"question": f"Question: {goal}\nAnswer:", **chosen(row, options, right)})


class Cloze(MultipleChoice):
    """Of some sentences with one end, the one after which the end is likeliest: partial evaluation (Trinh and Le, arXiv
    1806.02847). ``options`` are the beginnings, and an item's ``ending`` is what is scored."""

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        ending = self.lead(item, setting) + item.data["ending"]
        return tuple(Likelihood(self.context(item, setting, option), (ending,)) for option in self.options(item))

    def solution(self, item: Item) -> str:
        return str(item.data["ending"])


def winogrande(data: Data) -> MultipleChoice:
    """Whom or what a sentence means."""
    files = Files(
        data, "winogrande", _winogrande,
        ("winogrande_xl/validation-*.parquet", "winogrande*/dev.jsonl", "winogrande.jsonl", "winogrande.jsonl.gz"),
        ("winogrande_xl/train-*.parquet", "winogrande*/train_xl.jsonl"),
        hub="allenai/winogrande:winogrande_xl",
    )  # fmt: skip
    return Cloze(
        "winogrande", files.items, lambda item: str(item.data["options"][item.data["gold"][0]]), examples=files.examples,
        metrics=(ACC,),
    )  # fmt: skip


_TWIN = re.compile(r"(.+)-[12]")  # the authors' ids: two sentences that differ in a word or two are ...-1 and ...-2


def _winogrande(row: Row, id: str) -> Item:
    twins = None
    if "context_options" in row.value:
        options, ending = field(row, "context_options", list), field(row, "continuation", str)
        right = field(row, "gold", int)
    else:
        before, gap, ending = field(row, "sentence", str).partition("_")
        if not gap:
            raise DataError(f"{row.place}: the sentence has no gap (_)", _MEND)
        options = [before + field(row, name, str) for name in ("option1", "option2")]
        right = {"1": 0, "2": 1}.get(field(row, "answer", str), -1)
        id = str(row.value.get("qID", id))
        twins = _TWIN.fullmatch(id) if "qID" in row.value else None
    return Item(id, {"ending": ending.strip(), **chosen(row, options, right)}, cluster=twins[1] if twins else "")


def copa(data: Data) -> MultipleChoice:
    """What follows from something, or what it follows from."""
    files = Files(
        data, "copa", _copa, ("copa/validation-*.parquet", "COPA/val.jsonl", "copa.jsonl", "copa.jsonl.gz"),
        ("copa/train-*.parquet", "COPA/train.jsonl"), hub="aps/super_glue:copa",
    )  # fmt: skip
    two = Framing(lead="  ")  # lm-evaluation-harness' options begin with a space of their own
    return MultipleChoice("copa", files.items, examples=files.examples, framing=two, metrics=(ACC,))


_LINKS = {"cause": "because", "effect": "therefore"}


def _copa(row: Row, id: str) -> Item:
    if "query" in row.value:
        told, _, link = field(row, "query", str).rpartition(", ")
        options, right = field(row, "choices", list), field(row, "gold", int)
    else:
        told = field(row, "premise", str).strip()[:-1]  # without its period
        link = _LINKS.get(field(row, "question", str), "")
        options = [field(row, "choice1", str), field(row, "choice2", str)]
        right = field(row, "label", int)
        id = str(row.value.get("idx", id))
    if link not in _LINKS.values():
        raise DataError(f"{row.place} asks neither for a cause nor for an effect", _MEND)
    chosen(row, options, right)
    return Item(id, {"question": f"{told} {link}", **chosen(row, [one[0].lower() + one[1:] for one in options], right)})


TASKS: Kinds = {
    "boolq": plain("yes or no, from a passage", boolq),
    "copa": plain("a cause or an effect", copa),
    "piqa": plain("how things are done", piqa),
    "winogrande": plain("whom or what a sentence means", winogrande),
}
