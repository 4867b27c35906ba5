"""Programs that models write: asked for as the harness asks, run with their tests, counted without bias."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import HarnessTask

from hornbook.errors import DataError, SandboxError, UsageError
from hornbook.evals.data import Data
from hornbook.evals.registry import tasks
from hornbook.evals.sandbox.sandbox import Sandbox
from hornbook.evals.task import Item, Means, Setting, Writing
from hornbook.evals.tasks.code import HumanEval, Programs, pass_at
from hornbook.types import Message


def ours(name: str, folder: Path) -> Programs:
    (task,) = tasks([name], Data((folder,)))
    assert isinstance(task, Programs)
    return task


def asked(task: Programs, item: Item, **setting: Any) -> Writing:
    (request,) = task.requests(item, Setting(**setting))
    assert isinstance(request, Writing)
    return request


def rows(shared: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(shared / "reasoning" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def humaneval(shared: Path) -> Programs:
    return ours("humaneval", shared)


@pytest.fixture(scope="module")
def mbpp(shared: Path) -> Programs:
    return ours("mbpp", shared)


@pytest.fixture(scope="module")
def box() -> Sandbox:
    try:
        return Sandbox.find()
    except SandboxError as error:
        pytest.skip(error.what)


# ---------------------------------------------------------------------------------------------------------------- prompts


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness fetches a scorer as its tasks are imported. Prompts need none."""
    import evaluate

    class Scorer:
        def compute(self, **_: Any) -> tuple[dict[str, float], None]:
            return {}, None

    monkeypatch.setattr(evaluate, "load", lambda name: Scorer())


def test_humaneval_is_asked_as_the_harness_asks(shared: Path, humaneval: Programs, scorer: None) -> None:
    given = rows(shared, "humaneval")
    harness = HarnessTask("humaneval/humaneval.yaml", given)
    for at, item in enumerate(humaneval.items()):
        request = asked(humaneval, item)
        assert request.prompt == harness.prompt(at)
        assert humaneval.program(
            item, "    pass\n"
        ) == f"{given[at]['prompt']}    pass\n\n" + harness.task.doc_to_target(harness.docs[at])
    assert [*request.sampling.stop] == harness.stop
    assert request.sampling.max_tokens == harness.task.config.generation_kwargs["max_gen_toks"]


@pytest.mark.parametrize("shots", [0, 1, 3])
def test_mbpp_is_asked_as_the_harness_asks(shared: Path, mbpp: Programs, scorer: None, shots: int) -> None:
    given = [row for row in rows(shared, "mbpp") if 11 <= row["task_id"] <= 510]
    harness = HarnessTask("mbpp/mbpp.yaml", given)
    for at in range(0, len(given), 10):
        item = mbpp.items()[at]
        request = asked(mbpp, item, shots=shots)
        assert request.prompt == harness.fixed_prompt(at, shots)
        assert mbpp.program(item, "x = 1").removeprefix("x = 1\n") == harness.task.doc_to_target(harness.docs[at])
    assert [*request.sampling.stop] == harness.stop
    assert asked(mbpp, item) == asked(mbpp, item, shots=3)


def test_a_chat_is_asked_in_the_words_of_the_harness_instruct_tasks(
    shared: Path, humaneval: Programs, mbpp: Programs, scorer: None
) -> None:
    harness = HarnessTask("humaneval/humaneval_instruct.yaml", rows(shared, "humaneval")[:5])
    for at, item in enumerate(humaneval.items()[:5]):
        request = asked(humaneval, item, chat=True)
        assert request.prompt == (Message("user", harness.task.doc_to_text(harness.docs[at])),)
        assert request.sampling.stop == ()
    given = [row for row in rows(shared, "mbpp") if row["task_id"] >= 11]
    harness = HarnessTask("mbpp/mbpp_instruct.yaml", given[:5])
    shown = harness.task.config.fewshot_config.samples()  # type: ignore[union-attr]
    for at, item in enumerate(mbpp.items()[:5]):
        turns = asked(mbpp, item, chat=True).prompt
        assert [turn.role for turn in turns if isinstance(turn, Message)] == [*["user", "assistant"] * 3, "user"]
        questions = [*shown, harness.docs[at]]
        assert [turn.content for turn in turns[::2] if isinstance(turn, Message)] == [
            harness.task.doc_to_text(one) for one in questions
        ]
        answers = [turn.content for turn in turns[1::2] if isinstance(turn, Message)]
        assert answers == [f"```python\n{one['code']}\n```" for one in shown]


# ---------------------------------------------------------------------------------------------------------------- grading


