"""The torch executor keeps its contract: order, isolation, adapters, four bits, and steps that a GPU could record."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plan_models import (
    DECODERS,
    FAR,
    NEAR,
    PAGES,
    VOCAB,
    built,
    close,
    executor,
    in_pieces,
    packed,
    texts,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hornbook
import hornbook.engine.four_bit
import hornbook.engine.torch_attention
from hornbook.checkpoint import load
from hornbook.checkpoint.dequantize import BY_NAME
from hornbook.checkpoint.packed import held
from hornbook.engine.executor import PAGE
from hornbook.engine.four_bit import KINDS, FourBit, rounded, taken_over
from hornbook.engine.generate import Generator
from hornbook.engine.lower import lower, read_together
from hornbook.engine.torch_attention import lay_out
from hornbook.engine.torch_decode import Decode, bucket
from hornbook.engine.torch_executor import TorchExecutor
from hornbook.errors import GenerationError, ModelClosed, ModelFileError, UnsupportedModel, UsageError
from hornbook.llm import LocalLLM
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import LayerKind, Rotary
from hornbook.model.transformer import Transformer
from hornbook.text.stream import StreamDecoder
from hornbook.types import SamplingParams


def test_the_model_shares_the_executors_memory_and_still_answers() -> None:
    model = built({})
    expected = model(torch.tensor(texts()[:1])).logits
    runs = executor(model)
    assert torch.equal(model(torch.tensor(texts()[:1])).logits, expected)
    held = {each.weight.untyped_storage().data_ptr() for each in runs._linears}
    assert {weight.untyped_storage().data_ptr() for name, weight in model.named_parameters() if "up" in name} <= held


def test_weights_that_were_read_together_are_not_copied(tiny_llm_path: Path) -> None:
    apart = load(tiny_llm_path, dtype="float32", device="cpu").model.state_dict()
    model = load(tiny_llm_path, dtype="float32", device="cpu", together=read_together).model
    assert all(torch.equal(weight, apart[name]) for name, weight in model.state_dict().items())
    weights = dict(model.named_parameters())
    lay = {name: weight.data_ptr() for name, weight in weights.items()}
    linears = executor(model)._linears
    assert {name: weight.data_ptr() for name, weight in weights.items()} == lay
    joined = [names for names in read_together(model.config) if len(names) > 1]
    assert len(joined) == 2 * model.config.layers
    for names in joined:
        (found,) = (each.weight for each in linears if each.weight.data_ptr() == lay[names[0]])
        assert torch.equal(found, torch.cat([apart[name] for name in names]))


def test_greedy_tokens_are_the_generators(tiny_llm_path: Any) -> None:
    checkpoint = load(tiny_llm_path, dtype="float32", device="cpu")
    prompts = [text[: 3 + 11 * i] for i, text in enumerate(texts((40, 40, 40, 40)))]
    generator = Generator(
        checkpoint.model, new_cache=lambda rows, slots: ContiguousCache(checkpoint.config, rows, slots),
        new_decoder=lambda: StreamDecoder(checkpoint.tokenizer), context_length=256, vocab_size=VOCAB, rows=4, prefill=16,
    )  # fmt: skip
    expected = [list(prompt) for prompt in prompts]
    for step in generator.run(prompts, [SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)] * 4):
        assert step.token is not None
        expected[step.row].append(step.token.id)
    runs = executor(checkpoint.model)
    table = np.random.default_rng(0).permutation(PAGES)[: 4 * 4].reshape(4, 4)
    found, parts = [list(prompt) for prompt in prompts], [(0, prompt) for prompt in prompts]
    for _ in range(24):
        batch = packed(parts, table)
        last = np.flatnonzero(np.append(np.diff(batch.sequence), 1)).astype(np.int32)
        best = runs.run(batch._replace(select=last))[:, :VOCAB].argmax(-1).tolist()
        parts = [(len(row), [id]) for row, id in zip(found, best, strict=True)]
        found = [[*row, id] for row, id in zip(found, best, strict=True)]
    assert found == expected


def test_groups_that_would_gather_too_much_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built({})
    whole = in_pieces(executor(model), texts(), seed=6)
    monkeypatch.setattr(hornbook.engine.torch_attention, "GATHERED", 40)
    batch = packed([(30, [1])] * 3 + [(7, [1])] * 5, np.zeros((8, 2)))
    groups = lay_out(batch, zero=0, device=torch.device("cpu")).groups
    assert [group.at.shape[0] * group.reach for group in groups] == [31, 31, 31, 40]
    close(np.concatenate(in_pieces(executor(model), texts(), seed=6)), np.concatenate(whole))


def test_rows_are_selected_in_the_order_asked_for() -> None:
    for static in (False, True):
        runs = executor(built({}), static_decode=static)
        table = np.arange(4)[:, None]
        rows = texts((5, 1, 9, 3))
        whole = runs.run(packed([(0, row) for row in rows], table))
        some = runs.run(packed([(0, row) for row in rows], table)._replace(select=np.array([17, 3, 5], np.int32)))
        close(some, whole[[17, 3, 5]])
        batch = packed([(len(row), [7]) for row in rows], table)
        close(runs.run(batch._replace(select=np.array([2, 0], np.int32))), runs.run(batch)[[2, 0]])
        assert runs.run(batch._replace(select=np.array([], np.int32))).shape == (0, VOCAB)


def low_rank(model: Transformer, names: list[str], seed: int) -> dict[str, tuple[Any, Any, float]]:
    random, shapes = np.random.default_rng(seed), {name: model.get_parameter(name).shape for name in names}
    return {
        name: (random.normal(size=(2, n)).astype(np.float32), random.normal(size=(m, 2)).astype(np.float32), 0.2 + seed)
        for name, (m, n) in shapes.items()
    }


@pytest.mark.parametrize("name", ["grouped", "shared blocks, types", "learned positions, biases", "mixture"])
@pytest.mark.parametrize("static", [False, True])
def test_adapters_side_by_side_are_each_merged_alone(name: str, static: bool) -> None:
    model = built(DECODERS[name])
    inner = "blocks.0.feedforward.down.weight"
    every = ["blocks.1.attention.query.weight", "blocks.1.attention.value.weight", inner, "head.tokens.weight"]
    changes = [low_rank(model, every, 0), low_rank(model, ["blocks.0.attention.key.weight", inner], 1)]
    runs, rows = executor(model, static_decode=static), texts()
    adapters = [1, -1, 0, 0, 1]
    expected = []
    for row, adapter in zip(rows, adapters, strict=True):
        merged = Transformer(model.config).eval()
        merged.load_state_dict(model.state_dict())
        for weight, (a, b, scale) in (changes[adapter] if adapter >= 0 else {}).items():
            merged.get_parameter(weight).data += scale * torch.from_numpy(b @ a)
        expected.append(merged(torch.tensor([row])).logits[0].detach())
    assert [runs.add_adapter(change) for change in changes] == [0, 1]
    for found, wanted in zip(in_pieces(runs, rows, seed=2, adapters=adapters), expected, strict=True):
        close(found, wanted, 2e-5)
    batch = packed([(0, row) for row in rows[1:3]], np.array([[0, 0, 0], [1, 2, 3]]), adapters=adapters[1:3])
    found = runs.run(batch._replace(select=np.array([len(rows[1]), 4], np.int32)))
    close(found, torch.stack((expected[2][0], expected[1][4])), 2e-5)
    runs.remove_adapter(0)
    with pytest.raises(UsageError, match="no adapter 0"):
        in_pieces(runs, rows, seed=2, adapters=adapters)
    assert runs.add_adapter(changes[0]) == 2, "a number is not given twice"


def test_an_adapter_of_another_model_is_refused() -> None:
    model = built(DECODERS["mixture"] | {"tied_head": True})
    runs, down = executor(model), "blocks.0.feedforward.down.weight"
    a, b, scale = low_rank(model, [down], 0)[down]
    for weights, said in (
        ({"blocks.9.attention.query.weight": (a, b, scale)}, "no linear layer"),
        ({"blocks.1.feedforward.router.weight": (a, b, scale)}, "experts"),
        ({"embed.tokens.weight": (a, b, scale)}, "the table of tokens and the head"),
        ({down: (a, b[:-1], scale)}, r"\[15, 2\].*\[16, 24\]"),
        ({down: (a[:1], b, scale)}, r"\[1, 24\] and \[16, 2\]"),
        ({down: (a * np.nan, b, scale)}, "not all finite"),
    ):
        with pytest.raises(UsageError, match=said):
            runs.add_adapter(weights)
    assert runs.add_adapter({}) == 0


@pytest.mark.parametrize("static", [False, True])
def test_a_stray_nan_stays_in_its_own_text(static: bool) -> None:
    """A weight of 0 times NaN is NaN: neither pages that are given out again nor neighbours may let it through."""
    model = built({"pattern": (NEAR, FAR)})
    expected = in_pieces(executor(model), texts(), seed=3)
    runs = executor(model, static_decode=static)
    assert runs._cache is not None
    runs._cache.held[:, :, : PAGES * PAGE] = torch.nan
    for found, wanted in zip(in_pieces(runs, texts(), seed=3), expected, strict=True):
        close(found, wanted)


@pytest.mark.parametrize("length", range(3, 9))
def test_a_window_ends_where_the_transformers_does(length: int) -> None:
    model, (row,) = built({"pattern": (NEAR, FAR)}), texts((length,))
    runs, table = executor(model), np.zeros((1, 1))
    close(runs.run(packed([(0, row)], table)), model(torch.tensor([row])).logits[0])
    close(runs.run(packed([(length, [9, 8])], table)), model(torch.tensor([[*row, 9, 8]])).logits[0, -2:])


def test_a_copied_page_is_the_page() -> None:
    runs, (row,) = executor(built({})), texts((16,))
    runs.run(packed([(0, row)], np.array([[4]])))
    runs.copy_page(4, 11)
    found = [runs.run(packed([(16, [5])], np.array([[page, 20]]))).copy() for page in (4, 11)]
    assert np.array_equal(*found)


def test_what_would_be_read_out_of_bounds_is_refused() -> None:
    runs = executor(built({}))
    good = packed([(0, [1, 2])], np.array([[3]]))
    for wrong, said in (
        (good._replace(ids=np.array([1, VOCAB], np.int32)), f"token id {VOCAB}"),
        (good._replace(ids=np.array([-1, 2], np.int32)), "token id -1"),
        (good._replace(positions=np.array([96, 97], np.int32)), "position 97: the context holds 96"),
        (good._replace(pages=np.array([[PAGES]], np.int32)), f"page {PAGES}"),
        (packed([], np.zeros((0, 1))), "without tokens"),
    ):
        with pytest.raises(GenerationError, match=said):
            runs.run(wrong)
    with pytest.raises(GenerationError, match="out of range"):
        runs.copy_page(0, PAGES)
    assert np.isfinite(runs.run(good)).all() and runs.scratch_bytes(4, 2) > 2 * VOCAB * 4
    runs.close()
    runs.close()
    with pytest.raises(ModelClosed):
        runs.run(good)


def test_a_closed_executor_holds_no_weights() -> None:
    model = built({})
    runs, held = executor(model), weakref.ref(model.head)
    runs.run(packed([(0, [1, 2])], np.array([[3]])))
    weight = weakref.ref(runs._linears[0].weight)
    runs.close()
    del model
    gc.collect()
    assert held() is None and weight() is None


def test_a_missing_weight_is_named() -> None:
    model = built({})
    weights = dict(model.named_parameters())
    del weights["blocks.1.attention.key.weight"]
    with pytest.raises(ModelFileError, match=r"no weight blocks\.1\.attention\.key\.weight"):
        TorchExecutor(lower(model.config), weights, PAGES)


# ------------------------------------------------------------------------------------------------------------ four bits


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_a_file_are_taken_over_without_loss(kind: str) -> None:
    values = np.random.default_rng(0).normal(size=(6, 512)).astype(np.float32)
    tensor = held("w", values, quantize=kind)
    weight = taken_over(tensor)
    stored = np.empty((6 * 512 // BY_NAME[kind].block, BY_NAME[kind].block), np.float32)
    unpack = BY_NAME[kind].unpack
    assert unpack is not None
    unpack(np.asarray(tensor.raw).reshape(len(stored), -1), stored)
    stored = stored.reshape(6, 512)
    assert weight.shape == (6, 512) and weight.nbytes == 6 * 16 * (24 if kind == "Q4_K" else 20)
    assert np.array_equal(weight.whole(torch.float32).numpy(), stored)
    moved = taken_over(replace(tensor, order=np.array([3, 0, 5, 1, 4, 2], np.int32)))
    assert np.array_equal(moved.whole(torch.float32).numpy(), stored[[3, 0, 5, 1, 4, 2]])


def test_a_file_of_four_bits_answers_as_it_does_whole(smollm2_path: Path) -> None:
    prompt, sampling = "The capital of France is", SamplingParams(max_tokens=2, temperature=0.0)
    answers = []
    for dtype, name in (("int4", "torch cpu float32, weights in four bits"), ("float32", "torch cpu float32")):
        model = hornbook.load(str(smollm2_path), device="cpu", dtype=dtype)
        assert isinstance(model, LocalLLM) and model.runs_on == name
        answers.append(model.generate([prompt], sampling)[0].text)
        model.close()
    assert answers[0] == answers[1] != ""


def test_four_bits_are_for_models_that_write(minilm_path: Path) -> None:
    with pytest.raises(UsageError, match="writes no text"):
        hornbook.load(str(minilm_path), device="cpu", dtype="int4")


def test_four_bits_are_the_weights_that_they_round_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hornbook.engine.four_bit, "PIECE", 32 * 7)  # seven rows at a time
    model = built(
        {"width": 32, "feedforward_width": 64, "heads": 8, "tied_head": True, "pattern": (LayerKind(rotary=Rotary()),)}
    )
    weights: dict[str, Tensor | FourBit] = {}
    for name, weight in model.named_parameters():
        weights[name] = rounded(weight) if weight.ndim == 2 else weight
        if isinstance(packed_weight := weights[name], FourBit):
            step = packed_weight.scale.float().max().item()
            assert (packed_weight.whole(torch.float32) - weight).abs().max().item() < 0.52 * step
            weight.data = packed_weight.whole(torch.float32)
    runs = TorchExecutor(lower(model.config), weights, PAGES)
    for row, found in zip(texts(), in_pieces(runs, texts(), seed=4), strict=True):
        close(found, model(torch.tensor([row])).logits[0])
    with pytest.raises(UnsupportedModel, match="groups of 32"):
        rounded(torch.zeros(4, 33))


# ---------------------------------------------------------------------------------------------- what a GPU would record


class OnTheDeviceAlone(TorchDispatchMode):
    """Refuses what a captured graph cannot hold: tensors of the host, and operations that wait for the device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert operation.name() not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2"), operation
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        assert all(x.device.type == "meta" for x in tensors), f"{operation} reads from the host"
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in DECODERS if not name.startswith("mixture")])
def test_a_recorded_step_never_needs_the_host(name: str) -> None:
    runs = executor(built(DECODERS[name]), device="meta", static_decode=True)
    assert runs._cache is not None
    with torch.inference_mode():
        decode = Decode(runs._decode, 4, 16, runs._cache.scratch, runs._memory, runs.device)
        decode._step()  # what is moved to the device at first use is there when the recording begins
        with OnTheDeviceAlone():
            assert decode._step().shape == (4, VOCAB)


def test_buckets_are_few_and_hold_their_steps() -> None:
    table = np.zeros((5, 40), np.int32)
    assert bucket(packed([(299, [1])] * 5, table)) == (8, 32)
    assert bucket(packed([(0, [1])], table)) == (1, 16)
    assert bucket(packed([(5, [1]), (0, [1, 2])], table)) is None
    assert bucket(packed([(5, [1])] * 257, np.zeros((257, 1)))) is None


def test_a_mixture_is_not_recorded() -> None:
    runs = executor(built(DECODERS["mixture"]), static_decode=True)
    runs.run(packed([(0, [1])], np.zeros((1, 1))))
    assert not runs._decodes


def test_bfloat16_is_the_transformers() -> None:
    model = built({"pattern": (NEAR, FAR)}).to(torch.bfloat16)
    rows = texts()
    runs = executor(model, dtype=torch.bfloat16)
    assert runs.name == "torch cpu bfloat16"
    for row, found in zip(rows, in_pieces(runs, rows, seed=5), strict=True):
        close(found, model(torch.tensor([row])).logits[0].float(), 5e-2)
