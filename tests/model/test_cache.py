"""A cache changes what a step costs and never what it says: every way of growing a text equals one pass over it."""

from __future__ import annotations

import pytest
import torch

from hornbook.errors import ContextTooLong
from hornbook.model.cache import FIRST_SLOTS, ContiguousCache
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer

LOCAL, WHOLE = LayerKind(window=5, rotary=Rotary(100.0)), LayerKind(rotary=Rotary(10_000.0))
V, T = 61, 23
BASE = {"vocab_size": V, "layers": 4, "width": 24, "heads": 6, "head_width": 4, "feedforward_width": 32}
CONFIGS = {
    "grouped": ModelConfig(**BASE, kv_heads=2, context_length=64, pattern=(WHOLE,)),
    "one key head, windows": ModelConfig(**BASE, kv_heads=1, context_length=64, pattern=(LOCAL, LOCAL, WHOLE)),
    "multi-head, all local": ModelConfig(**BASE, kv_heads=6, context_length=64, pattern=(LOCAL,)),
    "soft-capped": ModelConfig(**BASE, kv_heads=3, context_length=64, pattern=(LOCAL, WHOLE), attention_softcap=2.0),
    "learned positions": ModelConfig(**BASE, kv_heads=6, context_length=1024, positions="learned"),
}


@pytest.fixture(params=CONFIGS, autouse=True)
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(3)
    return Transformer(CONFIGS[request.param]).eval().requires_grad_(False)


def texts(rows: int = 3, length: int = T) -> torch.Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(5))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [[T], [1] * T, [7, 1, 1, 9, 5], [22, 1], [1, 22], [12, 11]])
def test_cache_on_is_cache_off(model: Transformer, steps: list[int]) -> None:
    ids = texts()
    cache = ContiguousCache(model.config, 3, T)
    found = torch.cat([model(part, cache=cache).logits for part in ids.split(steps, dim=1)], dim=1)
    close(found, model(ids).logits)
    assert cache.lengths.tolist() == [T] * 3


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_rows_of_different_lengths_are_what_they_are_alone(model: Transformer, side: str) -> None:
    """Prompts of 1 to 13 tokens, padded, then ten steps in which some rows sit out."""
    ids, cache = texts(4), ContiguousCache(model.config, 4, T)
    lengths, width = [13, 1, 6, 9], 15
    start = {"left": [width - n for n in lengths], "right": [0] * 4, "both": [1, 7, 3, 2]}[side]
    prompt, mask = torch.zeros(4, width, dtype=torch.long), torch.zeros(4, width, dtype=torch.bool)
    for row, (n, at) in enumerate(zip(lengths, start, strict=True)):
        prompt[row, at : at + n], mask[row, at : at + n] = ids[row, :n], True
    alone = [model(row[None]).logits[0] for row in ids]

    first = model(prompt, mask=mask, cache=cache, logits="last").logits
    close(first, torch.stack([alone[row][n - 1] for row, n in enumerate(lengths)]))
    for step in range(10):
        takes_part = torch.tensor([step < 10, step % 2 == 0, True, step < 4])
        token = torch.stack([ids[row, min(lengths[row], T - 1)] for row in range(4)])[:, None]
        found = model(token, mask=takes_part[:, None], cache=cache).logits
        for row in takes_part.nonzero()[:, 0].tolist():
            close(found[row, 0], alone[row][lengths[row]])
            lengths[row] += 1
    assert cache.lengths.tolist() == lengths


def test_several_tokens_are_appended_to_rows_of_different_lengths(model: Transformer) -> None:
    ids, cache = texts(2), ContiguousCache(model.config, 2, T)
    model(ids[:, :10], mask=torch.tensor([[True] * 10, [True] * 3 + [False] * 7]), cache=cache)
    more = torch.stack([ids[0, 10:14], ids[1, 3:7]])
    found = model(more, mask=torch.tensor([[True, True, False, False], [True] * 4]), cache=cache).logits
    whole = model(ids).logits
    close(found[0, :2], whole[0, 10:12])
    close(found[1], whole[1, 3:7])
    assert cache.lengths.tolist() == [12, 7]


