"""A cache that forgets what no window reaches says what one that keeps everything says, at any length."""

from __future__ import annotations

import pytest
import torch

from hornbook.errors import ContextTooLong
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.rolling import RollingCache
from hornbook.model.transformer import Transformer

LOCAL, NEAR, WHOLE = (LayerKind(window, Rotary(100.0)) for window in (5, 3, None))
V, T, WINDOW, STEP = 61, 43, 5, 4
BASE = {"vocab_size": V, "layers": 3, "width": 24, "heads": 6, "head_width": 4, "feedforward_width": 32}
BASE |= {"context_length": 64}
CONFIGS = {
    "grouped": ModelConfig(**BASE, kv_heads=2, pattern=(LOCAL,)),
    "two windows and a whole layer": ModelConfig(**BASE, kv_heads=1, pattern=(LOCAL, NEAR, WHOLE)),
    "soft-capped": ModelConfig(**BASE, kv_heads=3, pattern=(LOCAL, WHOLE), attention_softcap=2.0),
    "distances as biases": ModelConfig(**BASE, kv_heads=6, pattern=(LayerKind(WINDOW),), alibi=1.0),
}


@pytest.fixture(params=CONFIGS, autouse=True)
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(3)
    return Transformer(CONFIGS[request.param]).eval().requires_grad_(False)


def texts(rows: int = 3, length: int = T, seed: int = 5) -> torch.Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def rolling(model: Transformer, rows: int, capacity: int = T, step: int = STEP) -> RollingCache:
    return RollingCache(model.config, rows, capacity, step=step)


@pytest.mark.parametrize("steps", [[1] * T, [4] * 10 + [3], [3, 1, 4, 1, 2] + [4] * 8])
def test_it_is_the_whole_cache_and_one_pass(model: Transformer, steps: list[int]) -> None:
    ids, ring, whole = texts(), rolling(model, 3), ContiguousCache(model.config, 3, T)
    found, kept = (
        torch.cat([model(part, cache=cache).logits for part in ids.split(steps, dim=1)], dim=1)
        for cache in (ring, whole)
    )
    close(found, kept)
    close(found, model(ids).logits)
    assert ring.lengths.tolist() == [T] * 3


def test_its_memory_is_the_windows_and_not_the_text_s(model: Transformer) -> None:
    cache = RollingCache(model.config, 2, 1 << 20, step=STEP)
    for layer in range(model.config.layers):
        window = model.config.kind(layer).window
        assert window is None or cache._keys[layer].shape[2] == window + STEP - 1 + 1, "one slot takes the padding"


def test_rows_grow_at_their_own_pace(model: Transformer) -> None:
    """Chunks of 0 to 4 tokens, a different number for each row at each step, padding wherever it falls."""
    ids, cache, lengths = texts(4), rolling(model, 4), [0] * 4
    expected, generator = model(ids).logits, torch.Generator().manual_seed(11)
    while min(lengths) < T - STEP:
        mask = torch.rand(4, STEP, generator=generator) < torch.tensor([0.9, 0.6, 0.6, 0.3])[:, None]
        part = torch.zeros(4, STEP, dtype=torch.long)
        for row in range(4):
            mask[row] &= mask[row].cumsum(0) <= T - lengths[row]
            more = int(mask[row].sum())
            part[row, mask[row]] = ids[row, lengths[row] : lengths[row] + more]
        found = model(part, mask=mask, cache=cache).logits
        for row in range(4):
            more = int(mask[row].sum())
            close(found[row, mask[row]], expected[row, lengths[row] : lengths[row] + more])
            lengths[row] += more
    assert cache.lengths.tolist() == lengths


def test_forks_go_their_own_ways_and_kept_rows_keep_their_past(model: Transformer) -> None:
    ids, cache = texts(2, 22), rolling(model, 2)
    for part in ids.split(STEP, dim=1):
        model(part, cache=cache)
    assert cache.fork(1, 2) == [2, 3]
    tails = texts(4, 9, seed=6)
    found = torch.cat([model(part, cache=cache).logits for part in tails.split(STEP, dim=1)], dim=1)
    for row, past in enumerate([0, 1, 1, 1]):
        close(found[row], model(torch.cat([ids[past], tails[row]])[None]).logits[0, 22:])
    cache.keep([3, 0])
    last = texts(2, 1, seed=7)
    found = model(last, cache=cache).logits
    for row, (past, tail) in enumerate([(1, 3), (0, 0)]):
        close(found[row, 0], model(torch.cat([ids[past], tails[tail], last[row]])[None]).logits[0, -1])


@pytest.mark.parametrize("back", [1, 2, 3])
def test_a_row_is_cut_as_far_back_as_its_rings_reach(model: Transformer, back: int) -> None:
    ids, other, cache = texts(2, 24), texts(2, 12, seed=8), rolling(model, 2)
    for part in ids.split(STEP, dim=1):
        model(part, cache=cache)
    cache.truncate(0, 24 - back)
    found = torch.cat([model(part, cache=cache).logits for part in other.split(STEP, dim=1)], dim=1)
    close(found[0], model(torch.cat([ids[0, : 24 - back], other[0]])[None]).logits[0, 24 - back :])
    close(found[1], model(torch.cat([ids[1], other[1]])[None]).logits[0, 24:])


def test_beyond_their_reach_it_is_refused_and_nothing_is_lost(model: Transformer) -> None:
    ids, cache = texts(2, 24), rolling(model, 2)
    for part in ids.split(STEP, dim=1):
        model(part, cache=cache)
    with pytest.raises(ValueError, match="row 1 holds 24 tokens and its rings only the last of them: .* cut to 9"):
        cache.truncate(1, 9)
    more = texts(2, STEP, seed=9)
    close(model(more, cache=cache).logits, model(torch.cat([ids, more], dim=1)).logits[:, 24:])
    with pytest.raises(ValueError, match="cannot be cut to -1"):
        cache.truncate(0, -1)
    cache.truncate(0, 0)  # an empty row needs no past
    assert cache.lengths.tolist() == [0, 24 + STEP]
    close(model(more, cache=cache).logits[0], model(more[:1]).logits[0])


def test_a_failed_step_leaves_the_rows_as_they_were(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, cache = texts(2, 30), rolling(model, 2)
    for part in ids[:, :20].split(STEP, dim=1):
        model(part, cache=cache)
    with monkeypatch.context() as broken:
        broken.setattr(model.blocks[-1].feedforward, "forward", lambda x: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(texts(2, STEP, seed=10), cache=cache)
    assert cache.lengths.tolist() == [20, 20]
    found = torch.cat([model(part, cache=cache).logits for part in ids[:, 20:].split(1, dim=1)], dim=1)
    close(found, model(ids).logits[:, 20:])


def test_wrong_use_is_refused_with_the_numbers(model: Transformer) -> None:
    cache = rolling(model, 2)
    with pytest.raises(ValueError, match="a pass of 5 tokens through a cache whose rings are made for 4"):
        model(texts(2, 5), cache=cache)
    for part in texts(2).split(STEP, dim=1):
        model(part, cache=cache)
    with pytest.raises(ContextTooLong, match=f"row 0 holds {T} tokens and 1 more"):
        model(texts(2, 1), cache=cache)
