"""Prompts, continuations and grades are lm-evaluation-harness', byte for byte: its own tasks are built from its own files, over
rows in the form in which the hub has them, and so are ours."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hornbook.evals.choices import MultipleChoice
from hornbook.evals.data import Data, rows
from hornbook.evals.prompting import drawn
from hornbook.evals.registry import kinds
from hornbook.evals.task import Answer, Item, Likelihood, Setting, Task
from hornbook.types import Score

SHOWN = 5  # rows of the sample that are kept for solved examples
ASKED = 25
RowOf = Callable[[dict[str, Any], int], dict[str, Any]]  # (row of the sample, its number) -> the hub's columns


def _labelled(question: str, prefix: str = "") -> RowOf:
    def row(given: dict[str, Any], number: int) -> dict[str, Any]:
        labels = ["A", "B", "C", "D"] if number % 3 else ["1", "2", "3", "4"]  # ARC has both
        return {
            "id": f"Mercury_{number}",
            question: given["query"].removeprefix(prefix),
            "choices": {"text": given["choices"], "label": labels},
            "answerKey": labels[given["gold"]],
        }

    return row


def _boolq(given: dict[str, Any], number: int) -> dict[str, Any]:
    passage, question = given["query"].removeprefix("Passage: ").rsplit("\nQuestion: ", 1)
    return {"idx": number, "passage": passage, "question": question.removesuffix("?"), "label": given["gold"]}


def _piqa(given: dict[str, Any], number: int) -> dict[str, Any]:
    goal = given["query"].removeprefix("Question: ").removesuffix("\n")
    return {"goal": goal, "sol1": given["choices"][0], "sol2": given["choices"][1], "label": given["gold"]}


def _winogrande(given: dict[str, Any], number: int) -> dict[str, Any]:
    first, second = given["context_options"]
    same = len(commonprefix([first, second]))  # one of them may begin with all of the other
    start = first.rfind(" ", 0, same) + 1  # the options are whole words
    options = {"option1": first[start:], "option2": second[start:]}
    sentence = f"{first[:start]}_ {given['continuation']}"
    return {"sentence": sentence, **options, "answer": str(given["gold"] + 1)}


def _copa(given: dict[str, Any], number: int) -> dict[str, Any]:
    told, link = given["query"].rsplit(", ", 1)
    first, second = (one[0].upper() + one[1:] for one in given["choices"])
    asks = {"because": "cause", "therefore": "effect"}[link]
    texts = {"premise": f"{told}. ", "choice1": first, "choice2": second}
    return {"idx": number, **texts, "question": asks, "label": given["gold"]}


def _commonsense(given: dict[str, Any], number: int) -> dict[str, Any]:
    question, listed = given["query"].removeprefix("Question: ").removesuffix("\nAnswer:").split("\nChoices:\n")
    options = [line[3:] for line in listed.split("\n")] + ["somewhere else"]  # the sample has four of the five options
    choices = {"text": options, "label": list("ABCDE")}
    return {"id": f"{number:x}", "question": f" {question} ", "choices": choices, "answerKey": "ABCDE"[number % 5]}


def _truthful(given: dict[str, Any], number: int) -> dict[str, Any]:
    forms = ("mc1_targets", "mc2_targets")
    targets = {form: {"choices": list(given[form]), "labels": list(given[form].values())} for form in forms}
    return {"question": given["question"], **targets}


@dataclass(frozen=True)
class Case:
    task: str
    yaml: str
    sample: str
    row: RowOf
    test: str  # the hub's files
    training: str = ""
    sampled: bool = True  # the sample's rows say the same as the hub's


_SUPER = "{}/validation-00000-of-00001.parquet", "{}/train-00000-of-00001.parquet"
CASES = [
    Case("arc_easy", "arc/arc_easy", "arc_easy", _labelled("question", "Question: "), "ARC-Easy/test-0.parquet",
         "ARC-Easy/train-0.parquet"),
    Case("arc_challenge", "arc/arc_challenge", "arc_challenge", _labelled("question", "Question: "),
         "ARC-Challenge/test-0.parquet", "ARC-Challenge/train-0.parquet"),
    Case("openbookqa", "openbookqa/openbookqa", "openbook_qa", _labelled("question_stem"),
         "openbookqa/main/test-0.parquet", "openbookqa/main/train-0.parquet"),
    Case("boolq", "super_glue/boolq/default", "boolq", _boolq, *(one.format("boolq") for one in _SUPER)),
    Case("copa", "super_glue/copa/default", "copa", _copa, *(one.format("copa") for one in _SUPER)),
    Case("piqa", "piqa/piqa", "piqa", _piqa, "piqa_validation.parquet", "piqa_train.parquet"),
    Case("winogrande", "winogrande/default", "winogrande", _winogrande, "winogrande_xl/validation-0.parquet",
         "winogrande_xl/train-0.parquet"),
    Case("commonsense_qa", "commonsense_qa/default", "commonsense_qa", _commonsense,
         "commonsense_qa/data/validation-0.parquet", "commonsense_qa/data/train-0.parquet", sampled=False),
    Case("lambada_openai", "lambada/lambada_openai", "lambada_openai",
         lambda given, number: {"text": f"{given['context']} {given['continuation']}"}, "data/lambada_test.jsonl"),
    Case("truthfulqa_mc1", "truthfulqa/truthfulqa_mc1", "truthfulqa_mc", _truthful, "multiple_choice/validation-0.parquet"),
    Case("truthfulqa_mc2", "truthfulqa/truthfulqa_mc2", "truthfulqa_mc", _truthful, "multiple_choice/validation-0.parquet"),
]  # fmt: skip


@pytest.fixture(scope="module")
def harness() -> Callable[[str, Mapping[str, Sequence[dict[str, Any]]]], Any]:
    """Builds the harness' task of a YAML over these rows, by split; nothing is fetched."""
    module = pytest.importorskip("lm_eval.api.task", exc_type=ImportError)
    import datasets
    from lm_eval.tasks import _yaml_loader

    def build(yaml: str, splits: Mapping[str, Sequence[dict[str, Any]]]) -> Any:
        config = _yaml_loader.load_yaml(Path(_yaml_loader.__file__).parent / f"{yaml}.yaml")
        for name in ("tag", "task_alias", "group"):
            config.pop(name, None)
        tables = {split: datasets.Dataset.from_list(list(found)) for split, found in splits.items()}
        config["custom_dataset"] = lambda **_: tables
        return module.ConfigurableTask(config=config)

    return build


