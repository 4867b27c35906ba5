"""A person's own tasks: a YAML file, a Python file, or nothing but questions and answers.

    mine.jsonl   rows with a question and an answer, or options and which is right (hornbook.evals.own_rows); tables too
    mine.yaml    kind: choice | answer | judged, and where the questions are; or the questions themselves
    mine.py      ``task``, a Task (or a function that makes one), or TASKS, several

docs/evals.md shows each in ten lines.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hornbook.data.compression import inner_suffix
from hornbook.data.plain_yaml import loaded, nearest
from hornbook.errors import DataError, UsageError
from hornbook.evals import filters, own_rows
from hornbook.evals.choices import MultipleChoice
from hornbook.evals.data import Row, rows
from hornbook.evals.filters import Filter
from hornbook.evals.judge import CRITERIA, Judged
from hornbook.evals.metrics import short
from hornbook.evals.metrics.exact import exact_match, same_number
from hornbook.evals.own_rows import Form
from hornbook.evals.prompting import Framing
from hornbook.evals.task import Item, Task
from hornbook.evals.written import Measure, Worth, Written, read_items

_ENDINGS = (".yaml", ".yml", ".py", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_PACKED = (".gz", ".zst", ".zstd")
_LIKE = "docs/evals.md shows how such a file is written."

Reader: TypeAlias = Callable[[Row, str], Item]


def is_own(name: str) -> bool:
    """Whether a name is that of a file of one's own."""
    return name.lower().endswith((*_ENDINGS, *_PACKED))


def read(path: str) -> list[Task]:
    """The tasks of a file. Raises UsageError where it is none, DataError (file and line) where its questions cannot be read."""
    place = Path(path).expanduser()
    if not place.is_file():
        raise UsageError(f"{path} is not there", "Check the path: a file of your own questions is expected.")
    suffix = inner_suffix(place)
    if suffix == ".py":
        return _of_python(place)
    if suffix in (".yaml", ".yml"):
        return [_of_yaml(place)]
    if suffix not in _ENDINGS:
        raise UsageError(f"{path} is of no kind that holds questions", f"There are {', '.join(_ENDINGS)}.")
    return [_of_rows(place)]


# --------------------------------------------------------------------------------------------------------- rows alone


def _of_rows(path: Path) -> Task:
    """As the first row says: options, or a right answer."""
    first = next(rows([path]), None)
    if first is None:
        raise DataError(f"no questions in {path}", "Write a question and an answer a line.")
    stem = path.name.split(".")[0]
    made = _Choice(kind="choice") if own_rows.is_choice(first) else _Answer(kind="answer")
    return made.task(stem, path.parent, [path])


# --------------------------------------------------------------------------------------------------------------- YAML


