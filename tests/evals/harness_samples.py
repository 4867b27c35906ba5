"""Samples of public benchmarks for both programs: the same rows as files for our tasks, and in the hub's form for those of
lm-evaluation-harness, which builds its prompts from its own files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from test_lm_eval_prompts import CASES

from hornbook.evals.data import Data, rows
from hornbook.evals.outcome import Outcome, Result
from hornbook.evals.registry import tasks as tasks_of
from hornbook.evals.task import Task

KINDS = ("mmlu", "arc_easy", "arc_challenge", "boolq", "piqa", "winogrande", "lambada_openai", "gsm8k")
FILES = {case.task: case.sample for case in CASES} | {"mmlu": "mmlu_test_sample", "gsm8k": "gsm8k_test"}
SHOWN = "mmlu_fewshot_dev"
LETTERS = {letter: at for at, letter in enumerate("ABCD")}


class Judged(NamedTuple):
    """What a program found of one item: the continuations' log-probabilities and whether each is greedy, or a text; and by
    name what that is worth."""

    scores: tuple[tuple[float, bool], ...]
    text: str
    grade: Mapping[str, float]


class Difference(NamedTuple):
    """Between two programs, over all items of a kind. ``furthest``: between two log-probabilities of one continuation."""

    items: int
    furthest: float
    choices: int  # items of which another option is the likeliest
    greedy: int  # continuations that only one of them would write
    texts: int  # answers that are not the same to the letter
    grades: int  # items that are not worth the same


def sample(shared: Path, kind: str, count: int | None = None) -> list[dict[str, Any]]:
    """Rows as they lie in the samples, in their order; ``count``: so many of the shortest."""
    found = rows_of(shared, FILES[kind])
    return [found[place] for place in _short(found, count)]


def _short(given: Sequence[Mapping[str, Any]], count: int | None) -> list[int]:
    return sorted(sorted(range(len(given)), key=lambda place: len(str(given[place])))[:count])


def of_the_shortest(
    kind: str, given: Sequence[Mapping[str, Any]], judged: Mapping[str, Sequence[Judged]], count: int
) -> dict[str, list[Judged]]:
    """Of what was found of all rows, that of the shortest, rounded."""
    found: dict[str, list[Judged]] = {}
    seen: dict[str, int] = {}
    wanted = set(_short(given, count))
    for place, row in enumerate(given):
        name = row["subject"] if kind == "mmlu" else kind
        number = seen[name] = seen.get(name, -1) + 1
        if place in wanted:
            scores, text, grade = judged[name][number]
            rounded = tuple((round(logprob, 6), greedy) for logprob, greedy in scores)
            found.setdefault(name, []).append(Judged(rounded, text, grade))
    return found


def first(shared: Path, kind: str, count: int) -> list[dict[str, Any]]:
    """The first rows, as a part of all samples: for 300 of another kind MMLU's has 684, twelve of each subject, and subjects
    are taken whole."""
    found = sample(shared, kind)
    if kind != "mmlu":
        return found[:count]
    subjects = list(dict.fromkeys(row["subject"] for row in found))
    whole = max(1, round(count * len(found) / 300 / 12))
    wanted = [subjects[place * len(subjects) // whole] for place in range(whole)]
    return [row for row in found if row["subject"] in wanted]


def ours(folder: Path, shared: Path, kind: str, given: Sequence[Mapping[str, Any]]) -> Task:
    """Our task over these rows, which are written to a folder."""
    for name, table in [(FILES[kind], given), *([(SHOWN, rows_of(shared, SHOWN))] if kind == "mmlu" else [])]:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), "utf-8")
    (task,) = tasks_of([kind], Data((folder,)))
    return task


def theirs(shared: Path, kind: str, given: Sequence[Mapping[str, Any]], shots: int = 0) -> dict[str, Any]:
    """The harness' tasks over these rows, by name: MMLU has one for each subject."""
    if kind == "gsm8k":
        return {kind: _built("gsm8k/gsm8k", {"test": given, "train": given}, shots)}
    if kind != "mmlu":
        (case,) = (case for case in CASES if case.task == kind)
        table = [case.row(dict(row), number) for number, row in enumerate(given)]
        return {kind: _built(case.yaml, {"test": table, "validation": table, "train": table}, shots)}
    shown = rows_of(shared, SHOWN)
    made = {}
    for subject in dict.fromkeys(row["subject"] for row in given):
        splits = {
            split: [{**row, "answer": LETTERS[row["answer"]]} for row in table if row["subject"] == subject]
            for split, table in (("test", given), ("dev", shown))
        }
        made[subject] = _built(f"mmlu/default/mmlu_{subject}", splits, shots)
    return made


def rows_of(shared: Path, name: str) -> list[dict[str, Any]]:
    return [dict(row.value) for row in rows([shared / "reasoning" / f"{name}.jsonl.gz"])]


def _built(yaml: str, splits: Mapping[str, Sequence[Mapping[str, Any]]], shots: int) -> Any:
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import _yaml_loader

    config = _yaml_loader.load_yaml(Path(_yaml_loader.__file__).parent / f"{yaml}.yaml")
    for name in ("tag", "task_alias", "group"):
        config.pop(name, None)
    tables = {split: datasets.Dataset.from_list([dict(row) for row in table]) for split, table in splits.items()}
    config["custom_dataset"] = lambda **_: tables
    config["num_fewshot"] = shots
    return ConfigurableTask(config=config)


