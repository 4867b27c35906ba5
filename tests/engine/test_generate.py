"""The plain generator against a stand-in model whose logits are a function of the whole prefix, so every slip shows."""

from __future__ import annotations

import gc
import random
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hornbook.engine.generate import Generator, Step
from hornbook.errors import ContextTooLong, GenerationError, UsageError
from hornbook.types import SamplingParams

VOCABULARY = "abcdefghijklmnopqrstuvwxyz ."
EOS = len(VOCABULARY)
V = EOS + 1


class ListCache:
    """A cache that is nothing but the tokens that each row was given."""

    def __init__(self, rows: int, capacity: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.capacity = capacity

    def keep(self, rows: list[int]) -> None:
        self.tokens = [self.tokens[row] for row in rows]


def logits_of(prefix: list[int]) -> Tensor:
    noise = torch.Generator().manual_seed(hash(tuple(prefix)) % 2**31)
    return torch.randn(V, generator=noise) * 3


class PrefixModel:
    """Next-token logits are pseudo-random in the whole prefix. Records how many tokens each forward was given."""

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.batches: list[int] = []
        self.poison: set[tuple[int, ...]] = set()  # prompts after which the logits are NaN

    def __call__(self, ids: Tensor, *, mask: Tensor | None, cache: ListCache, logits: str) -> Any:
        self.widths.append(ids.numel())
        self.batches.append(len(ids))
        for row, tokens in enumerate(cache.tokens):
            new = ids[row] if mask is None else ids[row][mask[row]]
            tokens.extend(new.tolist())
            assert len(tokens) < cache.capacity, "a token was fed whose successor nobody may see"
        if logits == "none":
            return SimpleNamespace(logits=None)
        out = torch.stack([logits_of(tokens) for tokens in cache.tokens])
        for row, tokens in enumerate(cache.tokens):
            if tuple(tokens) in self.poison:
                out[row, 3] = torch.nan
        return SimpleNamespace(logits=out)


class Letters:
    def push(self, id: int) -> str:
        return VOCABULARY[id] if id < EOS else ""

    def flush(self) -> str:
        return ""


def generator(model: Any = None, **options: Any) -> Generator:
    settings = {"context_length": 64, "vocab_size": V, "stop_ids": frozenset({EOS}), **options}
    return Generator(model or PrefixModel(), new_cache=ListCache, new_decoder=Letters, **settings)


def by_row(steps: Any, rows: int) -> list[list[Step]]:
    out: list[list[Step]] = [[] for _ in range(rows)]
    for step in steps:
        out[step.row].append(step)
    return out


def tokens(steps: list[Step]) -> list[Any]:
    return [(step.token.id, step.token.text, step.token.finish_reason) for step in steps if step.token]


def expected(prompt: list[int], params: SamplingParams, context: int = 64) -> list[int]:
    """Greedy, with no cache and no batch: the definition."""
    ids = list(prompt)
    while len(ids) - len(prompt) < params.max_tokens and len(ids) < context:
        ids.append(int(logits_of(ids).argmax()))
        if ids[-1] == EOS and not params.ignore_eos:
            break
    return ids[len(prompt) :]


def ragged(n: int, longest: int = 40, seed: int = 3) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(V) for _ in range(draw.randint(1, longest))] for _ in range(n)]


@pytest.mark.parametrize(("rows", "prefill"), [(1, 1024), (4, 1024), (16, 1024), (16, 1), (5, 7), (3, 64)])
def test_batched_and_chunked_is_the_definition(rows: int, prefill: int) -> None:
    prompts = ragged(9)
    sampling = [SamplingParams(max_tokens=1 + 3 * i, ignore_eos=i % 2 == 0) for i in range(9)]
    out = by_row(generator(rows=rows, prefill=prefill).run(prompts, sampling), 9)
    for prompt, params, steps in zip(prompts, sampling, out, strict=True):
        assert [step.token.id for step in steps if step.token] == expected(prompt, params)
        assert steps[-1].token and steps[-1].token.finish_reason
        assert all(step.token and step.token.finish_reason is None for step in steps[:-1])


def test_prefill_is_bounded_and_finished_rows_are_dropped() -> None:
    model = PrefixModel()
    prompts = ragged(4)
    sampling = [SamplingParams(max_tokens=n, ignore_eos=True) for n in (1, 2, 6, 9)]
    list(generator(model, prefill=20).run(prompts, sampling))
    assert max(model.widths) <= 20
    assert model.batches[-1] == 1
    assert sorted(set(model.batches), reverse=True) == [4, 3, 2, 1]


def test_a_seed_gives_its_text_whatever_runs_beside_it() -> None:
    prompt = [1, 2, 3]
    params = SamplingParams(max_tokens=20, temperature=1.3, top_p=0.95, seed=5, ignore_eos=True)
    alone = by_row(generator().run([prompt], [params]), 1)[0]
    others = ragged(6)
    loud = [SamplingParams(max_tokens=30, temperature=2.0, seed=i) for i in range(6)]
    beside = by_row(generator().run([*others, prompt], [*loud, params]), 7)[6]
    assert tokens(alone) == tokens(beside)