def sample(shared: Path, name: str) -> list[dict[str, Any]]:
    return [dict(row.value) for row in rows([shared / "reasoning" / f"{name}.jsonl.gz"])][: SHOWN + ASKED]


def write(path: Path, table: Sequence[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table), "utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(table)), path)


def asked(task: Task, item: Item, setting: Setting) -> list[tuple[str, str]]:
    """The pairs of context and continuation, as the harness has them."""
    pairs = []
    for request in task.requests(item, setting):
        assert isinstance(request, Likelihood) and isinstance(request.context, str)
        pairs += [(request.context, continuation) for continuation in request.continuations]
    return pairs


def theirs(task: Any, doc: dict[str, Any], shown: Sequence[dict[str, Any]] = ()) -> list[tuple[str, str]]:
    if shown:
        task.sampler.sample = lambda n, eval_doc=None, **_: list(shown)
    made = task.construct_requests(doc, task.fewshot_context(doc, len(shown)), metadata=(task.config.task, 0, 1))
    return [one.args for one in (made if isinstance(made, list) else [made])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_prompts_and_grades_are_the_harness_s(case: Case, harness: Any, shared: Path, tmp_path: Path) -> None:
    given = sample(shared, case.sample)
    table = [case.row(row, number) for number, row in enumerate(given)]
    training, test = table[:SHOWN] if case.training else [], table[SHOWN:]
    assert len(test) >= 20
    write(tmp_path / case.test, test)
    if case.training:
        write(tmp_path / case.training, training)
    (task,) = kinds()[case.task].make(Data((tmp_path,)), "")
    reference = harness(case.yaml, {"test": test, "validation": test, "train": training or test})
    items, docs = task.items(), list(reference.eval_docs)
    assert len(items) == len(docs) == len(test)
    (plain,) = kinds()[case.task].make(Data((shared,)), "")
    chance = random.Random(7)
    for number, (item, doc) in enumerate(zip(items, docs, strict=True)):
        pairs = asked(task, item, Setting(shots=0))
        assert pairs == theirs(reference, doc)
        if case.sampled:
            assert asked(plain, plain.items()[SHOWN + number], Setting(shots=0)) == pairs
        if task.examples():
            shown = drawn(task, item, Setting(shots=3))
            kept = {one.id: row for one, row in zip(task.examples(), training or test, strict=True)}
            assert asked(task, item, Setting(shots=3)) == theirs(reference, doc, [kept[one.id] for one in shown])
        scores = [Score(-chance.random() * 30, chance.random() < 0.5, 3) for _ in pairs]
        per_request = [len(request.continuations) for request in task.requests(item, Setting(shots=0))]  # type: ignore[union-attr]
        found = task.grade(item, cut(scores, per_request))
        expected = reference.process_results(doc, [(score.logprob, score.is_greedy) for score in scores])
        expected = {{"perplexity": "logprob"}.get(name, name): value for name, value in expected.items()}
        assert found == pytest.approx(expected, rel=1e-9)


def cut(scores: Sequence[Score], counts: Sequence[int]) -> list[Answer]:
    ends = np.cumsum(counts)
    return [tuple(scores[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def test_mmlu_shows_the_first_dev_rows_of_its_subject(harness: Any, shared: Path) -> None:
    (task,) = kinds()["mmlu"].make(Data((shared,)), "")
    assert isinstance(task, MultipleChoice)
    assert len({item.group for item in task.items()}) == 57
    place = shared / "reasoning"
    letters = {letter: at for at, letter in enumerate("ABCD")}
    for subject in ("anatomy", "high_school_us_history", "us_foreign_policy"):
        tables = {
            split: [
                {**row.value, "answer": letters[row.value["answer"]]}
                for row in rows([place / name])
                if row.value["subject"] == subject
            ]
            for split, name in (("test", "mmlu_test_sample.jsonl.gz"), ("dev", "mmlu_fewshot_dev.jsonl.gz"))
        }
        reference = harness(f"mmlu/default/mmlu_{subject}", tables)
        items = [item for item in task.items() if item.group == subject]
        assert len(items) == len(tables["test"]) == 12
        for item, doc in zip(items, reference.eval_docs, strict=True):
            for shots in (0, 2, 5):
                context = reference.fewshot_context(doc, shots)
                made = reference.construct_requests(doc, context, metadata=("mmlu", 0, 1))
                assert asked(task, item, Setting(shots=shots)) == [one.args for one in made]
            assert asked(task, item, Setting()) == asked(task, item, Setting(shots=5))
            assert list(task.gold(item)) == [reference.doc_to_target(doc)]


def test_every_subject_of_mmlu_is_described_and_placed_as_in_the_harness(harness: Any) -> None:
    from lm_eval.tasks import _yaml_loader

    from hornbook.evals.tasks.knowledge import PARTS, SUBJECTS, mmlu

    task = mmlu(Data(()))
    found = {}
    for path in Path(_yaml_loader.__file__).parent.glob("mmlu/default/mmlu_*.yaml"):
        about = _yaml_loader.load_yaml(path)
        subject = about["dataset_name"]
        assert task.around(Item("", {}, subject)).description == about["description"]
        found[subject] = about["tag"].removeprefix("mmlu_").removesuffix("_tasks")
    assert found == {subject: part for part, subjects in PARTS.items() for subject in subjects.split()}
    assert tuple(sorted(found)) == SUBJECTS
