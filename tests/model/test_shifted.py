"""Shifted sparse attention is what its paper writes out, without the leak, and full attention where groups are large."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hornbook.errors import UsageError
from hornbook.model.attention import AttentionRule, Uncached, attend_plainly
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.positions import Alibi
from hornbook.model.shifted import Shifted
from hornbook.model.transformer import Transformer

RULE = AttentionRule(scale=0.5)
CONFIG = ModelConfig(
    vocab_size=30, layers=2, width=24, heads=3, kv_heads=1, head_width=8, feedforward_width=16, context_length=64,
    pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip


def heads(rows: int, query: int, shared: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(length)
    return tuple(torch.randn(rows, n, length, 4, generator=chance) for n in (query, shared, shared))  # type: ignore[return-value]


def algorithm_1(q: Tensor, k: Tensor, v: Tensor, group: int) -> Tensor:
    """arXiv 2309.12307, algorithm 1, line by line, [B,N,3,H,D]; the mask keeps what was rolled round to itself."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    qkv = torch.stack([x.transpose(1, 2) for x in (q, k, v)], dim=2)
    rows, length, _, count, width = qkv.shape
    halves = qkv.chunk(2, 3)
    qkv = torch.cat((halves[0], halves[1].roll(-group // 2, 1)), 3).view(rows * length // group, group, 3, count, width)
    rolled = torch.arange(length).roll(-group // 2).view(-1, group)
    visible = torch.ones(length // group, count, group, group, dtype=torch.bool).tril()
    visible[:, halves[0].shape[3] :] &= ((rolled[:, :, None] - rolled[:, None, :]).abs() < group)[:, None]
    parts = [x.transpose(1, 2) for x in qkv.unbind(2)]
    mixed = attend_plainly(*parts, RULE, visible=visible.repeat(rows, 1, 1, 1)).transpose(1, 2)
    out = mixed.reshape(rows, length, count, width).chunk(2, 2)
    return torch.cat((out[0], out[1].roll(group // 2, 1)), 2).transpose(1, 2)


@pytest.mark.parametrize(("query", "shared"), [(4, 4), (4, 2), (6, 3), (9, 3), (5, 1)])
def test_it_is_the_papers_algorithm(query: int, shared: int) -> None:
    qkv = heads(2, query, shared, 48)
    torch.testing.assert_close(Shifted(16).attend(0, *qkv, RULE), algorithm_1(*qkv, 16))


@pytest.mark.parametrize("length", [1, 5, 16, 24, 31])
def test_any_length_is_what_the_mask_over_all_pairs_says(length: int) -> None:
    q, k, v = heads(2, 4, 2, length)
    fast, slow = Shifted(8), Shifted(8)
    torch.testing.assert_close(fast.attend(0, q, k, v, RULE), slow.by_mask(q, k, v, RULE))


def test_a_group_of_twice_the_text_is_full_attention() -> None:
    q, k, v = heads(2, 4, 2, 20)
    torch.testing.assert_close(Shifted(40).attend(0, q, k, v, RULE), Uncached(None).attend(0, q, k, v, RULE))


def test_padding_on_either_side_changes_no_real_token() -> None:
    q, k, v = heads(1, 4, 2, 21)
    alone = Shifted(8).attend(0, q, k, v, RULE)
    for left in (0, 5):
        padded = [torch.nn.functional.pad(x, (0, 0, left, 5 - left), value=7.0) for x in (q, k, v)]
        mask = torch.zeros(1, 26, dtype=torch.bool)
        mask[:, left : left + 21] = True
        mixed = Shifted(8, mask).attend(0, *padded, RULE)
        assert mixed.isfinite().all()
        torch.testing.assert_close(mixed[:, :, left : left + 21], alone)


def test_documents_of_a_packed_row_are_what_each_is_alone() -> None:
    torch.manual_seed(0)
    model, ids, bounds = Transformer(CONFIG).train(), torch.arange(30)[None], [0, 3, 20, 30]
    model.shifted = 8
    packed = model(ids, segments=torch.tensor(bounds)).logits
    for start, end in zip(bounds, bounds[1:], strict=False):
        torch.testing.assert_close(packed[:, start:end], model(ids[:, start:end]).logits)
    model.shifted = None
    assert not torch.allclose(packed, model(ids, segments=torch.tensor(bounds)).logits)


def test_distances_keep_their_bias() -> None:
    q, k, v = heads(1, 4, 4, 12)
    rule = replace(RULE, bias=Alibi(4, 1.0))
    full = Uncached(None).attend(0, q, k, v, rule)
    torch.testing.assert_close(Shifted(24).attend(0, q, k, v, rule), full)
    assert not torch.allclose(Shifted(4).attend(0, q, k, v, rule), full)


def test_no_token_sees_what_comes_after_it_and_over_the_layers_all_is_in_reach() -> None:
    torch.manual_seed(0)
    model = Transformer(replace(CONFIG, layers=8)).train()
    model.shifted = 4
    vectors = torch.randn(1, 24, 24, requires_grad=True)
    (seen,) = torch.autograd.grad(model(embeds=vectors, logits="none").hidden[0, 13].sum(), vectors)
    reached = seen[0].abs().sum(-1) > 0
    assert reached[:14].all() and not reached[14:].any()


def test_it_is_for_training_alone() -> None:
    torch.manual_seed(0)
    model, ids = Transformer(CONFIG).train(), torch.arange(20)[None]
    full = model(ids).logits
    model.shifted = 4
    assert not torch.allclose(model(ids).logits, full)
    torch.testing.assert_close(model(ids, cache=ContiguousCache(CONFIG, 1, 20)).logits, full)
    torch.testing.assert_close(model.eval()(ids).logits, full)


def test_what_it_cannot_serve_is_refused() -> None:
    q, k, v = heads(1, 4, 2, 8)
    for group in (0, 1, 7, -2):
        with pytest.raises(UsageError, match=f"groups of {group} tokens"):
            Shifted(group)
    with pytest.raises(UsageError, match="left to right"):
        Shifted(4).attend(0, q, k, v, replace(RULE, causal=False))


def test_layers_with_a_window_stay_as_they_are() -> None:
    q, k, v = heads(1, 4, 2, 8)
    rule = replace(RULE, window=3)
    torch.testing.assert_close(Shifted(4).attend(0, q, k, v, rule), Uncached(None).attend(0, q, k, v, rule))
