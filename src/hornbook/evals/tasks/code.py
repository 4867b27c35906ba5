"""Programs that have to pass tests: HumanEval (arXiv 2107.03374) and MBPP (arXiv 2108.07732).

    humaneval          one greedy answer to each problem: pass@1
    humaneval:100      100 answers, drawn at temperature 0.2 and top-p 0.95: pass@1, pass@10, pass@100

Prompts, examples, stop texts and what of an answer is run are those of lm-evaluation-harness' humaneval and mbpp; where a chat
template frames them, of its humaneval_instruct and mbpp_instruct, except that the assistant's turn is not begun for the model:
its answer is the first fenced block. Programs run in hornbook.evals.sandbox, and nowhere else.
"""

from __future__ import annotations

import math
import re
import secrets
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from hornbook.errors import DataError, UsageError
from hornbook.evals.data import Data, Row, field
from hornbook.evals.filters import Filter, after, before, chain, code_block
from hornbook.evals.metric import Metric
from hornbook.evals.prompting import Framing, drawn, framed, in_chat
from hornbook.evals.registry import Kind, Kinds
from hornbook.evals.sandbox.sandbox import Sandbox
from hornbook.evals.task import Answer, Grade, Item, Means, Question, Request, Setting, Task, Writing
from hornbook.evals.written import read_items
from hornbook.types import SamplingParams

KS = (1, 10, 100)  # of pass@k, as far as there are so many answers
MOST = 1024  # answers to one prompt
CPU_SECONDS = 3.0  # of one program with its tests, as in the benchmarks' own harnesses
SECONDS = 20.0  # of the clock: a busy machine fails nobody

_FILES = {
    "humaneval": ("HumanEval.jsonl.gz", "HumanEval.jsonl", "openai_humaneval/test-*.parquet", "humaneval.jsonl", "humaneval.jsonl.gz"),
    "mbpp": ("mbpp/full/*.parquet", "mbpp.jsonl", "mbpp.jsonl.gz"),
}  # fmt: skip
_HUMANEVAL_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_MBPP_TEST = range(11, 511)  # the paper's split: up to 10 are examples, behind 510 validation and training
_MBPP_EXAMPLES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 1)  # the first three are everybody's
_BLOCK: Filter = chain(after("</think>"), code_block)


def pass_at(k: int, answers: int, right: int) -> float:
    """How likely it is that one of k answers passes, by an unbiased estimate from more: 1 - C(n-c, k) / C(n, k), as a
    product that stays small (arXiv 2107.03374, equation 1)."""
    if answers - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(answers - right + 1, answers + 1))


class Programs(Task):
    """A task whose answers are Python, worth something where tests pass. One or several answers to each item.

    Columns of a grade: pass@k, for each k that there are answers for.
    """

    stop: tuple[str, ...]  # what ends an answer in plain text
    graded_by = "sandbox"

    def __init__(self, name: str, read: Callable[[], Sequence[Item]], answers: int = 1) -> None:
        self.name = name if answers == 1 else f"{name}:{answers}"
        self.metrics = tuple(Metric(f"pass@{k}") for k in KS if k <= answers)
        self.answers = answers
        self._read = read
        self._sandbox: Sandbox | None = None
        self._chat: bool | None = None

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        return tuple(self._read())

    def items(self) -> Sequence[Item]:
        return self._items

    def equip(self, means: Means) -> None:
        """Raises SandboxError where this machine cannot keep programs apart, and nobody said that it need not."""
        self._sandbox = Sandbox.find(allow_unsafe=means.unsafe_code)

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        self._chat = in_chat(self, setting)  # what of an answer is code: grades are asked for by who asked this
        self.graded_by = "sandbox, fenced code" if self._chat else "sandbox"
        sampling = SamplingParams(max_tokens=self.length(self._chat), stop=() if self._chat else self.stop)
        if self.answers > 1:
            sampling = replace(sampling, temperature=0.2, top_p=0.95, n=self.answers, seed=setting.seed)
        return (Writing(self.prompt(item, setting, self._chat), sampling),)

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        texts = [str(text) for text in answers[0]] if answers else []
        programs = [self.program(item, text) for text in texts]
        passed = {program: self.passes(program) for program in dict.fromkeys(programs)}
        right = sum(passed[program] for program in programs)
        return {f"pass@{k}": pass_at(k, len(texts), right) for k in KS if k <= len(texts)} or {"pass@1": 0.0}

    def passes(self, program: str) -> bool:
        """Whether a program runs to its end. To leave before it, with success too, is to fail."""
        if self._sandbox is None:
            self._sandbox = Sandbox.find()
        end = secrets.token_hex(16)
        run = self._sandbox.run(
            # A module, not a script: what stands under `if __name__ == "__main__"` is no part of the answer.
            f"import answer, os\nos.write(1, b'\\n{end}\\n')\n",
            files={"answer.py": program},
            seconds=SECONDS,
            cpu_seconds=CPU_SECONDS,
        )
        return run.ok and f"\n{end}\n" in run.stdout

    def program(self, item: Item, text: str) -> str:
        """An answer with the tests behind it. Where nothing was asked before, as when an answer is a reward's, it is taken for
        a chat's if it holds a fence."""
        fenced = "```" in text if self._chat is None else self._chat
        return self.tested(
            item, self.from_chat(item, text) if fenced else self.from_text(item, before(*self.stop)(text))
        )

    @abstractmethod
    def length(self, chat: bool) -> int:
        """The most tokens of an answer."""

    @abstractmethod
    def prompt(self, item: Item, setting: Setting, chat: bool) -> Question: ...

    @abstractmethod
    def from_text(self, item: Item, text: str) -> str:
        """The program that goes on from a prompt of plain text."""

    @abstractmethod
    def from_chat(self, item: Item, text: str) -> str:
        """The program that an assistant's turn holds."""

    @abstractmethod
    def tested(self, item: Item, program: str) -> str:
        """A program with what it is run with."""


