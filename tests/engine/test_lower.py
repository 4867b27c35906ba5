"""The plan is the model: torch runs it over pages, ragged and in pieces, and every register is what the Transformer has."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hornbook.engine.four_bit
import hornbook.engine.torch_attention
import hornbook.model.attention
from hornbook.checkpoint import load
from hornbook.checkpoint.dequantize import FORMATS
from hornbook.engine.executor import PAGE, Batch
from hornbook.engine.four_bit import FourBit, from_blocks, rounded
from hornbook.engine.generate import Generator
from hornbook.engine.lower import lower
from hornbook.engine.plan import Act, Attend, Gate, HeadNorm, Linear, Mix, Norm, Select, Turn
from hornbook.engine.torch_attention import lay_out
from hornbook.engine.torch_decode import Decode, bucket
from hornbook.engine.torch_executor import TorchExecutor
from hornbook.errors import GenerationError, ModelClosed, UnsupportedModel, UsageError
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import Experts, LayerKind, ModelConfig, Relative, Rotary, RotaryScaling
from hornbook.model.transformer import Transformer
from hornbook.text.stream import StreamDecoder
from hornbook.types import SamplingParams

PAGES, VOCAB = 24, 53
SMALL = ModelConfig(
    vocab_size=VOCAB, layers=3, width=16, heads=4, kv_heads=2, head_width=4, feedforward_width=24, context_length=96,
    pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip
NEAR, FAR = LayerKind(window=5, rotary=Rotary()), LayerKind(rotary=Rotary(base=500.0, interleaved=True))
LAYER_NORM = {"norm": "layer", "gated": False, "activation": "gelu_tanh"}
BIASED = {"qkv_bias": True, "attention_output_bias": True, "feedforward_bias": True}
LONG = RotaryScaling("longrope", factors=(1.0, 2.0), long_factors=(3.0, 4.0), original_context=20, magnitude=1.2)
MIXED = {"experts": Experts(5, 2, 8, True, 12, True), "pattern": (LayerKind(rotary=Rotary()), LayerKind(sparse=True))}
DECODERS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "multi-query, tied, capped": {"kv_heads": 1, "tied_head": True, "attention_softcap": 5.0, "logit_softcap": 3.0},
    "windows, both norms, offset, scaled": {
        "pattern": (NEAR, NEAR, FAR), "norm_placement": "both", "norm_offset": 1.0, "embedding_scale": 4.0,
        "query_scale": 0.3, "qk_norm": "head", "activation": "gelu_tanh",
    },
    "norms over all heads": {"qk_norm": "all", "norm_placement": "both"},
    "learned positions, biases": LAYER_NORM | BIASED | {
        "positions": "learned", "position_offset": 2, "pattern": (LayerKind(),), "head_bias": True, "logit_scale": 0.4,
    },
    "sinusoidal, post, transformed head": LAYER_NORM | BIASED | {
        "positions": "sinusoidal", "pattern": (LayerKind(),), "norm_placement": "post", "activation": "relu",
        "head_transform": True, "tied_head": True, "embedding_norm": True, "embedding_width": 8,
    },
    "parallel, one norm": LAYER_NORM | {"parallel": True, "shared_norm": True, "norm_bias": False, "kv_heads": 1},
    "parallel, two norms": LAYER_NORM | BIASED | {"parallel": True, "pattern": (LayerKind(rotary=Rotary(width=2)),)},
    "one norm, one after the other": {"shared_norm": True},
    "ALiBi": LAYER_NORM | {"alibi": 0.5, "pattern": (LayerKind(),), "heads": 6, "kv_heads": 6},
    "ALiBi in a window": {"alibi": 1.0, "pattern": (LayerKind(window=7),)},
    "shared blocks, types": {"layers": 4, "layer_groups": 2, "token_types": 3},
    "mixture": MIXED,
    "mixture, plain": {"experts": Experts(4, 1, 8, False), "pattern": (LayerKind(rotary=Rotary(), sparse=True),)},
    "factors that follow the length": {"pattern": (LayerKind(rotary=Rotary(scaling=LONG)),)},
}  # fmt: skip
BERT = LAYER_NORM | BIASED | {
    "causal": False, "positions": "learned", "embedding_norm": True, "norm_placement": "post", "token_types": 2,
    "pattern": (LayerKind(),), "activation": "gelu", "tied_head": True, "head_transform": True,
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    "post": BERT,
    "projected, one block": BERT | {"embedding_width": 8, "layer_groups": 1, "pooler": True},
    "rotary, window both ways": {"causal": False, "pattern": (NEAR, FAR), "language_head": False},
}  # fmt: skip


def built(fields: dict[str, Any]) -> Transformer:
    torch.manual_seed(3)
    model = Transformer(replace(SMALL, **fields)).eval().requires_grad_(False)
    for name, weight in model.named_parameters():  # nothing is without effect
        torch.nn.init.normal_(weight, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.4)
    return model


def executor(model: Transformer, **how: Any) -> TorchExecutor:
    return TorchExecutor(lower(model.config), dict(model.named_parameters()), PAGES, **how)


def texts(lengths: tuple[int, ...] = (23, 7, 40, 1, 33)) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(VOCAB, (length,), generator=generator).tolist() for length in lengths]


def packed(
    parts: list[tuple[int, list[int]]], table: np.ndarray[Any, Any], *, adapters: list[int] | None = None
) -> Batch:
    """parts: of each sequence how many tokens are there already, and the new ones; every token is selected."""

    def numbers(values: list[int]) -> np.ndarray[Any, Any]:
        return np.array(values, np.int32)

    return Batch(
        numbers([id for _, new in parts for id in new]),
        numbers([past + i for past, new in parts for i in range(len(new))]),
        numbers([s for s, (_, new) in enumerate(parts) for _ in new]),
        table[: len(parts)].astype(np.int32),
        numbers([past + len(new) for past, new in parts]),
        np.arange(sum(len(new) for _, new in parts), dtype=np.int32),
        None if adapters is None else numbers([a for a, (_, new) in zip(adapters, parts, strict=True) for _ in new]),
    )


def in_pieces(
    runs: TorchExecutor, rows: list[list[int]], seed: int, adapters: list[int] | None = None
) -> list[np.ndarray[Any, Any]]:
    """Logits of every token, the texts fed in random pieces or one by one, side by side, pages shuffled."""
    random = np.random.default_rng(seed)
    pages = -(-max(map(len, rows)) // PAGE)
    needed = sum(-(-len(row) // PAGE) for row in rows)
    owned, order = np.zeros((len(rows), pages), np.int32), iter(random.permutation(needed).tolist())
    for s, row in enumerate(rows):
        for page in range(-(-len(row) // PAGE)):
            owned[s, page] = next(order)
    done, found = [0] * len(rows), [[] for _ in rows]
    while going := [s for s in range(len(rows)) if done[s] < len(rows[s])]:
        chosen = [s for s in going if random.random() < 0.7] or going
        most = int(random.choice([1, 13]))  # a step of single tokens, or of pieces
        counts = [int(random.integers(1, min(most, len(rows[s]) - done[s]) + 1)) for s in chosen]
        parts = [(done[s], rows[s][done[s] : done[s] + n]) for s, n in zip(chosen, counts, strict=True)]
        batch = packed(parts, owned[chosen], adapters=None if adapters is None else [adapters[s] for s in chosen])
        logits = runs.run(batch)
        for s, (_, new) in zip(chosen, parts, strict=True):
            found[s].append(logits[: len(new)].copy())
            logits = logits[len(new) :]
            done[s] += len(new)
    return [np.concatenate(pieces) for pieces in found]


def close(found: Any, expected: Any, within: float = 1e-5) -> None:
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    assert error < within, error


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("static", [False, True])
def test_pieces_over_pages_give_the_transformers_logits(name: str, static: bool) -> None:
    model = built(DECODERS[name])
    with torch.no_grad():
        expected = [model(torch.tensor([row])).logits[0] for row in texts()]
    if name == "factors that follow the length":  # which are those of the longest text that may come
        long = replace(LONG, factors=LONG.long_factors)
        same = Transformer(replace(model.config, pattern=(LayerKind(rotary=Rotary(scaling=long)),)))
        same.load_state_dict(model.state_dict())
        expected = [same(torch.tensor([row])).logits[0].detach() for row in texts()]
    runs = executor(model, static_decode=static)
    for found, wanted in zip(in_pieces(runs, texts(), seed=1), expected, strict=True):
        close(found, wanted)


def test_the_model_shares_the_executors_memory_and_still_answers() -> None:
    model = built({})
    expected = model(torch.tensor(texts()[:1])).logits
    runs = executor(model)
    assert torch.equal(model(torch.tensor(texts()[:1])).logits, expected)
    held = {each.weight.untyped_storage().data_ptr() for each in runs._linears}
    assert {weight.untyped_storage().data_ptr() for name, weight in model.named_parameters() if "up" in name} <= held


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoders_plan_ends_with_its_states(name: str) -> None:
    model = built(ENCODERS[name])
    runs = executor(model)
    rows = texts()
    found = runs.run(packed([(0, row) for row in rows], np.zeros((len(rows), 1), np.int32)))
    assert runs.page_bytes == 0
    for row in rows:
        close(found[: len(row)], model(torch.tensor([row]), logits="none").hidden[0])
        found = found[len(row) :]


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_every_register_is_what_the_module_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built((DECODERS | ENCODERS)[name])
    rows = texts((7, 7, 7))
    given, made = defaultdict(list), defaultdict(list)  # by module: what goes in and comes out, call by call

    def listen(called: str) -> Any:
        def hear(_: Any, x: tuple[Tensor, ...], y: Tensor) -> None:
            given[called].append(x[0])
            made[called].append(y)

        return hear

    for module_name, module in model.named_modules():
        module.register_forward_hook(listen(module_name))
    turned: list[Tensor] = []
    rotate = hornbook.model.attention.rotate
    monkeypatch.setattr(hornbook.model.attention, "rotate", lambda x, by: turned.append(rotate(x, by)) or turned[-1])
    runs = executor(model, context_length=20)  # of which those factors that follow the length are as of seven
    scores = any(isinstance(op, Select) for op in runs.plan.ops)
    assert scores == (model.config.causal and model.config.language_head)
    model(torch.tensor(rows), logits="all" if scores else "none")
    ops, apply, checked = iter(enumerate(runs.plan.ops, 1)), runs._apply, 0

    def flat(x: Tensor) -> Tensor:
        """[B,T,C], or heads [B,N,T,D], as a register has it."""
        return (x if x.ndim == 3 else x.transpose(1, 2).flatten(2)).flatten(0, 1)

    def take(calls: dict[str, list[Tensor]], parameter: str) -> Tensor:
        return flat(calls[parameter.removesuffix(".weight")].pop(0))

    def check(op: Any, step: Any) -> None:
        nonlocal checked
        apply(op, step)
        name = op.a if isinstance(op, (HeadNorm, Turn)) else op.out
        register, (following, _) = step.registers[name], next(ops)
        assert register.shape[1] == runs.plan.widths[name]
        if isinstance(op, Norm):
            expected = take(made, op.weight)
        elif isinstance(op, Linear) and not op.weights[0].startswith(("embed.tokens", "head.tokens")):
            expected = torch.cat([take(made, weight) for weight in op.weights], dim=-1)
        elif isinstance(op, Attend):
            expected = take(given, f"blocks.{model.config.block(op.layer)}.attention.output")
        elif isinstance(op, HeadNorm):
            register = register[:, op.start : op.start + op.groups * op.width]
            expected = take(made, op.weight)
        elif isinstance(op, Turn):
            register = register[:, : op.heads * op.width]
            expected = torch.cat([flat(turned.pop(0)), flat(turned.pop(0))], dim=-1)
        elif isinstance(op, Mix):
            expected = take(made, op.prefix)
        elif isinstance(op, Gate) or (isinstance(op, Act) and op.out == "inner"):
            expected = take(given, runs.plan.ops[following].weights[0])
        else:
            return
        checked += 1
        close(register, expected)

    monkeypatch.setattr(runs, "_apply", check)
    runs.run(packed([(0, row) for row in rows], np.arange(3)[:, None]))
    assert checked >= 6 * model.config.layers and not turned
    parts = ("norm", "query", "key", "value", "attention.output", "feedforward.down")
    assert not any(made[module] for module in made if module.endswith(parts)), "a module that no operation stands for"


# --------------------------------------------------------------------------------------------------------- the executor


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
    with pytest.raises(GenerationError, match="cannot be copied"):
        runs.copy_page(0, PAGES)
    assert np.isfinite(runs.run(good)).all() and runs.scratch_bytes(4, 2) > 2 * VOCAB * 4
    runs.close()
    runs.close()
    with pytest.raises(ModelClosed):
        runs.run(good)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"relative": Relative()}, "relative positions"),
        ({"encoder": replace(SMALL, causal=False, language_head=False)}, "attends to an encoder"),
        ({"alibi": 1.0, "causal": False}, "in both directions"),
    ],
)
def test_what_cannot_be_lowered_is_named(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        lower(replace(SMALL, **fields))


# ------------------------------------------------------------------------------------------------------------ four bits


def test_blocks_of_a_file_are_taken_over_without_loss() -> None:
    random = np.random.default_rng(0)
    for kind, width in (("Q4_0", 18), ("Q4_1", 20)):
        blocks = random.integers(0, 256, (6, 2, width), dtype=np.uint8)
        blocks[..., : width - 16] = random.normal(size=(6, 2, (width - 16) // 2)).astype(np.float16).view(np.uint8)
        values = np.empty((12, 32), np.float32)
        unpack = next(format.unpack for format in FORMATS.values() if format.name == kind)
        assert unpack is not None
        unpack(blocks.reshape(12, width), values)
        weight = from_blocks(kind, blocks.ravel(), (6, 64))
        assert weight.shape == (6, 64) and weight.nbytes == 6 * 2 * 20
        assert np.array_equal(weight.whole(torch.float32).numpy(), values.reshape(6, 64))
    with pytest.raises(UnsupportedModel, match="Q6_K"):
        from_blocks("Q6_K", blocks, (6, 64))


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
