"""Scores are those of lm-evaluation-harness with transformers: the same items, prompts and weights, in float32.

What the harness found is kept in golden/, by benchmarks/evals.py; of two items of each kind it is found anew here. The whole
samples, and a second model, are in docs/results/evals.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_samples import (
    KINDS,
    Judged,
    accuracies,
    difference,
    judged_by_harness,
    judged_by_us,
    ours,
    reference,
    restored,
    result_of,
    sample,
    theirs,
)

from hornbook.evals.run import run
from hornbook.evals.task import Setting
from hornbook.llm import load
from hornbook.settings import Settings

ITEMS, ANEW = 100, 2
FIRST = 12  # tokens of a written answer that are compared
GOLDEN = Path(__file__).parent / "golden" / "harness-smollm2-135m.json"

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def weights(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's in float32, as our export writes them for transformers."""
    from hornbook.checkpoint.loading import load as read
    from hornbook.checkpoint.saving import save

    folder = tmp_path_factory.mktemp("smollm2-float32")
    save(read(smollm2_path, dtype="float32", device="cpu"), folder)
    return folder


@pytest.fixture(scope="module")
def llm(weights: Path) -> Iterator[Any]:
    with load(str(weights), device="cpu", settings=Settings(cache="float32")) as model:
        assert model.runs_on.startswith("native")
        yield model


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, list[Judged]]]:
    return {kind: restored(found) for kind, found in json.loads(GOLDEN.read_text("utf-8")).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_items_are_worth_what_the_harness_says(
    kind: str, llm: Any, golden: Any, shared: Path, tmp_path: Path
) -> None:
    given = sample(shared, kind, ITEMS)
    task = ours(tmp_path, shared, kind, given)
    if kind == "gsm8k":
        from dataclasses import replace

        task.sampling = replace(task.sampling, max_tokens=FIRST)  # type: ignore[attr-defined]
    mine = judged_by_us(result_of(run(llm, [task], setting=Setting(shots=0), batch=ITEMS), kind))
    if kind == "gsm8k":
        texts = [(one.text, other.text) for one, other in zip(mine[kind], golden[kind][kind], strict=True)]
        assert len(texts) == ITEMS and all(theirs.startswith(ours) and (ours or not theirs) for ours, theirs in texts)
        return
    found = difference(mine, golden[kind])
    assert found.items == ITEMS
    assert found.furthest < 1e-3
    assert (found.choices, found.greedy, found.grades) == (0, 0, 0)
    assert accuracies(mine) == accuracies(golden[kind])


def test_the_harness_still_says_so(weights: Path, golden: Any, shared: Path) -> None:
    pytest.importorskip("lm_eval", exc_type=ImportError)
    model = reference(weights)
    for kind in KINDS:
        if kind == "gsm8k":
            continue
        given = sample(shared, kind, ITEMS)[:ANEW]
        found = judged_by_harness(model, theirs(shared, kind, given))
        kept = {name: golden[kind][name][: len(several)] for name, several in found.items()}
        assert difference(found, kept).furthest < 1e-3
