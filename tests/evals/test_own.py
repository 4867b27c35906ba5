"""A person's own questions: rows alone, YAML, Python; and what is said of each mistake."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hornbook.engine.scripted import ScriptedLLM
from hornbook.errors import DataError, UsageError
from hornbook.evals import own
from hornbook.evals.choices import MultipleChoice
from hornbook.evals.judge import Judged
from hornbook.evals.outcome import Result
from hornbook.evals.run import run
from hornbook.evals.task import Item, Likelihood, Setting, Task, Writing
from hornbook.evals.written import Written
from hornbook.types import Message, Score

AS_KNOWN = Setting()


def rows(path: Path, *values: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), "utf-8")
    return path


def only(path: Path | str) -> Task:
    (task,) = own.read(str(path))
    return task


def prompt_of(task: Task, setting: Setting = AS_KNOWN, at: int = 0) -> Any:
    (request,) = task.requests(task.items()[at], setting)
    return (
        request.prompt if isinstance(request, Writing) else request.context if isinstance(request, Likelihood) else ""
    )


def score(task: Task, *replies: str) -> Result:
    """``replies`` in the order of the items; the model is asked in another."""
    says = {prompt_of(task, at=at): reply for at, reply in enumerate(replies)}
    return run(ScriptedLLM(says.__getitem__), [task]).results[0]


# -------------------------------------------------------------------------------------------------------- rows alone


def test_questions_and_answers_need_no_file(tmp_path: Path) -> None:
    path = rows(
        tmp_path / "capitals.jsonl",
        {"question": "The capital of Peru?", "answer": "Lima"},
        {"question": "中国的首都是哪里？", "answers": ["北京", "北京市"]},
        {"id": "x7", "query": "How many legs has a spider?", "target": 8, "aliases": ["eight"]},
    )
    task = only(path)
    assert task.name == "capitals"
    assert prompt_of(task) == "Question: The capital of Peru?\nAnswer:"
    assert [item.id for item in task.items()] == ["capitals-0", "capitals-1", "x7"]
    result = score(task, " It is Lima.", "北京。", "Eight")
    assert {f.name: f.value for f in result.figures} == pytest.approx(
        {"exact": 2 / 3, "f1": (0.5 + 2) / 3, "contains": 1}
    )


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"instruction": "Name it.", "input": "A red fruit", "output": "apple"}, "Question: Name it.\n\nA red fruit\nAnswer:"),
        ({"instruction": "Name it.", "input": "", "output": "apple"}, "Question: Name it.\nAnswer:"),
        ({"context": "Ann is ill.", "question": "Who?", "answers": {"text": ["Ann"], "answer_start": [0]}},
         "Ann is ill.\n\nQuestion: Who?\nAnswer:"),
    ],
)  # fmt: skip
def test_usual_columns_are_known(tmp_path: Path, row: dict[str, Any], prompt: str) -> None:
    assert prompt_of(only(rows(tmp_path / "a.jsonl", row))) == prompt


@pytest.mark.parametrize("right", ["air", 1, "b", "B", ["air"]])
def test_options_make_a_choice(tmp_path: Path, right: Any) -> None:
    path = rows(
        tmp_path / "c.jsonl", {"question": "Breathe?", "choices": ["air", "air"][1:] + ["rock"], "answer": "air"}
    )
    rows(path, {"question": "What do we breathe?", "options": ["rock", "air", "rock"], "answer": right})
    task = only(path)
    assert isinstance(task, MultipleChoice)
    model = ScriptedLLM("", score=lambda context, option: Score(-1.0 if option == " air" else -9.0, False, 1))
    assert run(model, [task]).results[0].figure("acc").value == 1


def test_tables_and_packed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('question,choices,answer\nWarm?,"[""ice"", ""sun""]",1\n', "utf-8")
    assert only(tmp_path / "t.csv").items()[0].data["gold"] == [1]
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(b'{"question": "q", "answer": "a"}\n'))
    assert [item.id for item in only(tmp_path / "p.jsonl.gz").items()] == ["p-0"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Who?", "note": "nobody knows"}, "line 2 has no answer: its columns are question, note"),
        ({"question": "", "answer": "a"}, "line 2: question is empty"),
        ({"question": "q", "answer": True}, "line 2: answer holds True"),
        ({"question": "q", "answer": []}, "line 2: answer holds no right answer"),
        ({"question": ["q"], "answer": "a"}, r"line 2: question holds \['q'\]"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = rows(tmp_path / "bad.jsonl", {"question": "q", "answer": "a"}, row)
    with pytest.raises(DataError, match=f"bad.jsonl, {said}"):
        only(path).items()


@pytest.mark.parametrize(
    ("right", "said"),
    [(3, "is 3, of 2 options"), ("Z", "is 'Z', of 2 options"), ("water", "'water' is none of the options")],
)
def test_a_right_answer_that_is_no_option_is_refused(tmp_path: Path, right: Any, said: str) -> None:
    path = rows(tmp_path / "c.jsonl", {"question": "q", "choices": ["x y", "z w"], "answer": right})
    with pytest.raises(DataError, match=f"line 1: the right answer {said}"):
        only(path).items()


def test_files_that_are_not_there_or_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere.jsonl is not there"):
        own.read("nowhere.jsonl")
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no questions in .*none.jsonl"):
        own.read(str(tmp_path / "none.jsonl"))


# --------------------------------------------------------------------------------------------------------------- YAML


def yaml(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_a_written_task_of_columns_template_filters_and_shots(tmp_path: Path) -> None:
    rows(tmp_path / "sums.jsonl", *({"sum": f"{n} + {n}", "is": 2 * n, "level": "easy"} for n in range(1, 5)))
    path = yaml(
        tmp_path / "sums.yaml",
        'kind: answer\ndata: sums.jsonl\nquestion: "{{{sum}}} ="\nanswer: is\ngroup: level\nshots: 2\nmetrics: [number, same]\n'
        'filter: [{after: "so"}, last-number]\nmax_tokens: 20\ndescription: "Add.\\n\\n"\nexamples:\n'
        '  - {sum: 9 + 9, is: 18, level: easy}\n  - {sum: 7 + 7, is: 14, level: easy}\n',
    )  # fmt: skip
    task = only(path)
    assert isinstance(task, Written) and task.sampling.max_tokens == 20
    assert prompt_of(task) in (
        "Add.\n\n{9 + 9} = 18\n\n{7 + 7} = 14\n\n{1 + 1} =",
        "Add.\n\n{7 + 7} = 14\n\n{9 + 9} = 18\n\n{1 + 1} =",
    )
    result = score(task, " 5, no, so 2.0", " so 4", "", "so $8.")
    assert [f.value for f in result.figures] == pytest.approx([3 / 4, 1 / 4])
    assert [group.name for group in result.groups] == ["easy"]


def test_examples_are_drawn_from_the_questions_where_there_are_no_others(tmp_path: Path) -> None:
    path = rows(tmp_path / "q.jsonl", *({"question": f"q{n}", "answer": f"a{n}"} for n in range(3)))
    prompt = prompt_of(only(path), Setting(shots=2))
    assert "q1\nAnswer: a1\n\n" in prompt and "q2\nAnswer: a2\n\n" in prompt and "a0" not in prompt
    with pytest.raises(UsageError, match="has 2 solved examples, and 3 are asked for"):
        prompt_of(only(path), Setting(shots=3))


def test_a_choice_with_letters_and_a_column_for_each_option(tmp_path: Path) -> None:
    path = yaml(
        tmp_path / "mc.yaml",
        "kind: choice\nletters: true\nchoices: [a, b]\nitems:\n  - {question: 'Hot?', a: sun, b: ice, answer: A}\n",
    )
    task = only(path)
    assert prompt_of(task) == "Question: Hot?\nA. sun\nB. ice\nAnswer:"
    (request,) = task.requests(task.items()[0], Setting())
    assert isinstance(request, Likelihood) and request.continuations == (" A", " B")
    assert prompt_of(task, Setting(chat=True)) == (Message("user", "Question: Hot?\nA. sun\nB. ice\nAnswer:"),)


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        ("kind: choise\ndata: q.jsonl", "of the kind 'choise'", "Did you mean choice"),
        ("data: q.jsonl", "does not say of which kind", "There are choice, answer, judged"),
        ("kind: answer\ndata: q.jsonl\nanswr: a", "takes no 'answr'", "Did you mean answer"),
        ("kind: choice\ndata: q.jsonl\njudge: x", "of the kind choice takes no 'judge'", "There are"),
        ("kind: answer", "has neither data nor items", "one of the two"),
        ("kind: answer\ndata: q.jsonl\nitems: [{question: q, answer: a}]", "has both data and items", "one of the two"),
        ("kind: answer\ndata: q.jsonl\nshots: many", "shots: input should be a valid integer", "docs/evals.md"),
        ("kind: answer\ndata: q.jsonl\nmetrics: [f2]", "there is no metric 'f2'", "Did you mean f1"),
        ("kind: answer\ndata: q.jsonl\nfilter: first_line", "there is no filter 'first_line'", "Did you mean first-line"),
        ("kind: answer\ndata: q.jsonl\nfilter: [{regex: '('}]", "cannot be read: missing \\)", "regular expression"),
        ("kind: answer\ndata: q.jsonl\nkind: choice", "line 3: 'kind' stands twice", "docs/evals.md"),
        ("kind: [", "is not YAML: line", "docs/evals.md"),
        ("- a", "describes no task", "docs/evals.md"),
    ],
)  # fmt: skip
def test_a_mistake_in_yaml_is_refused_with_the_nearest_name(tmp_path: Path, text: str, said: str, remedy: str) -> None:
    rows(tmp_path / "q.jsonl", {"question": "q", "answer": "a"})
    with pytest.raises(UsageError, match=said) as caught:
        only(yaml(tmp_path / "t.yaml", text))
    assert "t.yaml" in caught.value.what and remedy in caught.value.remedy


def test_columns_and_questions_that_are_not_there(tmp_path: Path) -> None:
    rows(tmp_path / "q.jsonl", {"question": "q", "answer": "a"})
    with pytest.raises(DataError, match=r"q.jsonl, line 1: there is no column 'questoin'") as caught:
        only(yaml(tmp_path / "t.yaml", 'kind: answer\ndata: q.jsonl\nquestion: "{questoin}"')).items()
    assert "Did you mean question?" in caught.value.remedy
    with pytest.raises(DataError, match=r"nothing.jsonl are not there"):
        only(yaml(tmp_path / "t.yaml", "kind: answer\ndata: nothing.jsonl"))


# ------------------------------------------------------------------------------------------------------------- Python


def test_a_task_in_python(tmp_path: Path) -> None:
    path = yaml(
        tmp_path / "shout.py",
        """