def passed(box: Sandbox, programs: Sequence[str]) -> list[int]:
    """Which of these run to their end: all in one sandbox, each a module of its own."""
    names = [f"answer_{number}" for number in range(len(programs))]
    driver = f"""
import importlib
for name in {names!r}:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(name, repr(error))
print("all")
"""
    files = {f"{name}.py": program for name, program in zip(names, programs, strict=True)}
    run = box.run(driver, files=files, seconds=60)
    *failed, last = run.stdout.splitlines()
    assert last == "all", run
    wrong = {line.split()[0] for line in failed}
    return [at for at, name in enumerate(names) if name not in wrong]


def test_all_solutions_of_humaneval_pass_and_what_returns_nothing_does_not(box: Sandbox, humaneval: Programs) -> None:
    items = humaneval.items()
    assert len(items) == 82
    right = [humaneval.program(item, humaneval.target(item)) for item in items]
    assert passed(box, right) == [*range(82)]
    wrong = [humaneval.program(item, "    return\n") for item in items]
    assert passed(box, wrong) == []


def test_solutions_of_mbpp_pass_and_those_of_another_problem_do_not(box: Sandbox, mbpp: Programs) -> None:
    items = mbpp.items()
    assert len(items) == 250 and [items[0].id, items[-1].id] == ["11", "260"]
    some = items[::3]
    assert passed(box, [mbpp.program(item, mbpp.target(item)) for item in some]) == [*range(len(some))]
    shifted = [mbpp.program(item, mbpp.target(other)) for item, other in itertools.pairwise(some)]
    assert passed(box, shifted) == []