def judged_by_harness(model: Any, tasks: Mapping[str, Any]) -> dict[str, list[Judged]]:
    """What the harness finds of each item with one of its models, by task."""
    from lm_eval.evaluator import evaluate

    found = evaluate(
        lm=model, task_dict={"tasks": dict(tasks), "groups": {}, "group_map": {}}, bootstrap_iters=0, log_samples=True
    )
    return {name: _of_samples(found["samples"][name]) for name in tasks}


def _of_samples(samples: Sequence[Mapping[str, Any]]) -> list[Judged]:
    by_item: dict[int, Judged] = {}
    for one in samples:  # one for each filter
        grades = {name: float(one[name]) for name in one["metrics"] if isinstance(one[name], (int, float))}
        if isinstance(one["resps"][0][0], str):
            named = {f"{name},{one['filter']}": value for name, value in grades.items()}
            before = by_item.get(one["doc_id"])
            by_item[one["doc_id"]] = Judged((), one["resps"][0][0], {**(before.grade if before else {}), **named})
        else:
            scores = tuple((float(resps[0][0]), bool(resps[0][1])) for resps in one["resps"])
            by_item[one["doc_id"]] = Judged(scores, "", grades)
    return [by_item[place] for place in sorted(by_item)]


def judged_by_us(result: Result) -> dict[str, list[Judged]]:
    """The same of one of our results, by task of the harness."""
    found: dict[str, list[Judged]] = {}
    for one in result.samples:
        scores, text = [], ""
        for asked in one.asked:
            if asked.kind == "writing":
                text = str(asked.answers[0])
            else:
                scores += [(float(answer["logprob"]), bool(answer["is_greedy"])) for answer in asked.answers]
        name = one.group if result.task == "mmlu" else result.task
        found.setdefault(name, []).append(Judged(tuple(scores), text, one.grade))
    return found


def difference(mine: Mapping[str, Sequence[Judged]], other: Mapping[str, Sequence[Judged]]) -> Difference:
    """Raises AssertionError where they have not judged the same items."""
    assert mine.keys() == other.keys()
    pairs = [pair for name in mine for pair in zip(mine[name], other[name], strict=True)]
    scored = [pair for a, b in pairs for pair in zip(a.scores, b.scores, strict=True)]
    return Difference(
        len(pairs),
        max((abs(a[0] - b[0]) for a, b in scored), default=0.0),
        sum(_best(a) != _best(b) for a, b in pairs),
        sum(a[1] != b[1] for a, b in scored),
        sum(a.text != b.text for a, b in pairs),
        sum(_worth(a.grade) != _worth(b.grade) for a, b in pairs),
    )


def apart(result: Result, other: Mapping[str, Sequence[Judged]], bar: float) -> list[tuple[Any, str, float, float]]:
    """(context, continuation, our log-probability, the other's) where the two are further apart than ``bar``."""
    found = []
    seen: dict[str, int] = {}
    for one in result.samples:
        name = one.group if result.task == "mmlu" else result.task
        number = seen[name] = seen.get(name, -1) + 1
        mine = [
            (asked.prompt, text, float(answer["logprob"]))
            for asked in one.asked
            if asked.kind == "likelihood"
            for text, answer in zip(asked.continuations, asked.answers, strict=True)
        ]
        for (context, text, ours), (theirs, _) in zip(mine, other[name][number].scores, strict=True):
            if abs(ours - theirs) > bar:
                found.append((context, text, ours, theirs))
    return found


def _best(one: Judged) -> int:
    return max(range(len(one.scores)), key=lambda place: one.scores[place][0], default=0)


def _worth(grade: Mapping[str, float]) -> dict[str, float]:
    """Of a right or a wrong answer. Our names are those of the harness, or those of its filters."""
    return {name.split(",")[-1]: value for name, value in grade.items() if name not in ("perplexity", "logprob")}


def accuracies(judged: Mapping[str, Sequence[Judged]]) -> dict[str, float]:
    """By name of a measure, over all items."""
    grades = [_worth(one.grade) for several in judged.values() for one in several]
    return {name: math.fsum(grade[name] for grade in grades) / len(grades) for name in grades[0]}


def reference(folder: Path, *, batch_size: int = 8, whole: bool = False) -> Any:
    """The harness' own model of transformers, float32. Texts of one length go together and only the logits that are looked at
    are computed; ``whole``: as it comes, with the logits of every token."""
    from lm_eval.models.huggingface import HFLM

    class Looked(HFLM):  # type: ignore[misc]
        kept = 0

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: Any = None) -> Any:
            by_length: dict[int, list[int]] = {}
            for place, (_, before, after) in enumerate(requests):
                by_length.setdefault(len(before) + len(after), []).append(place)
            found: dict[int, Any] = {}
            for places in by_length.values():
                self.kept = max(len(requests[place][2]) for place in places)
                some = super()._loglikelihood_tokens([requests[place] for place in places], disable_tqdm=True)
                found |= dict(zip(places, some, strict=True))
            return [found[place] for place in range(len(requests))]

        def _model_call(self, inps: Any, attn_mask: Any = None, labels: Any = None) -> Any:
            import torch

            with torch.no_grad():
                return self.model(inps, logits_to_keep=self.kept).logits

    with suppress(Exception):
        import datasets

        datasets.disable_progress_bars()
    kind = HFLM if whole else Looked
    return kind(pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch_size)


def restored(kept: Mapping[str, Sequence[Sequence[Any]]]) -> dict[str, list[Judged]]:
    """What ``judged_by_harness`` gave, from JSON."""
    return {
        name: [Judged(tuple((float(a), bool(b)) for a, b in scores), text, grade) for scores, text, grade in several]
        for name, several in kept.items()
    }


def result_of(outcome: Outcome, kind: str) -> Result:
    (result,) = (result for result in outcome.results if result.task == kind)
    return result
