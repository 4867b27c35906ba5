"""What is foretold of a run, against the executors that run it: who it is, what a step takes, how many texts fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hornbook.checkpoint.anatomy import Anatomy
from hornbook.checkpoint.memory import Request
from hornbook.checkpoint.packed import held
from hornbook.engine import opening
from hornbook.engine.executor import PAGE
from hornbook.engine.forecast import Running, foresee, registers
from hornbook.engine.lower import lower
from hornbook.engine.native import NativeExecutor
from hornbook.kernels.library import library
from hornbook.llm import LocalLLM, load
from hornbook.model.config import Experts, LayerKind, ModelConfig, Rotary
from hornbook.model.parameters import parameters
from hornbook.settings import Settings

NATIVE = pytest.mark.skipif(library() is None, reason="there are no native kernels here")
LLAMA = ModelConfig(
    vocab_size=512, layers=2, width=64, heads=4, kv_heads=2, head_width=16, feedforward_width=160, context_length=512,
    pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip
MIXTURE = replace(
    LLAMA, experts=Experts(6, 3, 96, True, 32, True), pattern=(LayerKind(rotary=Rotary(), sparse=True), *LLAMA.pattern)
)
BERT = replace(LLAMA, causal=False, language_head=False, norm="layer", norm_placement="post", gated=False)


def running(path: Path, dtype: str = "auto", **said: Any) -> tuple[Running, Anatomy]:
    anatomy = Anatomy.read(path)
    return foresee(path, anatomy.config, "cpu", dtype, Settings.load(**said)), anatomy


@NATIVE
@pytest.mark.parametrize("config", [LLAMA, BERT, MIXTURE], ids=["decoder", "encoder", "mixture"])
@pytest.mark.parametrize("type", ["Q8_0", None])
def test_a_step_is_counted_as_the_kernels_count_it(config: ModelConfig, type: str | None) -> None:
    plan = lower(config)
    weights = {
        name: held(name, np.ones(shape, np.float32), quantize=type) for name, shape in parameters(config).items()
    }
    executor = NativeExecutor(plan, weights, 8)
    for tokens, rows in ((512, 3), (300, 300)) if config.causal else ((512, 1), (2048, 1)):
        assert registers(plan, weights, tokens, rows) == pytest.approx(executor.scratch_bytes(tokens, rows), rel=0.03)
    executor.close()


@NATIVE
@pytest.mark.parametrize(
    ("said", "dtype"), [({}, "auto"), ({"native": False}, "auto"), ({}, "bfloat16")], ids=["native", "off", "dtype"]
)
def test_who_is_foretold_is_who_runs_it(tiny_llm_path: Path, said: dict[str, Any], dtype: str) -> None:
    foretold, _ = running(tiny_llm_path, dtype, **said)
    model = load(tiny_llm_path, device="cpu", dtype=dtype, settings=Settings.load(**said))
    assert isinstance(model, LocalLLM)
    with model:
        assert (foretold.executor, foretold.reason) == (model.runs_on, None)


@NATIVE
def test_a_model_beyond_the_kernels_says_why_torch_runs_it(
    tiny_llm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "obstacle", lambda config: "it sings")
    foretold, _ = running(tiny_llm_path)
    assert (foretold.native, foretold.reason) == (False, "it sings")


@pytest.mark.parametrize("native", [pytest.param(True, marks=NATIVE), False])
def test_texts_beyond_the_cache_wait_and_take_nothing(tiny_llm_path: Path, native: bool) -> None:
    first, anatomy = running(tiny_llm_path, native=native)
    room = 5 * 256 // PAGE * first.page_bytes
    foretold, _ = running(tiny_llm_path, native=native, cache_mb=room / 2**20)
    assert foretold.room == room
    assert [foretold.at_once(Request(anatomy, 256, batch)) for batch in (1, 5, 6, 100)] == [1, 5, 5, 5]
    caches = [foretold.plan(Request(anatomy, 256, batch)).worst.cache for batch in (1, 5, 100)]
    assert caches[0] <= caches[1] == caches[2]
    assert foretold.plan(Request(anatomy, 16)).peak <= foretold.plan(Request(anatomy, 256)).peak
