"""Soak the engine: random requests with cancels, stop strings, forks, deadlines and preemptions under too few pages.

    python benchmarks/soak.py [REQUESTS]          default 20,000

The model is a toy whose logits depend on every token that it finds in the pages it is given (tests/engine/toy_executor.py),
so that what is measured is the engine's own bookkeeping. All books are checked at every step, a share of the answers
against the same request answered alone, and memory must stay flat: after the run the process may not be larger than after
the second tenth of it by more than 2 MB.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))
from toy_executor import Answer, ToyExecutor, engine_of, expected

from hornbook.engine.requests import Handle, Request
from hornbook.types import SamplingParams

CHECKED = 20  # one answer in so many is made again, alone


def random_request(rng: random.Random) -> Request:
    begin = [7 + rng.randrange(4)] * 16 * rng.randint(0, 3)
    ids = [*begin, *(rng.randrange(4, 61) for _ in range(rng.randint(1, 60)))]
    if rng.random() < 0.05 and len(ids) > 2:
        return Request(ids, score_from=rng.randrange(1, len(ids)))
    params = SamplingParams(
        max_tokens=rng.randint(1, 40),
        temperature=rng.choice([0.0, 0.8]),
        top_p=rng.choice([1.0, 0.9]),
        repetition_penalty=rng.choice([1.0, 1.1]),
        stop=rng.choice([(), (), ("AB", "Q"), ("Zz",)]),
        seed=rng.randrange(2**40),
        n=rng.choice([1, 1, 1, 1, 2, 4]),
    )
    deadline = rng.choice([None, None, None, None, 5.0])
    return Request(ids, params, priority=rng.choice([0, 0, 0, 1, -1]), deadline=deadline)


def soak(requests: int, seed: int = 1) -> dict[str, Any]:
    """Run them, at most 40 at once. Raises AssertionError at the first wrong book, answer or leak."""
    rng = random.Random(seed)
    now = [0.0]
    executor = ToyExecutor(pages=60)
    engine = engine_of(executor, max_running=24, step_tokens=96, clock=lambda: now[0])
    open_: dict[Handle, list[Answer]] = {}
    ends: Counter[str] = Counter()
    memory: list[int] = []  # after each tenth, bytes
    process = psutil.Process()
    submitted = 0
    begun = time.perf_counter()
    while submitted < requests or open_:
        while submitted < requests and len(open_) < 40 and rng.random() < 0.7:
            request = random_request(rng)
            open_[engine.submit(request)] = [Answer() for _ in range(request.params.n)]
            submitted += 1
            if submitted % max(1, requests // 10) == 0:
                memory.append(process.memory_info().rss)
        if open_ and rng.random() < 0.02:
            engine.cancel(rng.choice(list(open_)))
        now[0] += 0.02
        for event in engine.step():
            answers = open_[event.handle]
            if event.token is not None:
                answers[event.answer].hear(event.token)
            if event.last:
                del open_[event.handle]
                ends[_end(event, answers)] += 1
                if _is_whole(answers) and rng.randrange(CHECKED) == 0:
                    assert answers == expected(executor, event.handle.request)
                    ends["checked against the same alone"] += 1
        engine.scheduler.check()
        for steps in (executor.tokens, executor.sequences, executor.rows):
            steps.clear()
    stats = engine.stats()
    assert stats.pages_used == 0 and not engine.has_work
    if len(memory) > 2:
        assert memory[-1] <= memory[1] + 2e6, f"memory grew: {memory}"
    return {"seconds": time.perf_counter() - begun, "ends": dict(ends), "memory": memory, "stats": stats}


def _end(event: Any, answers: list[Answer]) -> str:
    if event.error is not None:
        return type(event.error).__name__
    return "score" if event.score is not None else str(answers[event.answer].reason)


def _is_whole(answers: list[Answer]) -> bool:
    return all(answer.reason in ("stop", "length") for answer in answers)


if __name__ == "__main__":
    result = soak(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
    print(f"done in {result['seconds']:.0f} s")
    print("ends:", ", ".join(f"{name} {count:,}" for name, count in sorted(result["ends"].items())))
    print("memory after each tenth, MB:", " ".join(f"{size / 1e6:,.1f}" for size in result["memory"]))
    print(result["stats"])