class HumanEval(Programs):
    """The signature and docstring of a function, whose body is to be written."""

    stop = _HUMANEVAL_STOP

    def length(self, chat: bool) -> int:
        return 1024

    def prompt(self, item: Item, setting: Setting, chat: bool) -> Question:
        return framed(self, item, setting, _asked if chat else lambda one: str(one.data["prompt"]), self.target)

    def from_text(self, item: Item, text: str) -> str:
        return f"{item.data['prompt']}{text}"

    def from_chat(self, item: Item, text: str) -> str:
        """A whole function takes the place of the prompt's, imports and helpers before which stay; a body goes into it."""
        prompt, block = str(item.data["prompt"]), _BLOCK(text)
        head = re.compile(rf"^def {re.escape(item.data['entry_point'])}\b", re.MULTILINE)
        if not head.search(block):
            return prompt + block
        return head.split(prompt, maxsplit=1)[0] + block

    def tested(self, item: Item, program: str) -> str:
        return f"{program}\n{item.data['test']}\ncheck({item.data['entry_point']})"

    def target(self, item: Item) -> str:
        return str(item.data["canonical_solution"])


class MBPP(Programs):
    """What a function should do, in a sentence, and three tests that it should pass."""

    shots = 3
    stop = ("[DONE]",)

    def examples(self) -> Sequence[Item]:
        by_id = {item.id: item for item in self._all}
        return [by_id[str(id)] for id in _MBPP_EXAMPLES if str(id) in by_id]

    @cached_property
    def _all(self) -> tuple[Item, ...]:
        return tuple(self._read())

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        found = tuple(item for item in self._all if int(item.id) in _MBPP_TEST)
        if not found:
            raise DataError(f"no problems from {_MBPP_TEST[0]} to {_MBPP_TEST[-1]} in {self.name}'s files",
                            "Take the file of all problems, or the split for tests.")  # fmt: skip
        return found

    def length(self, chat: bool) -> int:
        return 512 if chat else 256  # an assistant explains, too

    def prompt(self, item: Item, setting: Setting, chat: bool) -> Question:
        shown = drawn(self, item, setting, first=True)
        put, solved = (_put, _fenced) if chat else (_plainly, _done)
        return framed(self, item, setting, put, solved, Framing(lead=""), examples=shown)

    def from_text(self, item: Item, text: str) -> str:
        return text

    def from_chat(self, item: Item, text: str) -> str:
        return _BLOCK(text)

    def tested(self, item: Item, program: str) -> str:
        """With the classes that a few problems' tests are written in, which the paper has run first and lm-evaluation-harness
        leaves out: those problems cannot be solved there."""
        return "\n".join(part for part in (item.data["test_setup_code"], program, *item.data["test_list"]) if part)

    def target(self, item: Item) -> str:
        return str(item.data["code"])


# ----------------------------------------------------------------------------------------------------------- what is read


def _asked(item: Item) -> str:
    return (
        "Write a solution to the following problem and make sure that it passes the tests:\n"
        f"```python\n{item.data['prompt']}\n```\n"
    )


def _plainly(item: Item) -> str:
    return (
        f"You are an expert Python programmer, and here is your task: {item.data['text']} "
        f"Your code should pass these tests:\n\n{_tests(item)}\n[BEGIN]\n"
    )


def _put(item: Item) -> str:
    return (
        f"You are an expert Python programmer, and here is your task:\n{item.data['text']}\n"
        f"Your code should pass these tests:\n{_tests(item)}"
    )


def _tests(item: Item) -> str:
    return "\n".join(item.data["test_list"][:3])


def _done(item: Item) -> str:
    return f"{item.data['code']}\n[DONE]"


def _fenced(item: Item) -> str:
    return f"```python\n{item.data['code']}\n```"


def _humaneval_item(row: Row, id: str) -> Item:
    names = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    data = {name: field(row, name, str) for name in names}
    return Item(data.pop("task_id"), data)


def _mbpp_item(row: Row, id: str) -> Item:
    tests = field(row, "test_list", list)
    if not tests or not all(isinstance(test, str) for test in tests):
        raise DataError(f"{row.place}: test_list holds no tests", "Give a list of lines that begin with assert.")
    data = {"text": field(row, "text", str), "code": field(row, "code", str), "test_list": tests}
    return Item(str(field(row, "task_id", int)), data | {"test_setup_code": row.value.get("test_setup_code") or ""})


def _kind(what: str, task: type[Programs], name: str, item: Callable[[Row, str], Item], hub: str) -> Kind:
    def make(data: Data, rest: str) -> list[Task]:
        if rest and not (rest.isascii() and rest.isdigit() and 1 <= int(rest) <= MOST):
            raise UsageError(
                f"{name}:{rest}: how many answers?", f"A number up to {MOST} stands after the colon: {name}:10."
            )
        return [task(name, lambda: read_items(data.find(name, *_FILES[name], hub=hub), item), int(rest or 1))]

    return Kind(what, make)


TASKS: Kinds = {
    "humaneval": _kind(
        "functions to be written from their docstring, run with their tests; humaneval:100 for pass@10 and pass@100",
        HumanEval, "humaneval", _humaneval_item, "openai/openai_humaneval",
    ),
    "mbpp": _kind(
        "functions to be written from a sentence and three tests, run with them; mbpp:100 for pass@10 and pass@100",
        MBPP, "mbpp", _mbpp_item, "google-research-datasets/mbpp",
    ),
}  # fmt: skip
