"""Adapters that are not LoRA, against what they are by definition: every kind, cached or not, padded, packed, stacked, off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hornbook import adapt
from hornbook.adapt.attached import Attached
from hornbook.adapt.bottleneck import Bottleneck
from hornbook.adapt.front import size_of
from hornbook.adapt.ia3 import IA3
from hornbook.adapt.lora import LoRA
from hornbook.adapt.prefix import Prefix
from hornbook.adapt.prompt import Prompt
from hornbook.adapt.ptuning import PTuning
from hornbook.adapt.reft import LoReFT, orthonormal
from hornbook.checkpoint.loading import load
from hornbook.engine.generate import Generator
from hornbook.engine.score import score
from hornbook.errors import HornbookError, ModelFileError, UnsupportedModel, UsageError
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.rolling import RollingCache
from hornbook.model.transformer import Transformer
from hornbook.text.stream import StreamDecoder
from hornbook.text.tokenizer import Tokenizer
from hornbook.train.batch import Batch, pad
from hornbook.train.loop import train
from hornbook.train.losses import causal_lm
from hornbook.types import SamplingParams

KINDS: dict[str, Any] = {
    "prompt": Prompt(5),
    "ptuning": PTuning(3, hidden=16),
    "prefix": Prefix(4),
    "prefix-projected": Prefix(4, projected=True, hidden=8),
    "bottleneck": Bottleneck(8),
    "pfeiffer": Bottleneck(8, "pfeiffer", "relu"),
    "ia3": IA3(),
    "loreft": LoReFT(3, first=2, last=3),
}
BEFORE = {kind: adapter for kind, adapter in KINDS.items() if adapter.needs_rows}
BESIDE = {kind: adapter for kind, adapter in KINDS.items() if not adapter.needs_rows}
STACKS: dict[str, tuple[Any, ...]] = {
    **{kind: (adapter,) for kind, adapter in KINDS.items()},
    "all at once": (LoReFT(2, first=1, last=2), Prompt(3), LoRA(4), Prefix(4), IA3(), Bottleneck(4), Prompt(2)),
}
ROWS = [[5, 9, 77, 30, 12, 8, 101, 44, 3, 3, 90], [7, 60, 3], [200, 4, 4, 17, 90, 31]]


@pytest.fixture(scope="module")
def model(tiny_llm_path: Path) -> Transformer:
    return load(tiny_llm_path).model


@pytest.fixture(autouse=True)
def as_it_was(model: Transformer) -> Iterator[None]:
    before = probe(model)
    yield
    for attached in reversed(list(model.attached.values())):
        attached.detach()
    assert torch.equal(probe(model), before), "what was taken off has left something behind"
    assert not model._forward_hooks and not model._forward_pre_hooks


@torch.no_grad()
def probe(model: Transformer) -> Tensor:
    return model(torch.tensor(ROWS[:1])).logits


def on(model: Transformer, *adapters: Any) -> list[Attached]:
    """Attached, with weights that are far from those of the beginning."""
    draw = torch.Generator().manual_seed(7)
    found = [adapter.attach(model, name=f"a{i}", generator=draw) for i, adapter in enumerate(adapters)]
    with torch.no_grad():
        for attached in found:
            for parameter in attached.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return found


def alone(model: Transformer, row: list[int], **more: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(torch.tensor([row]), **more).logits[0]
    return out


def generator_of(model: Transformer, cache: type[ContiguousCache], path: Path) -> Generator:
    """Six prompt tokens at a time."""
    config, ahead, tokenizer = model.config, size_of(model), Tokenizer.from_folder(path)
    return Generator(
        model,
        new_cache=lambda rows, capacity: cache(config, rows, capacity + ahead),
        new_decoder=lambda: StreamDecoder(tokenizer),
        context_length=config.context_length - ahead,
        vocab_size=config.vocab_size,
        prefill=6,
    )


# ------------------------------------------------------------------------------------------------ one model, many ways


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("cache", [ContiguousCache, RollingCache])
def test_a_generator_says_what_the_uncached_model_says(
    model: Transformer, stack: str, cache: type[ContiguousCache], tiny_llm_path: Path
) -> None:
    """Ragged prompts, in chunks of two tokens a row, then token by token."""
    on(model, *STACKS[stack])
    generator = generator_of(model, cache, tiny_llm_path)
    said: list[list[int]] = [[] for _ in ROWS]
    for step in generator.run(ROWS, [SamplingParams(max_tokens=5, temperature=0.0, ignore_eos=True)] * len(ROWS)):
        assert step.token is not None and step.token.id is not None
        said[step.row].append(step.token.id)
    for row, answer in zip(ROWS, said, strict=True):
        ids, prompts = list(row), torch.tensor([len(row)])
        for token in answer:
            ids.append(int(alone(model, ids, prompts=prompts)[-1].argmax()))
            assert ids[-1] == token


@pytest.mark.parametrize("stack", ["prefix", "loreft", "all at once"])
def test_continuations_are_judged_as_the_uncached_model_judges_them(
    model: Transformer, stack: str, tiny_llm_path: Path
) -> None:
    on(model, *STACKS[stack])
    starts = [6, 1, 3]
    found = score(generator_of(model, ContiguousCache, tiny_llm_path), list(zip(ROWS, starts, strict=True)))
    for row, start, own in zip(ROWS, starts, found, strict=True):
        logits = alone(model, row, prompts=torch.tensor([start]))[start - 1 : -1].log_softmax(-1)
        expected = logits.gather(1, torch.tensor(row[start:])[:, None]).sum()
        assert own.logprob == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("stack", STACKS)
def test_padding_on_either_side_changes_nothing(model: Transformer, stack: str) -> None:
    on(model, *STACKS[stack])
    ids, mask = pad(ROWS, 0), pad([[1] * len(row) for row in ROWS], 0).bool()
    for shift in (0, 1):
        placed: list[Tensor] = []
        for b, row in enumerate(ROWS):
            gap = shift * (ids.shape[1] - len(row))
            placed += [ids[b].roll(gap), mask[b].roll(gap)]
        padded, real = torch.stack(placed[::2]), torch.stack(placed[1::2])
        with torch.no_grad():
            out = model(padded, mask=real)
            last = model(padded, mask=real, logits="last").logits
        assert out.hidden.shape == (*ids.shape, model.config.width)
        for b, row in enumerate(ROWS):
            expected = alone(model, row)
            torch.testing.assert_close(out.logits[b][real[b]], expected, atol=5e-5, rtol=1e-5)
            torch.testing.assert_close(last[b], expected[-1], atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", BESIDE)
def test_a_packed_row_is_what_its_documents_are(model: Transformer, kind: str) -> None:
    on(model, BESIDE[kind])
    ends = torch.tensor([len(row) for row in ROWS]).cumsum(0)
    with torch.no_grad():
        packed = model(torch.tensor([sum(ROWS, [])]), segments=F.pad(ends, (1, 0))).logits[0]
    torch.testing.assert_close(packed, torch.cat([alone(model, row) for row in ROWS]), atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", BEFORE)
def test_what_stands_before_rows_refuses_packed_ones(model: Transformer, kind: str) -> None:
    on(model, BEFORE[kind])
    with pytest.raises(UsageError, match="packs several documents"):
        model(torch.tensor([ROWS[0]]), segments=torch.tensor([0, 4, len(ROWS[0])]))


def test_positions_that_are_given_are_those_of_the_tokens(model: Transformer) -> None:
    on(model, Prefix(4), Prompt(3))
    expected = alone(model, ROWS[0])
    given = alone(model, ROWS[0], positions=torch.arange(len(ROWS[0]))[None])
    assert torch.equal(given, expected)


def test_windows_learned_positions_and_biases_see_the_front() -> None:
    """A prefix is seen by a window as far as the window goes; positions of every kind count on from it."""
    torch.manual_seed(2)
    base = ModelConfig(60, 2, 16, 4, 2, 4, 24, 64)
    turned = (LayerKind(window=6, rotary=Rotary()), LayerKind(rotary=Rotary()))
    for config in (
        replace(base, pattern=turned),
        replace(base, positions="learned", pattern=(LayerKind(window=6), LayerKind())),
        replace(base, alibi=1.0),
    ):
        model = Transformer(config).eval()
        on(model, Prefix(4), Prompt(3))
        row = torch.tensor([[5, 9, 31, 30, 12, 8, 1, 44, 3]])
        for make in (ContiguousCache, RollingCache):
            cache = make(config, 1, 40)
            with torch.no_grad():
                pieces = [model(piece, cache=cache).logits for piece in row.split(2, dim=1)]
                torch.testing.assert_close(torch.cat(pieces, dim=1), model(row).logits, atol=1e-5, rtol=1e-5)
            assert cache.lengths.tolist() == [4 + 3 + row.shape[1]]


@pytest.mark.parametrize("kind", ["bottleneck", "ia3"])
def test_an_encoder_and_its_decoder_are_both_adapted(kind: str) -> None:
    torch.manual_seed(2)
    read = ModelConfig(60, 1, 12, 2, 2, 6, 16, 64, causal=False, language_head=False)
    model = Transformer(replace(ModelConfig(60, 2, 16, 4, 2, 4, 24, 64), encoder=read)).eval()
    source, target = torch.tensor([[3, 4, 5]]), torch.tensor([[6, 7]])
    with torch.no_grad():
        memory = model.encode(source)
        before = memory.hidden, model(target, memory=memory).logits
        attached = on(model, BESIDE[kind])[0]
        assert not torch.allclose(model.encode(source).hidden, before[0])
        assert not torch.allclose(model(target, memory=memory).logits, before[1])
        attached.detach()
        assert torch.equal(model(target, memory=model.encode(source)).logits, before[1])


# --------------------------------------------------------------------------------------------------------- definitions


def test_a_prompt_is_vectors_before_the_rows(model: Transformer) -> None:
    attached = on(model, Prompt(5))[0]
    vectors = next(attached.parameters())
    with attached.disabled(), torch.no_grad():
        embeds = torch.cat([vectors[None], model.vectors(torch.tensor([ROWS[0]]))], dim=1)
        expected = model(embeds=embeds).logits[0, 5:]
    torch.testing.assert_close(alone(model, ROWS[0]), expected)


def test_a_prefix_of_what_a_prompt_leaves_in_the_cache_is_that_prompt(model: Transformer) -> None:
    """Keys and values of a text's beginning, set as the prefix, are as good as the beginning itself."""
    begin, rest = ROWS[0][:4], ROWS[0][4:]
    expected = alone(model, ROWS[0])[4:]
    cache = ContiguousCache(model.config, 1, 8)
    with torch.no_grad():
        model(torch.tensor([begin]), cache=cache)
    pairs = [torch.stack([cache._keys[i][0, :, :4], cache._values[i][0, :, :4]]) for i in range(model.config.layers)]
    attached = on(model, Prefix(4))[0]
    with torch.no_grad():
        next(attached.parameters()).copy_(torch.stack(pairs).permute(3, 0, 1, 2, 4).flatten(1))  # [n, L, 2, K, D]
    torch.testing.assert_close(alone(model, rest), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_a_bottleneck_stands_before_the_residual_sum(model: Transformer, placement: Any) -> None:
    """Figure 2 of arXiv 1902.00751, written down layer by layer."""
    seen: list[Tensor] = []
    attached = on(model, Bottleneck(8, placement))[0]
    parts = attached.parts

    def adapter(path: str, y: Tensor) -> Tensor:
        part = parts.get(path)
        if part is None:
            return y
        down, up = part.get_submodule("down"), part.get_submodule("up")
        change: Tensor = up(F.gelu(down(y)))
        return y + change

    row = torch.tensor([ROWS[0]])
    with torch.no_grad():
        streams: list[Tensor] = []
        hooks = [block.register_forward_hook(lambda m, a, out: streams.append(out)) for block in model.blocks]
        hooks += [block.register_forward_pre_hook(lambda m, a: seen.append(a[0])) for block in model.blocks]
        shared: list[Any] = []
        hooks.append(model.blocks[0].register_forward_pre_hook(lambda m, a: shared.append(a[2])))
        model(row)
        for hook in hooks:
            hook.remove()
        for i, block in enumerate(model.blocks):
            x = seen[i]
            attention = getattr(block.attention, "base", block.attention)
            feedforward = getattr(block.feedforward, "base", block.feedforward)
            x = x + adapter(f"blocks.{i}.attention", attention(block.attention_norm(x), i, shared[0]))
            x = x + adapter(f"blocks.{i}.feedforward", feedforward(block.feedforward_norm(x)))
            torch.testing.assert_close(streams[i], x)


def test_a_new_bottleneck_is_nearly_nothing_and_a_new_loreft_or_ia3_nothing(model: Transformer) -> None:
    before = alone(model, ROWS[0])
    for adapter, tolerance in ((Bottleneck(8), 0.05), (LoReFT(), 1e-4), (IA3(), 0.0)):
        attached = adapter.attach(model)
        change = float((alone(model, ROWS[0]) - before).abs().max() / before.abs().max())
        assert change <= tolerance, f"{attached.adapter.kind} changes {change}"
        attached.detach()


def test_loreft_edits_the_ends_of_the_prompt_by_its_formula(model: Transformer) -> None:
    """Eq. 2 of arXiv 2404.03592, after layer 1 alone: the states that leave it are the plain ones, edited."""
    plain: list[Tensor] = []
    hook = model.blocks[1].register_forward_hook(lambda m, a, out: plain.append(out))
    alone(model, ROWS[0])
    hook.remove()
    part = on(model, LoReFT(3, layers=(1,), first=2, last=3))[0].parts["blocks.1"]
    rotation, weight, bias = (part.get_parameter(name) for name in ("rotation", "weight", "bias"))
    r = orthonormal(rotation)
    torch.testing.assert_close(r @ r.T, torch.eye(3), atol=1e-6, rtol=0)
    h = plain[0][0].clone()
    prompt = 7  # of 11 tokens
    for t in (0, 1, 4, 5, 6):
        h[t] = h[t] + r.T @ (weight @ h[t] + bias - r @ h[t])
    edited: list[Tensor] = []
    hook = model.blocks[1].register_forward_hook(lambda m, a, out: edited.append(out))
    alone(model, ROWS[0], prompts=torch.tensor([prompt]))
    hook.remove()
    torch.testing.assert_close(edited[0][0], h.detach(), atol=1e-5, rtol=1e-5)


def test_loreft_takes_a_prompts_end_from_the_first_label(model: Transformer) -> None:
    """In padded rows, and in the same rows packed: one loss."""
    on(model, LoReFT(3, first=2, last=2))
    starts = [4, 1, 3]  # where each row's labels begin
    ids, mask = pad(ROWS, 0), pad([[1] * len(row) for row in ROWS], 0).bool()
    labels = pad([[-100] * at + row[at:] for at, row in zip(starts, ROWS, strict=True)], -100)
    whole = causal_lm()(model, Batch(ids, labels, mask))[0]
    ends = torch.tensor([len(row) for row in ROWS]).cumsum(0).int()
    packed = Batch(ids[mask][None], labels[mask][None], segments=F.pad(ends, (1, 0)))
    torch.testing.assert_close(causal_lm()(model, packed)[0], whole)
    total, count = 0.0, 0
    for at, row in zip(starts, ROWS, strict=True):
        scores = alone(model, row, prompts=torch.tensor([at]))[at - 1 : -1]
        total, count = (
            total + float(F.cross_entropy(scores, torch.tensor(row[at:]), reduction="sum")),
            count + len(row) - at,
        )
    assert abs(float(whole) - total / count) < 1e-4


# ------------------------------------------------------------------------------------------------- switching and training


def test_adapters_are_switched_stacked_and_taken_off_in_any_order(model: Transformer) -> None:
    bare = alone(model, ROWS[0])
    found = on(model, *STACKS["all at once"])
    every = alone(model, ROWS[0])
    for one in found:
        with one.disabled():
            assert not torch.allclose(alone(model, ROWS[0]), every, atol=1e-3), f"{one.adapter.kind} does nothing"
    assert torch.equal(alone(model, ROWS[0]), every)
    for one in found:
        one.active = False
    assert torch.equal(alone(model, ROWS[0]), bare) and size_of(model) == 0
    prefix = next(one for one in found if one.adapter.kind == "prefix")
    prefix.active = True
    only = alone(model, ROWS[0])
    for one in found:
        if one is not prefix:
            one.detach()
    assert torch.equal(alone(model, ROWS[0]), only)


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_the_adapter_alone(model: Transformer, kind: str) -> None:
    attached = KINDS[kind].attach(model, generator=torch.Generator().manual_seed(1))
    ids, mask = pad(ROWS, 0), pad([[1] * len(row) for row in ROWS], 0).bool()
    labels = ids.masked_fill(~mask, -100)
    labels[:, :2] = -100
    own = {id(p) for p in attached.parameters()}
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if id(p) not in own}
    rate = 1e-2 if kind != "ia3" else 0.1
    steps = train(
        model, [Batch(ids, labels, mask)] * 8, causal_lm(), torch.optim.AdamW(attached.parameters(), lr=rate), steps=8
    ).steps
    assert steps[-1].loss < steps[0].loss - 0.05
    assert all(torch.equal(dict(model.named_parameters())[name], p) for name, p in kept.items())


