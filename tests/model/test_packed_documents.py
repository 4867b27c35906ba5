"""Documents packed in one row: loss and gradients are those of each document alone, and nothing leaks between them."""

from __future__ import annotations

import dataclasses
from functools import partialmethod

import pytest
import torch
from torch import Tensor

from hornbook.model import packed as packed_module
from hornbook.model.block import Block
from hornbook.model.config import LayerKind, ModelConfig, Relative, Rotary, RotaryScaling
from hornbook.model.packed import Packed
from hornbook.model.transformer import Transformer
from hornbook.train import blocks
from hornbook.train.batch import IGNORED, Batch, pad
from hornbook.train.initialise import initialise
from hornbook.train.losses import Objective, causal_lm, masked_lm

VOCAB = 37
TINY = ModelConfig(
    vocab_size=VOCAB, layers=2, width=24, heads=4, kv_heads=2, head_width=6, feedforward_width=40, context_length=16,
    pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip
CONFIGS = {
    "grouped heads": TINY,
    "windows in every second layer": dataclasses.replace(
        TINY, pattern=(LayerKind(rotary=Rotary(), window=3), LayerKind(rotary=Rotary()))
    ),
    "ALiBi": dataclasses.replace(TINY, pattern=(LayerKind(),), alibi=1.0, kv_heads=4),
    "learned positions": dataclasses.replace(TINY, pattern=(LayerKind(),), positions="learned", norm="layer"),
    "capped scores": dataclasses.replace(TINY, attention_softcap=2.0, qk_norm="head"),
    "relative positions": dataclasses.replace(TINY, pattern=(LayerKind(),), relative=Relative(8, 12), kv_heads=4),
    "stretched rotary": dataclasses.replace(
        TINY, pattern=(LayerKind(rotary=Rotary(scaling=RotaryScaling("yarn", 4.0, 8, magnitude=1.1))),)
    ),
    "BERT": dataclasses.replace(
        TINY, causal=False, pattern=(LayerKind(),), positions="learned", norm="layer", norm_placement="post",
        token_types=2, embedding_norm=True, head_transform=True, tied_head=True, kv_heads=4,
    ),
    "an encoder with relative positions and a window": dataclasses.replace(
        TINY, causal=False, pattern=(LayerKind(window=4), LayerKind()), relative=Relative(8, 12), kv_heads=4
    ),
}  # fmt: skip
LENGTHS = (7, 1, 13, 2, 7, 16, 1, 3)


def documents(causal: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Ids and labels of each, some labels IGNORED; a causal document's first label is never learnt."""
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(VOCAB, (length,), generator=draw) for length in LENGTHS]
    labels = [row.masked_fill(torch.rand(len(row), generator=draw) < 0.3, IGNORED) for row in ids]
    if causal:
        for row in labels:
            row[0] = IGNORED
    return ids, labels


def packed(ids: list[Tensor], labels: list[Tensor], types: bool) -> Batch:
    segments = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    row = torch.cat(ids)[None]
    return Batch(
        row, torch.cat(labels)[None], token_types=row % 2 if types else None, segments=segments, positions=positions
    )


def one_by_one(loss: Objective, model: Transformer, ids: list[Tensor], labels: list[Tensor], types: bool) -> float:
    """Each document in a padded row of its own pass; the gradients add up in the model."""
    over = loss.count(packed(ids, labels, types))
    total = 0.0
    for row, learnt in zip(ids, labels, strict=True):
        both, mask = pad([row.tolist(), [0] * 16], 0), torch.zeros(2, 16, dtype=torch.bool)
        mask[0, : len(row)] = True
        wanted = torch.full((2, 16), IGNORED)
        wanted[0, : len(row)] = learnt
        value, _ = loss(model, Batch(both, wanted, mask, both % 2 if types else None), over=over)
        value.backward()
        total += value.item()
    return total


@pytest.mark.parametrize("name", CONFIGS)
def test_a_packed_row_learns_what_its_documents_alone_would_teach(name: str) -> None:
    config = CONFIGS[name]
    model = initialise(Transformer(config), generator=torch.Generator().manual_seed(1)).double()
    if model.relative is not None:
        torch.nn.init.normal_(model.relative.weight, generator=torch.Generator().manual_seed(2))
    loss, types = causal_lm() if config.causal else masked_lm(), bool(config.token_types)
    ids, labels = documents(config.causal)
    alone = one_by_one(loss, model, ids, labels, types)
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    value, _ = loss(model, packed(ids, labels, types))
    value.backward()
    assert value.item() == pytest.approx(alone, rel=1e-6)
    scale = max(grad.abs().max() for grad in wanted.values())
    for parameter, p in model.named_parameters():
        if parameter in wanted:
            assert p.grad is not None
            assert (p.grad - wanted[parameter]).abs().max() <= 1e-6 * scale, parameter


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if config.causal])
def test_an_opening_that_documents_share_is_read_once_and_teaches_the_same(name: str) -> None:
    config = CONFIGS[name]
    model = initialise(Transformer(config), generator=torch.Generator().manual_seed(1)).double()
    if model.relative is not None:
        torch.nn.init.normal_(model.relative.weight, generator=torch.Generator().manual_seed(2))
    ids, labels = documents(True)
    firsts = [torch.tensor(first) for first in ([3, 1, 4, 1], [], [5, 9])]
    which = (0, 0, 1, 2, 0, 2, 1, 2)  # the opening of each document
    ids = [torch.cat([firsts[first], row[:12]]).long() for first, row in zip(which, ids, strict=True)]
    hidden = [torch.full((len(first),), IGNORED) for first in firsts]
    labels = [torch.cat([hidden[first], row[:12]]) for first, row in zip(which, labels, strict=True)]
    sizes = [len(row) for row in ids]
    apart = Batch(torch.cat(ids)[None], torch.cat(labels)[None], segments=torch.tensor([0, *sizes]).cumsum(0).int())
    # The row: documents 0, 1 and 4 behind the first opening, 2 and 6 without one, 3, 5 and 7 behind the last.
    order = [(None, 0), (0, 0), (1, 0), (4, 0), (2, 1), (6, 1), (None, 2), (3, 2), (5, 2), (7, 2)]
    parts = [
        (firsts[first], hidden[first])
        if at is None
        else (ids[at][len(firsts[first]) :], labels[at][len(firsts[first]) :])
        for at, first in order
    ]
    shared = Batch(
        torch.cat([part for part, _ in parts])[None],
        torch.cat([part for _, part in parts])[None],
        segments=torch.tensor([0, *(len(part) for part, _ in parts)]).cumsum(0).int(),
        openings=(-1, 0, 0, 0, -1, -1, -1, 6, 6, 6),
    )
    assert shared.tokens == apart.tokens == sum(sizes) == shared.ids.numel() + 2 * 4 + 2 * 2
    found = []
    for batch in (apart, shared):
        model.zero_grad()
        value, _ = causal_lm()(model, batch)
        value.backward()
        found.append(
            (value.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        )
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-7)
    scale = max(grad.abs().max() for grad in found[0][1].values())
    for parameter, grad in found[0][1].items():
        assert (found[1][1][parameter] - grad).abs().max() <= 1e-6 * scale, parameter