from hornbook.evals.task import Item
from hornbook.evals.written import Measure, Written

def loud(text, golds):
    return float(text.strip().isupper())

task = Written("shout", lambda: [Item("1", {"question": "Shout!"})], lambda item: item.data["question"], lambda item: [""], [Measure("loud", loud)])
TASKS = [task]
""",
    )
    assert score(only(path), "HELLO").figure().value == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("def task(:\n", "line 1: SyntaxError"),
        ("tasks = []\n", "has no task"),
        ("task = 3\n", "has no task"),
    ],
)
def test_a_mistake_in_python_names_file_and_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"t.py.*{said}"):
        own.read(str(yaml(tmp_path / "t.py", text)))


def test_a_function_may_make_the_task(tmp_path: Path) -> None:
    path = yaml(
        tmp_path / "made.py",
        "from hornbook.evals.own import read\nfrom pathlib import Path\n"
        "def task():\n    return read(str(Path(__file__).with_name('q.jsonl')))\n",
    )
    rows(tmp_path / "q.jsonl", {"question": "q", "answer": "a"})
    assert only(path).items() == (Item("q-0", {"question": "Question: q\nAnswer:", "answers": ["a"]}),)


def test_yaml_can_ask_a_judge(tmp_path: Path) -> None:
    path = yaml(
        tmp_path / "tone.yaml", "kind: judged\ncriteria: Be kind.\nscale: 5\nitems:\n  - {question: Say hello.}\n"
    )
    task = only(path)
    assert isinstance(task, Judged) and prompt_of(task) == (Message("user", "Say hello."),)
    with pytest.raises(UsageError, match="tone needs a judge"):
        run(ScriptedLLM("hello"), [task])
    with pytest.raises(UsageError, match="has 0 solved examples"):  # nobody knows a right answer
        prompt_of(task, Setting(shots=1))
