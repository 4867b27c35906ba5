"""Outcomes as a run makes them, of answers that were thought up: two models, tasks of each kind, texts in several scripts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hornbook.evals.metric import Metric, ratio
from hornbook.evals.outcome import Asked, Figure, Group, Identity, Outcome, Result, Sample
from hornbook.evals.statistics import Estimate, by_group, estimate
from hornbook.evals.task import Setting

EXAMPLES = "The following are questions.\n\n" + "".join(
    f"Question: solved example {number} about gravity?\nAnswer: yes\n\n" for number in range(5)
)
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"><!--\u202e\x1b[31m\x00\ud800\u2028'\"&amp;"
ACC, NORM = Metric("acc"), Metric("acc_norm")
EXACT, F1 = Metric("exact"), Metric("f1")
RATE = Metric("bits_per_byte", False, False, ratio("bits", "bytes"))


def choices(seed: int, items: int = 60, skill: float = 0.5, hostile: bool = False) -> Result:
    """In two groups, with five solved examples."""
    random = np.random.default_rng(seed)
    shared = np.random.default_rng(0).random(items)
    samples = []
    for number in range(items):
        scores = -5 - 10 * random.random(4)
        right = shared[number] * 0.7 + random.random() * 0.3 < skill
        best = 1 if right else 0
        scores[best] = -1.25
        question = f"Question: which of these is number {number}?\nAnswer:"
        if hostile and number == 3:
            question = HOSTILE
        asked = Asked(
            "likelihood", EXAMPLES + question, (" north", " south", " 东方", " west"),
            tuple({"logprob": float(one), "is_greedy": place == best, "tokens": 1} for place, one in enumerate(scores)),
        )  # fmt: skip
        grade = {"acc": float(right), "acc_norm": float(right if number % 7 else not right)}
        group = "geography" if number % 3 else "历史"
        samples.append(Sample(f"quiz-{number}", group, {"question": question}, (asked,), "south", grade))
    return result("quiz", samples, [ACC, NORM], shots=5)


def writing(seed: int, items: int = 12) -> Result:
    """Turns of a chat; partly right answers, one that is empty."""
    random = np.random.default_rng(seed)
    samples = []
    for number in range(items):
        prompt = (
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"请问第 {number} 个问题的答案是什么？"},
        )
        text = "" if number == 4 else f"答案是 {number + (random.random() < 0.3)}。\nBecause it is so."
        f1 = 0.0 if number == 4 else float(np.round(random.random(), 3))
        samples.append(
            Sample(f"reading-{number}", "", {}, (Asked("writing", prompt, (), (text,)),), str(number),
                   {"exact": float(f1 > 0.7), "f1": f1})
        )  # fmt: skip
    return result("reading", samples, [F1, EXACT], chat=True)


def rolling(seed: int) -> Result:
    random = np.random.default_rng(seed)
    samples = []
    for number in range(5):
        text = f"Once upon a time, there was text {number}. " * 20
        bits = len(text) * (1 + random.random() / 5)
        answer = {"logprob": -bits * np.log(2), "is_greedy": False, "tokens": 200}
        samples.append(
            Sample(f"tale-{number}", "", {}, (Asked("rolling", text, (), (answer,)),), "",
                   {"bits": bits, "bytes": float(len(text))})
        )  # fmt: skip
    return result("perplexity:tales", samples, [RATE])


def trial(seed: int) -> Result:
    answer = {"text": "It stands in the second paper [1].", "citations": [{"path": "b.pdf", "page": 2}]}
    sample = Sample(
        "rag-0", "", {"question": "Where does it stand?"}, (Asked("trial", "", (), (answer,)),), "b.pdf", {"acc": 1.0}
    )
    return result("rag", [sample], [ACC])


def result(task: str, samples: list[Sample], metrics: list[Metric], *, shots: int = 0, chat: bool = False) -> Result:
    """As a run sums up."""
    columns = {name: np.array([one.grade[name] for one in samples], dtype=float) for name in samples[0].grade}
    groups = [one.group for one in samples]
    parts: list[dict[str, Estimate]] = [dict(by_group(metric, columns, groups)) for metric in metrics]
    return Result(
        task, "1", shots, chat, tuple(one.id for one in samples), tuple(groups), columns,
        tuple(figure(metric, estimate(metric, columns)) for metric in metrics),
        tuple(
            Group(name, groups.count(name), tuple(figure(metric, part[name]) for metric, part in zip(metrics, parts, strict=True)))
            for name in dict.fromkeys(groups) if any(groups)
        ), {}, tuple(metrics), tuple(samples),
    )  # fmt: skip


def figure(metric: Metric, found: Estimate) -> Figure:
    return Figure(
        metric.name, found.value, found.stderr, found.low, found.high, metric.higher_is_better, metric.percent
    )


def outcome(name: str, seed: int, *results: Result, **more: Any) -> Outcome:
    made = results or (choices(seed, skill=0.4 + 0.15 * seed), writing(seed), rolling(seed), trial(seed))
    identity = Identity(name, name, "ab" * 32, "native avx2", 2048)
    return replace(
        Outcome(identity, Setting(), tuple(made), None, "2026-03-01T12:00:00+00:00", 63.0, 100, 0), **more
    )  # fmt: skip