def test_a_program_has_to_run_to_its_end_and_in_time(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hornbook.evals.tasks.code.SECONDS", 2.0)
    data = {"prompt": "def one():\n", "entry_point": "one", "canonical_solution": "    return 1\n", "test": "def check(f):\n    assert f() == 1\n"}  # fmt: skip
    item, task = Item("one", data), HumanEval("humaneval", list)
    task.equip(Means())
    assert task.grade(item, [("    return 1\n",)]) == {"pass@1": 1.0}
    for wrong in (
        "    return 2", "", "    return", "é(", "\x00", "\ud800", "    raise SystemExit(0)", "    import os; os._exit(0)",
        "    while True: pass", "    import time; time.sleep(60)", "    return one()", "    return 1\n```",
    ):  # fmt: skip
        assert task.grade(item, [(wrong,)]) == {"pass@1": 0.0}, wrong
    main = "    return 1\nif __name__ == '__main__':\n    one(input())"
    assert task.passes(task.tested(item, task.from_text(item, main)))  # as where answers are run by exec
    assert task.grade(item, [("    return 1\ndef one(",)]) == {"pass@1": 1.0}  # a stop text ends it
    assert task.grade(item, [()]) == task.grade(item, []) == {"pass@1": 0.0}


def test_an_assistants_code_is_what_stands_in_its_fence() -> None:
    data = {
        "prompt": "import math\n\ndef half(x):\n    return x / 2\n\ndef up(x):\n    '''Half, up.'''\n", "entry_point": "up",
        "canonical_solution": "", "test": "def check(f):\n    assert f(3) == 2",
    }  # fmt: skip
    item, task = Item("up", data), HumanEval("humaneval", list)
    tests = "\ndef check(f):\n    assert f(3) == 2\ncheck(up)"
    before = "import math\n\ndef half(x):\n    return x / 2\n\n"
    whole = "def up(x):\n    return math.ceil(half(x))\n"
    body = "    return math.ceil(half(x))\n"
    answers = {
        f"Sure:\n```python\n{whole}```\nThis rounds.": before + whole,
        f"<think>```no```</think>\n```\n{whole}": before + whole,
        f"```py\n{body}```": data["prompt"] + body,
        whole: before + whole,
        "I cannot.": data["prompt"] + "I cannot.",
    }
    asked(task, item)
    plain = task.graded_by
    asked(task, item, chat=True)
    assert task.graded_by != plain  # grades that are kept tell the two apart
    for text, program in answers.items():
        assert task.program(item, text) == f"{program}\n{tests.removeprefix(chr(10))}", text
    asked(task, item)
    assert task.program(item, f"{body}```").startswith(f"{data['prompt']}{body}```")  # as it stands: so the harness


@pytest.mark.parametrize("prefix", ["", "class Pair:\n    pass\n"])
def test_mbpp_runs_what_its_tests_are_written_in(tmp_path: Path, prefix: str) -> None:
    examples = [
        {"task_id": id, "text": "t", "code": "c", "test_list": ["a"], "test_setup_code": ""} for id in (1, 4, 3, 2)
    ]
    row = {"task_id": 11, "text": "t", "code": "c", "test_list": ["assert p(Pair())"], "test_setup_code": prefix}
    (tmp_path / "mbpp.jsonl").write_text("\n".join(map(json.dumps, [*examples, row])))
    task = ours("mbpp", tmp_path)
    (item,) = task.items()
    assert [example.id for example in task.examples()] == ["2", "3", "4", "1"]
    assert task.program(item, "def p(x): return 1") == "\n".join(
        part for part in (prefix, "def p(x): return 1", "assert p(Pair())") if part
    )


# ----------------------------------------------------------------------------------------------------------------- pass@k


def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_answer() -> None:
    for n in range(1, 8):
        for right in range(n + 1):
            for k in range(1, n + 1):
                draws = list(itertools.combinations(range(n), k))
                share = Fraction(sum(min(draw) < right for draw in draws), len(draws))
                assert pass_at(k, n, right) == pytest.approx(float(share), abs=1e-12)


@pytest.mark.parametrize(
    ("n", "right", "k"), [(200, 1, 100), (200, 37, 10), (1024, 900, 100), (1024, 1, 1), (100, 0, 100)]
)
def test_pass_at_k_stays_exact_for_many_answers(n: int, right: int, k: int) -> None:
    exact = 1 - Fraction(comb(n - right, k), comb(n, k))
    assert pass_at(k, n, right) == pytest.approx(float(exact), rel=1e-12)


def test_several_answers_are_drawn_and_give_pass_at_k(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = ours("humaneval:20", shared)
    item = task.items()[0]
    assert task.name == "humaneval:20"
    assert [metric.name for metric in task.metrics] == ["pass@1", "pass@10"]
    sampling = asked(task, item, seed=7).sampling
    assert (sampling.n, sampling.temperature, sampling.top_p, sampling.seed) == (20, 0.2, 0.95, 7)
    ran: list[str] = []
    monkeypatch.setattr(task, "passes", lambda program: ran.append(program) or "right" in program)
    grade = task.grade(item, [("    right", "    right", *["    wrong"] * 18)])
    assert grade == {"pass@1": pytest.approx(0.1), "pass@10": pytest.approx(1 - comb(18, 10) / comb(20, 10))}
    assert len(ran) == 2  # what is written twice is run once


@pytest.mark.parametrize("name", ["humaneval:0", "humaneval:x", "mbpp:-1", "mbpp:1025", "mbpp:²"])
def test_a_number_of_answers_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="how many answers"):
        ours(name, tmp_path)


# -------------------------------------------------------------------------------------------------------------- bad input


def bad() -> Iterator[tuple[str, dict[str, Any], str]]:
    humaneval = {"task_id": "a/0", "prompt": "p", "entry_point": "f", "canonical_solution": "s", "test": "t"}
    mbpp = {"task_id": 11, "text": "t", "code": "c", "test_list": ["assert True"]}
    yield "humaneval", humaneval | {"entry_point": 3}, "entry_point"
    yield "humaneval", {"task_id": "a/0"}, "prompt"
    yield "mbpp", mbpp | {"test_list": []}, "test_list"
    yield "mbpp", mbpp | {"test_list": [1]}, "test_list"
    yield "mbpp", mbpp | {"task_id": "x"}, "task_id"


@pytest.mark.parametrize(("name", "row", "field"), bad())
def test_a_row_that_does_not_fit_is_named_with_its_line(tmp_path: Path, name: str, row: Any, field: str) -> None:
    (tmp_path / f"{name}.jsonl").write_text(f"\n{json.dumps(row)}\n")
    with pytest.raises(DataError) as error:
        ours(name, tmp_path).items()
    assert f"{name}.jsonl, line 2" in error.value.what and field in error.value.what


def test_examples_alone_are_no_test(tmp_path: Path) -> None:
    row = {"task_id": 2, "text": "t", "code": "c", "test_list": ["assert True"]}
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="no problems from 11 to 510"):
        ours("mbpp", tmp_path).items()


def test_a_machine_that_cannot_keep_programs_apart_is_refused_before_anything_is_asked(
    humaneval: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*, allow_unsafe: bool = False) -> str:
        if not allow_unsafe:
            raise SandboxError("nothing holds here", "Say --allow-unsafe-code.")
        return "open"

    monkeypatch.setattr("hornbook.evals.tasks.code.Sandbox.find", find)
    with pytest.raises(SandboxError):
        humaneval.equip(Means())
    monkeypatch.setattr(humaneval, "_sandbox", None)
    humaneval.equip(Means(unsafe_code=True))
    assert humaneval._sandbox == "open"