def by_its_manual(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, key_starts: Tensor, longest: int, longest_key: int, *,
    scale: float, window_size: tuple[int, int],
) -> Tensor:  # fmt: skip
    """What torch.nn.attention.varlen computes: [N,H,D], the last query of a document beside its last key."""
    out = []
    left, right = (size if size >= 0 else 1 << 30 for size in window_size)
    spans = zip(starts, starts[1:], key_starts, key_starts[1:], strict=False)
    for s, e, ks, ke in [tuple(map(int, span)) for span in spans]:
        assert e - s <= longest and ke - ks <= longest_key
        back = torch.arange(e - s)[:, None] + (ke - ks) - (e - s) - torch.arange(ke - ks)
        scores = scale * torch.einsum("qhd,khd->hqk", q[s:e], k[ks:ke])
        scores = scores.masked_fill((back > left) | (-back > right), -torch.inf)
        out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[ks:ke]))
    return torch.cat(out)


@pytest.mark.parametrize("openings", [None, (-1, 0, 0, -1, -1, 4, -1, 4)])
@pytest.mark.parametrize("name", ["grouped heads", "windows in every second layer", "BERT"])
def test_the_kernel_of_a_gpu_is_asked_for_the_same(
    name: str, openings: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its definition in its place, for it runs on a GPU only."""
    config = CONFIGS[name]
    if openings is not None and not config.causal:
        with pytest.raises(ValueError, match="not the same before every document"):
            Transformer(config)(torch.zeros(1, 5, dtype=torch.long), segments=torch.tensor([0, 2, 5]), openings=(-1, 0))
        return
    model = initialise(Transformer(config), generator=torch.Generator().manual_seed(1)).double()
    row, segments = torch.cat(documents(config.causal)[0])[None], torch.tensor([0, *LENGTHS]).cumsum(0).int()
    with torch.no_grad():
        wanted = model(row, segments=segments, openings=openings, logits="none").hidden
        monkeypatch.setattr(packed_module, "_fused", lambda q, rule: True)
        monkeypatch.setattr(packed_module, "_varlen", lambda: by_its_manual)
        found = model(row, segments=segments, openings=openings, logits="none").hidden
    assert (found - wanted).abs().max() < 1e-12


def test_compiled_blocks_are_not_compiled_again_for_every_packed_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second length is learnt to be one of many; from then on there is nothing new."""
    monkeypatch.setattr(blocks, "_try", lambda device: None)
    monkeypatch.setattr(Block, "compile", partialmethod(Block.compile, backend="eager"))
    monkeypatch.setattr(Packed, "attend", Packed.attend)
    model = initialise(Transformer(dataclasses.replace(TINY, layers=1)), generator=torch.Generator().manual_seed(1))
    ids = torch.cat(documents(True)[0])[None]
    rows = [(0, 7, 12), (0, 7, 8, 21), (0, 20, 30), (0, 1, 2, 5, 17)]
    plain = [model(ids[:, : row[-1]], segments=torch.tensor(row), logits="none").hidden for row in rows]
    assert blocks.compiled(model, torch.device("cpu"))
    programs = []
    for row, wanted in zip(rows, plain, strict=True):
        found = model(ids[:, : row[-1]], segments=torch.tensor(row), logits="none").hidden
        assert torch.allclose(found, wanted, atol=1e-6)
        programs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert programs[0] > 0 and programs[1:] == [programs[1]] * 3


def test_positions_are_counted_for_each_document_without_being_told() -> None:
    model = initialise(Transformer(TINY), generator=torch.Generator().manual_seed(1))
    ids, labels = documents(True)
    batch = packed(ids, labels, False)
    told = model(batch.ids, segments=batch.segments, positions=batch.positions).logits
    assert torch.equal(told, model(batch.ids, segments=batch.segments).logits)
    other = batch.ids.clone()
    other[0, 8:21] = 5  # the third document
    changed = (model(other, segments=batch.segments).logits != told).any(-1)[0]
    assert changed[8:21].any() and not changed[:8].any() and not changed[21:].any()


def test_segments_that_do_not_fit_are_refused() -> None:
    for wrong in ([0, 4], [1, 5], [0, 3, 3, 5], [0], [0, 6, 5]):
        with pytest.raises(ValueError, match="do not cover a row of 5 tokens"):
            Packed(torch.tensor(wrong), 5, torch.device("cpu"))
    model = Transformer(TINY)
    ids = torch.zeros(2, 5, dtype=torch.long)
    for openings in ((-1,), (0, -1, -1), (-1, 0, 1), (-1, 2, -1)):
        with pytest.raises(ValueError, match="do not open 3 segments"):
            Packed(torch.tensor([0, 1, 2, 5]), 5, torch.device("cpu"), openings=openings)
    with pytest.raises(ValueError, match="one row without padding"):
        model(ids, segments=torch.tensor([0, 5]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel for rows of documents is CUDA's")
@pytest.mark.parametrize("name", ["grouped heads", "windows in every second layer", "BERT"])
def test_on_a_gpu_the_whole_row_is_one_call(name: str) -> None:
    config = dataclasses.replace(CONFIGS[name], head_width=16)
    model = initialise(Transformer(config), generator=torch.Generator().manual_seed(1)).to("cuda", torch.bfloat16)
    ids, labels = documents(config.causal)
    batch = packed(ids, labels, False).to(model.device)
    with torch.no_grad():
        together = model(batch.ids, segments=batch.segments, positions=batch.positions, logits="none").hidden[0]
        alone = torch.cat([model(row[None].cuda(), logits="none").hidden[0] for row in ids])
    assert (together - alone).abs().max() <= 0.05 * alone.abs().max()
