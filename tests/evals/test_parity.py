"""Scores are those of lm-evaluation-harness with transformers: the same items, prompts and weights, in float32.

What the harness found is kept in golden/, by benchmarks/evals.py; of two items of each kind it is found anew here. The whole
samples are in docs/results/evals.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
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
# By model: how many tokens of a written answer are compared here; None: all. Gemma's would take minutes.
MODELS = {"smollm2-135m": None, "gemma3-270m": 12}
FILES = {"smollm2-135m": "smollm2_path", "gemma3-270m": "gemma_path"}

GOLDEN = Path(__file__).parent / "golden"

pytestmark = pytest.mark.models


@pytest.fixture(scope="module", params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def weights(name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The model's in float32, as our export writes them for transformers."""
    from hornbook.checkpoint.loading import load as read
    from hornbook.checkpoint.saving import save

    folder = tmp_path_factory.mktemp(f"{name}-float32")
    save(read(request.getfixturevalue(FILES[name]), dtype="float32", device="cpu"), folder)
    yield folder
    rmtree(folder)  # a gigabyte


@pytest.fixture(scope="module")
def llm(weights: Path) -> Iterator[Any]:
    with load(str(weights), device="cpu", settings=Settings(cache="float32")) as model:
        assert model.runs_on.startswith("native")
        yield model


@pytest.fixture(scope="module")
def golden(name: str) -> dict[str, dict[str, list[Judged]]]:
    kept = json.loads((GOLDEN / f"harness-{name}.json").read_text("utf-8"))
    return {kind: restored(found) for kind, found in kept.items()}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gsm8k"])
def test_a_hundred_items_are_worth_what_the_harness_says(
    kind: str, llm: Any, golden: Any, shared: Path, tmp_path: Path
) -> None:
    task = ours(tmp_path, shared, kind, sample(shared, kind, ITEMS))
    mine = judged_by_us(result_of(run(llm, [task], setting=Setting(shots=0), batch=ITEMS), kind))
    found = difference(mine, golden[kind])
    assert found.items == ITEMS
    assert found.furthest < 1e-3
    assert (found.choices, found.greedy, found.grades) == (0, 0, 0)
    assert accuracies(mine) == accuracies(golden[kind])


def test_a_hundred_answers_are_what_the_harness_is_told(
    name: str, llm: Any, golden: Any, shared: Path, tmp_path: Path
) -> None:
    task = ours(tmp_path, shared, "gsm8k", sample(shared, "gsm8k", ITEMS))
    setting = Setting(shots=0, max_tokens=MODELS[name])
    mine = judged_by_us(result_of(run(llm, [task], setting=setting, batch=ITEMS), "gsm8k"))
    texts = [(one.text, other.text) for one, other in zip(mine["gsm8k"], golden["gsm8k"]["gsm8k"], strict=True)]
    assert len(texts) == ITEMS
    if MODELS[name] is None:
        assert [one for one, _ in texts] == [other for _, other in texts]
        assert difference(mine, golden["gsm8k"]).grades == 0
        assert accuracies(mine) == accuracies(golden["gsm8k"])
    else:
        assert all(theirs.startswith(ours) and (ours or not theirs) for ours, theirs in texts)


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