@pytest.mark.parametrize("stack", STACKS)
def test_a_model_in_bfloat16_takes_every_kind(tiny_llm_path: Path, stack: str) -> None:
    model = load(tiny_llm_path, dtype="bfloat16").model
    exact = load(tiny_llm_path).model
    found = [on(each, *STACKS[stack]) for each in (model, exact)][0]
    rough, logits = alone(model, ROWS[0]).float(), alone(exact, ROWS[0])
    assert float((rough - logits).norm() / logits.norm()) < 0.1
    ids = torch.tensor(ROWS[:1])
    labels = ids.clone()
    labels[:, :3] = -100
    causal_lm()(model, Batch(ids, labels))[0].backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for one in found for p in one.parameters())


def test_ia3_is_merged_and_nothing_else_is(model: Transformer) -> None:
    attached = on(model, IA3(["query", "key", "gate", "down"]))[0]
    with_it = alone(model, ROWS[0])
    attached.merge()
    torch.testing.assert_close(alone(model, ROWS[0]), with_it, atol=1e-4, rtol=1e-4)
    attached.unmerge()
    assert torch.equal(alone(model, ROWS[0]), with_it)
    attached.detach()
    for adapter in (Prompt(2), Prefix(2), Bottleneck(2), LoReFT(2)):
        other = adapter.attach(model)
        with pytest.raises(UsageError, match="cannot be merged"):
            other.merge()
        other.detach()


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded(model: Transformer, kind: str, tmp_path: Path) -> None:
    attached = on(model, KINDS[kind])[0]
    expected = alone(model, ROWS[0])
    attached.save(tmp_path)
    attached.detach()
    again = adapt.load(model, tmp_path)
    assert again.adapter.kind == attached.adapter.kind
    torch.testing.assert_close(alone(model, ROWS[0]), expected, atol=1e-5, rtol=1e-5)
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "adapter_model.safetensors").stat().st_size == (
        tmp_path / "adapter_model.safetensors"
    ).stat().st_size