def test_logprobs_are_of_the_models_own_distribution_whatever_the_filters() -> None:
    params = SamplingParams(max_tokens=8, temperature=0.3, top_k=2, presence_penalty=1.0, seed=1, ignore_eos=True)
    steps = by_row(generator().run([[4, 5]], [params]), 1)[0]
    prefix = [4, 5]
    for step in steps:
        assert step.token and step.token.id is not None
        assert step.token.logprob == pytest.approx(float(logits_of(prefix).log_softmax(-1)[step.token.id]), abs=1e-5)
        prefix.append(step.token.id)
    quiet = by_row(generator().run([[4, 5]], [SamplingParams(max_tokens=2, logprobs=False)]), 1)[0]
    assert all(step.token and step.token.logprob is None for step in quiet)


def test_eos_ends_with_stop_and_is_counted_but_not_heard() -> None:
    prompt = next(p for p in ragged(400, 5) if EOS in expected(p, SamplingParams(max_tokens=40)))
    steps = by_row(generator().run([prompt], [SamplingParams(max_tokens=40)]), 1)[0]
    assert tokens(steps)[-1] == (EOS, "", "stop")
    longer = by_row(generator().run([prompt], [SamplingParams(max_tokens=40, ignore_eos=True)]), 1)[0]
    assert len(longer) == 40
    assert tokens(longer)[-1][2] == "length"


def test_a_stop_string_across_tokens_ends_the_row_and_is_never_heard() -> None:
    free = by_row(generator().run([[7]], [SamplingParams(max_tokens=30, ignore_eos=True)]), 1)[0]
    text = "".join(step.token.text for step in free if step.token)
    stop = text[10:13]
    steps = by_row(generator().run([[7]], [SamplingParams(max_tokens=30, ignore_eos=True, stop=(stop,))]), 1)[0]
    assert "".join(step.token.text for step in steps if step.token) == text[: text.index(stop)]
    assert tokens(steps)[-1][2] == "stop"
    heard = ["".join(step.token.text for step in free[:n] if step.token) for n in range(len(free) + 1)]
    assert len(steps) == next(n for n, so_far in enumerate(heard) if stop in so_far)


def test_text_held_back_for_a_stop_string_is_released_at_the_end() -> None:
    free = by_row(generator().run([[7]], [SamplingParams(max_tokens=9, ignore_eos=True)]), 1)[0]
    text = "".join(step.token.text for step in free if step.token)
    params = SamplingParams(max_tokens=9, ignore_eos=True, stop=(text[-2:] + "#",))
    steps = by_row(generator().run([[7]], [params]), 1)[0]
    assert "".join(step.token.text for step in steps if step.token) == text
    assert tokens(steps)[-1][1:] == (text[-2:], "length")


def test_a_prompt_that_does_not_fit_is_refused_before_any_work_with_both_numbers() -> None:
    model = PrefixModel()
    with pytest.raises(ContextTooLong, match=r"64 tokens.*holds 64"):
        generator(model).run([[1], [2] * 64], [SamplingParams()] * 2)
    assert not model.widths


def test_a_full_window_ends_with_length() -> None:
    steps = by_row(generator().run([[2] * 60], [SamplingParams(max_tokens=500, ignore_eos=True)]), 1)[0]
    assert len(steps) == 4
    assert tokens(steps)[-1][2] == "length"


@pytest.mark.parametrize(("prompt", "what"), [([], "empty"), ([3, V], f"token id {V}"), ([-1], "token id -1")])
def test_bad_prompts_are_named_before_any_work(prompt: list[int], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        generator().run([prompt], [SamplingParams()])


def test_unusable_logits_fail_one_row_and_the_others_go_on() -> None:
    model = PrefixModel()
    model.poison.add((5, 6))
    params = SamplingParams(max_tokens=5, ignore_eos=True)
    out = by_row(generator(model).run([[1], [5, 6], [2]], [params] * 3), 3)
    assert isinstance(out[1][0].error, GenerationError)
    assert len(out[1]) == 1
    assert [step.token.id for step in out[0] if step.token] == expected([1], params)
    assert [step.token.id for step in out[2] if step.token] == expected([2], params)


def test_closing_the_iterator_frees_the_cache() -> None:
    caches: list[weakref.ref[ListCache]] = []

    def new_cache(rows: int, capacity: int) -> ListCache:
        cache = ListCache(rows, capacity)
        caches.append(weakref.ref(cache))
        return cache

    engine = generator()
    engine.new_cache = new_cache
    steps = engine.run([[1], [2]], [SamplingParams(max_tokens=50, ignore_eos=True)] * 2)
    next(steps)
    assert caches[0]() is not None
    steps.close()  # type: ignore[attr-defined]
    gc.collect()
    assert caches[0]() is None


def test_nothing_to_do_is_nothing_done() -> None:
    assert list(generator().run([], [])) == []