def test_a_truncated_row_continues_as_a_fresh_one(model: Transformer) -> None:
    ids, other = texts(2), texts(2).flip(0, 1)
    cache = ContiguousCache(model.config, 2, T + 8)
    model(ids[:, :15], cache=cache)
    cache.truncate(0, 4)
    cache.truncate(1, 11)
    found = model(other[:, :8], cache=cache).logits
    close(found[0], model(torch.cat([ids[0, :4], other[0, :8]])[None]).logits[0, 4:])
    close(found[1], model(torch.cat([ids[1, :11], other[1, :8]])[None]).logits[0, 11:])


def test_forks_go_their_own_ways_and_kept_rows_keep_their_past(model: Transformer) -> None:
    ids, cache = texts(2), ContiguousCache(model.config, 2, T)
    model(ids[:, :9], cache=cache)
    assert cache.fork(1, 2) == [2, 3]
    tails = texts(4, 5)
    found = model(tails, cache=cache).logits
    for row, past in enumerate([0, 1, 1, 1]):
        close(found[row], model(torch.cat([ids[past, :9], tails[row]])[None]).logits[0, 9:])
    cache.keep([3, 0])
    assert cache.lengths.tolist() == [14, 14]
    last = texts(2, 1)
    found = model(last, cache=cache).logits
    for row, (past, tail) in enumerate([(1, 3), (0, 0)]):
        close(found[row, 0], model(torch.cat([ids[past, :9], tails[tail], last[row]])[None]).logits[0, -1])


def test_it_grows_by_doubling_and_never_past_its_capacity(model: Transformer) -> None:
    cache = ContiguousCache(model.config, 1, 3 * FIRST_SLOTS)
    ids = texts(1, FIRST_SLOTS + 2)
    moved = []
    for part in ids.split(1, dim=1):
        before = cache._keys[0].data_ptr()
        last = model(part, cache=cache).logits
        moved.append(cache._keys[0].data_ptr() != before)
    close(last[0, 0], model(ids).logits[0, -1])
    assert sum(moved) == 1, "copied once in passing its first block"
    assert cache._keys[0].shape[2] == 2 * FIRST_SLOTS
    with pytest.raises(ContextTooLong, match=rf"{FIRST_SLOTS + 2} tokens and 600 more .* {3 * FIRST_SLOTS}"):
        model(texts(1, 600), cache=cache)
    assert cache.lengths.tolist() == [FIRST_SLOTS + 2], "what was refused left nothing behind"


def test_a_failed_step_leaves_the_rows_as_they_were(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, cache = texts(2), ContiguousCache(model.config, 2, T)
    model(ids[:, :6], cache=cache)
    with monkeypatch.context() as broken:
        broken.setattr(model.blocks[-1].feedforward, "forward", lambda x: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(texts(2, 3).flip(1), cache=cache)
    assert cache.lengths.tolist() == [6, 6]
    close(model(ids[:, 6:], cache=cache).logits, model(ids).logits[:, 6:])


def test_wrong_use_is_refused_with_the_numbers(model: Transformer) -> None:
    cache = ContiguousCache(model.config, 2, 8)
    with pytest.raises(ValueError, match="3 rows of tokens for a cache of 2"):
        model(texts(3, 2), cache=cache)
    with pytest.raises(ContextTooLong, match="row 0 holds 0 tokens and 9 more"):
        model(texts(2, 9), cache=cache)
    with pytest.raises(ValueError, match="holds 0 tokens: it cannot be cut to 3"):
        cache.truncate(1, 3)
    with pytest.raises(ValueError, match="no row 2"):
        cache.fork(2, 1)
    with pytest.raises(ValueError, match=r"no rows \[-1, 5\]"):
        cache.keep([0, -1, 5])
    with pytest.raises(ValueError, match="causal"):
        ContiguousCache(ModelConfig(**BASE, kv_heads=6, context_length=8, causal=False), 1, 8)