class _Own(BaseModel):
    """What every kind can say. Columns are those of the questions' rows."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False)

    name: str = ""
    version: str = "1"
    data: str | list[str] | None = None  # files of questions, from where this one lies
    items: list[dict[str, Any]] | None = Field(default=None, min_length=1)  # or the questions themselves
    examples: str | list[str] | list[dict[str, Any]] | None = None  # solved ones; left out: the other questions
    shots: int = Field(default=0, ge=0)
    chat: bool = False
    description: str = ""
    question: str | None = None  # a template
    between: str = "\n\n"
    group: str | None = None  # the column that says to what part a question belongs
    cluster: str | None = None  # that which says what it hangs on together with others; left out: ``cluster``

    def task(self, name: str, folder: Path, files: Sequence[Path] = ()) -> Task:
        raise NotImplementedError

    def _reader(self) -> Reader:
        raise NotImplementedError

    def _common(self, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
        """What all classes of tasks are given alike."""
        called, read = self.name, self._reader()
        questions = _source(self.items, files or _paths(self.data, folder), called, read)
        examples = questions
        if isinstance(self.examples, list) and self.examples and isinstance(self.examples[0], dict):
            given = [row for row in self.examples if isinstance(row, dict)]
            examples = _solved(_source(given, [], f"{called}, example", read))
        elif self.examples is not None:
            named = [self.examples] if isinstance(self.examples, str) else [str(path) for path in self.examples]
            examples = _solved(_source(None, _paths(named, folder), called, read))
        return {
            "items": questions,
            "examples": examples,
            "framing": Framing(self.description, self.between),
            "shots": self.shots,
            "chat": self.chat,
            "version": self.version,
        }


class _Choice(_Own):
    kind: Literal["choice"]
    choices: str | list[str] | None = None
    answer: str | None = None
    letters: bool = False

    def _reader(self) -> Reader:
        return own_rows.choice(
            Form(
                self.question,
                self.answer,
                self.choices,
                group=self.group,
                cluster=self.cluster,
                letters=self.letters,
                bare=self.chat,
            )
        )

    def task(self, name: str, folder: Path, files: Sequence[Path] = ()) -> Task:
        given = self.model_copy(update={"name": self.name or name})
        return MultipleChoice(given.name, **given._common(folder, files))


class _Answer(_Own):
    kind: Literal["answer"]
    answer: str | None = None
    filter: str | list[str | dict[str, str]] = ["first-line"]
    metrics: list[Literal["exact", "f1", "contains", "same", "number"]] = Field(
        default=["exact", "f1", "contains"], min_length=1
    )
    stop: str | list[str] | None = None
    max_tokens: int = Field(default=64, ge=1)

    def _reader(self) -> Reader:
        return own_rows.answer(Form(self.question, self.answer, group=self.group, cluster=self.cluster, bare=self.chat))

    def task(self, name: str, folder: Path, files: Sequence[Path] = ()) -> Task:
        given = self.model_copy(update={"name": self.name or name})
        chosen = _filter(given.filter)
        stop = [given.stop] if isinstance(given.stop, str) else given.stop
        return Written(
            given.name,
            question=lambda item: str(item.data["question"]),
            golds=lambda item: list(item.data["answers"]),
            measures=[Measure(metric, _WORTH[metric], chosen) for metric in dict.fromkeys(given.metrics)],
            stop=stop if stop is not None else [] if given.chat else ["\n"],
            max_tokens=given.max_tokens,
            **given._common(folder, files),
        )


class _Judged(_Own):
    kind: Literal["judged"]
    chat: bool = True
    judge: str = ""
    criteria: str = CRITERIA
    scale: int = Field(default=10, ge=2, le=100)
    reference: str | None = None
    against: str | None = None
    stop: str | list[str] = []
    max_tokens: int = Field(default=512, ge=1)

    def _reader(self) -> Reader:
        form = Form(
            self.question,
            reference=self.reference,
            against=self.against,
            group=self.group,
            cluster=self.cluster,
            bare=True,
        )
        return own_rows.judged(form)

    def task(self, name: str, folder: Path, files: Sequence[Path] = ()) -> Task:
        given = self.model_copy(update={"name": self.name or name})
        common = given._common(folder, files)
        if given.reference is None:
            common["examples"] = None  # nobody knows their answers
        return Judged(
            given.name,
            question=lambda item: str(item.data["question"]),
            reference=(lambda item: str(item.data["reference"])) if given.reference else None,
            against=(lambda item: str(item.data["against"])) if given.against else None,
            criteria=given.criteria,
            scale=given.scale,
            judge=given.judge,
            stop=[given.stop] if isinstance(given.stop, str) else given.stop,
            max_tokens=given.max_tokens,
            **common,
        )


_KINDS: dict[str, type[_Own]] = {"choice": _Choice, "answer": _Answer, "judged": _Judged}


def _number(text: str, golds: Sequence[str]) -> float:
    """1.0 where the last number of a text is the last number of a right answer, however it is written."""
    return same_number(filters.last_number(text), [filters.last_number(gold) for gold in golds])


_WORTH: dict[str, Worth] = {
    "exact": short.exact, "f1": short.f1, "contains": short.contains, "same": exact_match(), "number": _number,
}  # fmt: skip
_MADE: dict[str, Callable[[str], Filter]] = {"regex": filters.regex, "after": filters.after, "before": filters.before}


def _of_yaml(path: Path) -> Task:
    try:
        given = loaded(path.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", "Save the file as UTF-8.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "Check the path.") from error
    except ValueError as error:
        raise UsageError(
            f"{path} is not YAML: {error}", f"Put quotes around a text with ? or : in it. {_LIKE}"
        ) from error
    if not isinstance(given, dict):
        raise UsageError(f"{path} describes no task", _LIKE)
    kind = given.get("kind")
    if kind not in _KINDS:
        what = "does not say of which kind the task is" if kind is None else f"has a task of the kind {kind!r}"
        raise UsageError(f"{path} {what}", nearest(str(kind), _KINDS))
    config = _KINDS[kind]
    try:
        made = config.model_validate(given)
    except ValidationError as error:
        raise _refused(error, config, path) from error
    if (made.data is None) == (made.items is None):
        both = "both data and items" if made.data is not None else "neither data nor items"
        raise UsageError(
            f"{path} has {both}", "Say where the questions are, or write them into the file: one of the two."
        )
    try:
        return made.task(path.name.split(".")[0], path.parent)
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", error.remedy) from error


def _refused(error: ValidationError, config: type[BaseModel], path: Path) -> UsageError:
    first = error.errors()[0]
    key = str(first["loc"][0])
    kind = config.model_fields["kind"].annotation.__args__[0]  # type: ignore[union-attr]
    if first["type"] == "extra_forbidden":
        return UsageError(f"{path}: a task of the kind {kind} takes no {key!r}", nearest(key, config.model_fields))
    if key == "metrics" and first["type"] == "literal_error":
        return UsageError(f"{path}: there is no metric {first['input']!r}", nearest(str(first["input"]), _WORTH))
    return UsageError(f"{path}: {key}: {first['msg'].lower()} (given: {first['input']!r:.60})", _LIKE)


def _filter(given: str | Sequence[str | dict[str, str]]) -> Filter:
    """Named filters, one after the other; some are made of what is said behind their name. Raises UsageError."""
    made: list[Filter] = []
    for one in [given] if isinstance(given, str) else given:
        name, said = (one, None) if isinstance(one, str) else next(iter(one.items()), ("", None))
        if isinstance(one, str) and name in filters.NAMED:
            made.append(filters.NAMED[name])
        elif isinstance(one, dict) and len(one) == 1 and name in _MADE and said:
            try:
                made.append(_MADE[name](said))
            except re.error as error:
                raise UsageError(
                    f"the pattern {said!r} cannot be read: {error}", "It is a regular expression."
                ) from error
        else:
            raise UsageError(
                f"there is no filter {one!r}", nearest(name, [*filters.NAMED, *(f"{key}: ..." for key in _MADE)])
            )
    return filters.chain(*made)


def _paths(given: str | Sequence[str] | None, folder: Path) -> list[Path]:
    paths = [folder / Path(one).expanduser() for one in ([given] if isinstance(given, str) else given or [])]
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"the questions {path} are not there", "Check the path: it counts from where the task's file lies."
            )
    return paths


def _source(
    given: Sequence[dict[str, Any]] | None, files: Sequence[Path], name: str, read: Reader
) -> Callable[[], list[Item]]:
    def items() -> list[Item]:
        if given is None:
            return read_items(files, read)
        here = [Row(f"{name}, item {number + 1}", number, row) for number, row in enumerate(given)]
        return [read(row, f"{name}-{row.number}") for row in here]

    return items


def _solved(items: Callable[[], list[Item]]) -> Callable[[], list[Item]]:
    """Examples of their own: what is numbered alike in both must not be taken for the question itself."""
    return lambda: [Item(f"example {item.id}", item.data, item.group) for item in items()]


# ------------------------------------------------------------------------------------------------------------- Python


def _of_python(path: Path) -> list[Task]:
    """A person's own code, which is run as any module that is imported."""
    spec = importlib.util.spec_from_file_location(f"hornbook_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported", _LIKE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        found = getattr(module, "TASKS", None) or getattr(module, "task", None)
        found = found() if callable(found) and not isinstance(found, Task) else found
    except (DataError, UsageError):
        raise
    except Exception as error:
        inside = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f", line {inside[-1].lineno}" if inside else f", line {getattr(error, 'lineno', None) or 1}"
        raise UsageError(f"{path}{where}: {type(error).__name__}: {error}", "Mend the file.") from error
    several = list(found) if isinstance(found, list | tuple) else [found]
    made = [one for one in several if isinstance(one, Task)]
    if not made or len(made) < len(several):
        raise UsageError(f"{path} has no task", "Call a Task `task`, or several TASKS.")
    return made
