"""What guesses for a model that ``load`` opens: who it is, that it changes nothing, and who is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hornbook
from hornbook.engine.draft_model import ModelDrafter
from hornbook.engine.speculative import Payoff, PromptLookup
from hornbook.errors import ModelClosed, UsageError
from hornbook.kernels.library import library
from hornbook.llm import LocalLLM
from hornbook.types import SamplingParams

TEXT = "one two three four, one two three four, one two"
GREEDY = SamplingParams(max_tokens=40, ignore_eos=True)
SEEDED = SamplingParams(max_tokens=40, ignore_eos=True, temperature=1.0, seed=3)
OF_THREE = replace(SEEDED, logit_bias={100: 100, 101: 100, 102: 100})  # tokens, so that runs come again


def drafter_of(llm: LocalLLM) -> Any:
    assert llm._driver is not None
    return llm._driver.engine._speculation._drafter


def opened(path: Path, **options: Any) -> LocalLLM:
    llm = hornbook.load(str(path), device="cpu", **options)
    assert isinstance(llm, LocalLLM)
    return llm


@pytest.mark.skipif(library() is None, reason="no native kernels")
@pytest.mark.parametrize("draft", ["auto", "lookup", "itself"])
def test_answers_are_the_same_with_drafts_and_without(
    draft: str, tiny_llm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Payoff, "plan", lambda self, keys, most: [most] * len(keys))
    given = str(tiny_llm_path) if draft == "itself" else draft
    with opened(tiny_llm_path, draft="none") as plain, opened(tiny_llm_path, draft=given) as drafted:
        assert drafter_of(plain) is None
        assert isinstance(drafter_of(drafted), ModelDrafter if draft == "itself" else PromptLookup)
        for params in (GREEDY, SEEDED if draft == "itself" else OF_THREE):
            assert drafted.generate([TEXT, "a"], params) == plain.generate([TEXT, "a"], params)
        stats = drafted.stats()
        assert plain.stats().drafted_tokens == 0 < stats.drafted_tokens
        if draft == "itself":  # it is always right
            assert stats.kept_tokens == stats.drafted_tokens


def test_on_torch_nothing_guesses_unless_it_is_asked_to(tiny_llm_path: Path) -> None:
    with opened(tiny_llm_path, dtype="float32") as llm:
        assert drafter_of(llm) is None
    with opened(tiny_llm_path, dtype="float32", draft="lookup") as llm:
        assert isinstance(drafter_of(llm), PromptLookup) and len(llm.generate(TEXT, GREEDY)[0].token_ids) == 40


def test_a_model_that_cannot_draft_is_refused_by_what_is_wrong(
    tiny_llm_path: Path, minilm_path: Path, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[LocalLLM] = []
    monkeypatch.setattr(LocalLLM, "__init__", lambda self, *args, **options: closed.append(self))
    for draft, what in [
        (smollm2_path, "its tokenizer has 49,152 tokens, the model's 384"),
        (minilm_path, "continues no text, and cannot draft"),
        ("http://localhost:1/v1#m", "a model on a server cannot draft"),
    ]:
        with pytest.raises(UsageError, match=what):
            hornbook.load(str(tiny_llm_path), device="cpu", draft=draft)
    assert not closed
    with pytest.raises(UsageError, match="draft is of no use to it"):
        hornbook.load(str(minilm_path), draft="lookup")
    with pytest.raises(UsageError, match="Leave device, dtype, stretch, draft and adapter out"):
        hornbook.load("http://localhost:1/v1#m", draft="lookup")


def test_a_closed_model_closes_its_drafter(tiny_llm_path: Path) -> None:
    llm = opened(tiny_llm_path, draft=str(tiny_llm_path))
    drafter = drafter_of(llm)
    llm.close()
    with pytest.raises(ModelClosed):
        drafter._executor.run(None)