def test_what_cannot_be_is_said_by_name(model: Transformer, tiny_llm_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(tiny_llm_path)
    begun = Prompt.of_text("Permission is hereby granted", tokenizer, tokens=7).attach(model)
    ids = tokenizer.encode("Permission is hereby granted", add_special=False)
    assert torch.equal(next(begun.parameters())[0], model.vectors(torch.tensor(ids[0])))
    begun.detach()
    config = replace(model.config, encoder=replace(model.config, causal=False))
    refused: list[tuple[type[HornbookError], Any]] = [
        (UsageError, lambda: Prompt(0)),
        (UsageError, lambda: Prompt.of_text("", tokenizer)),
        (UsageError, lambda: Prompt(3, ids=(10**6,)).attach(model)),
        (UsageError, lambda: PTuning(3, "gru")),  # type: ignore[arg-type]
        (UsageError, lambda: Bottleneck(0)),
        (UsageError, lambda: LoReFT(layers=(9,)).attach(model)),
        (UsageError, lambda: LoReFT(first=0, last=0)),
        (UsageError, lambda: IA3(["qqq"]).attach(model)),
        (UsageError, lambda: Prompt.read({}, {"prompt_embeddings": torch.zeros(3, 9)}, model)),
        (ModelFileError, lambda: Prefix.read({}, {"other": torch.zeros(3, 9)}, model)),
        (UnsupportedModel, lambda: Prompt(3).attach(Transformer(config))),
        (UnsupportedModel, lambda: LoReFT().attach(Transformer(config))),
    ]
    for error, call in refused:
        with pytest.raises(error):
            call()
    on(model, LoReFT())
    ids = torch.tensor(ROWS[:1])
    with pytest.raises(UsageError, match="none of these 1 rows has a prompt"):
        causal_lm()(model, Batch(ids, ids))
    with pytest.raises(UsageError, match="has not been told"):
        model(torch.tensor([[1, 2]]), cache=ContiguousCache(model.config, 1, 8))
