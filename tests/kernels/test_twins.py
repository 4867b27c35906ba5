"""The twins are the model too: a plan run with nothing else gives the Transformer's numbers, in pieces over shuffled pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hornbook.engine.lower import lower
from hornbook.engine.plan import Act, Add, Attend, Cap, Embed, Gate, HeadNorm, Linear, Mix, Norm, Plan, Select, Turn
from hornbook.kernels import twins
from hornbook.model.config import Experts, LayerKind, ModelConfig, Rotary, RotaryScaling
from hornbook.model.positions import Alibi
from hornbook.model.transformer import Transformer

SMALL = ModelConfig(
    vocab_size=53, layers=2, width=16, heads=4, kv_heads=2, head_width=4, feedforward_width=24, context_length=64
)  # fmt: skip
YARN = RotaryScaling("yarn", 4.0, 16, 1.0, 32.0, magnitude=1.1)
CASES: dict[str, dict[str, Any]] = {
    "rotary both ways, windows": {
        "pattern": (LayerKind(5, Rotary(scaling=YARN)), LayerKind(None, Rotary(width=2, interleaved=True))),
        "qk_norm": "head", "norm_offset": 1.0, "norm_placement": "both", "embedding_scale": 3.0,
        "attention_softcap": 4.0, "logit_softcap": 5.0, "logit_scale": 0.5, "tied_head": True,
    },
    "sinusoidal, ALiBi, layer norms": {
        "norm": "layer", "gated": False, "activation": "gelu", "positions": "sinusoidal", "alibi": 1.0, "kv_heads": 4,
        "qkv_bias": True, "feedforward_bias": True, "qk_norm": "all", "token_types": 2,
    },
    "mixture": {"experts": Experts(4, 2, 8, True, 6, True), "pattern": (LayerKind(), LayerKind(sparse=True))},
    "encoder": {
        "causal": False, "norm": "layer", "norm_placement": "post", "positions": "learned", "position_offset": 1,
        "pattern": (LayerKind(), LayerKind(window=4)), "embedding_norm": True, "language_head": False,
    },
}  # fmt: skip


def run(plan: Plan, weights: dict[str, Tensor], ids: Tensor, at: Tensor, sequence: Tensor, cache: Any) -> Tensor:
    """The last register; ``cache``: pages and table, or None."""
    a: dict[str, Tensor] = {}
    alibi = None if plan.config.alibi is None else Alibi(plan.config.heads, plan.config.alibi).slopes
    out = ""
    for op in plan.ops:
        out = op.a if isinstance(op, (HeadNorm, Turn)) else op.out
        match op:
            case Embed():
                learned = None if op.positions in (None, "sinusoidal") else weights[str(op.positions)]
                types = None if op.types is None else weights[op.types]
                a[out] = twins.embed(
                    ids, at, weights[op.tokens], scale=op.scale, positions=learned,
                    sinusoidal=op.positions == "sinusoidal", offset=op.offset, types=types,
                )  # fmt: skip
            case Norm():
                bias = None if op.bias is None else weights[op.bias]
                a[out] = twins.norm(a[op.a], weights[op.weight] + op.shift, bias, op.kind, op.epsilon)
            case Add():
                a[out] = a[op.a] + a[op.b]
            case Linear():
                biases = tuple(None if name is None else weights[name] for name in op.biases)
                a[out] = twins.linear(a[op.a], tuple(weights[name] for name in op.weights), biases)
            case Gate():
                a[out] = twins.gate(a[op.a], op.activation)
            case Act():
                a[out] = twins.act(a[op.a], op.activation)
            case HeadNorm():
                weight = weights[op.weight] + op.shift
                a[out] = twins.head_norm(a[op.a], op.start, op.groups, op.width, weight, op.epsilon)
            case Turn():
                a[out] = twins.turn(a[op.a], op.start, op.heads, op.width, op.rotary, at, plan.config.context_length)
            case Attend():
                a[out] = twins.attend(
                    a[op.a], at, sequence, heads=op.heads, kv_heads=op.kv_heads, head_width=op.head_width,
                    scale=op.scale, window=op.window, causal=op.causal, softcap=op.softcap, slopes=alibi,
                    cache=None if cache is None else (cache[0], op.layer, cache[1]),
                )  # fmt: skip
            case Mix():
                own = {name.removeprefix(f"{op.prefix}."): weight for name, weight in weights.items()}
                a[out] = twins.mix(a[op.a], own, op.experts, op.activation)
            case Select():
                a[out] = twins.select(a[op.a], torch.arange(len(ids)))
            case Cap():
                a[out] = twins.cap(a[op.a], op.scale, op.cap)
    return a[out]


@pytest.mark.parametrize("name", CASES)
def test_a_plan_of_twins_is_the_transformer(name: str) -> None:
    torch.manual_seed(0)
    model = Transformer(replace(SMALL, **CASES[name])).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.4)
    config, plan, weights = model.config, lower(model.config), dict(model.named_parameters())
    texts = [torch.randint(53, (length,)) for length in (19, 1, 33)]
    if config.causal:
        expected = [model(text[None]).logits[0] for text in texts]
        pages = torch.full((8, config.layers, 2, config.kv_heads, twins.PAGE, config.head_width), torch.nan)
        cache = pages, torch.tensor([[5, 2, 0], [7, 0, 0], [1, 6, 3]])
        cuts = [(0, 11, 17, 19), (0, 1, 1, 1), (0, 2, 32, 33)]
    else:
        expected = [model(text[None], logits="none").hidden[0] for text in texts]
        cache, cuts = None, [(0, len(text)) for text in texts]
    found: list[list[Tensor]] = [[] for _ in texts]
    for step in range(len(cuts[0]) - 1):
        ranges = [torch.arange(cut[step], cut[step + 1]) for cut in cuts]
        ids = torch.cat([text[places] for text, places in zip(texts, ranges, strict=True)])
        sequence = torch.repeat_interleave(torch.arange(3), torch.tensor([len(places) for places in ranges]))
        out = run(plan, weights, ids, torch.cat(ranges), sequence, cache)
        for pieces, part in zip(found, out.split([len(places) for places in ranges]), strict=True):
            pieces.append(part)
    for pieces, wanted in zip(found, expected, strict=True):
        error = (torch.cat(pieces) - wanted).abs().max() / wanted.abs().max()
        assert error < 1e-5


def test_an_adapted_linear_is_the_merged_one_for_its_tokens() -> None:
    torch.manual_seed(0)
    x, weight, down, up = torch.randn(5, 8), torch.randn(10, 8), torch.randn(2, 8), torch.randn(4, 2)
    chosen, merged = torch.tensor([True, False, True, True, False]), weight.clone()
    merged[3:7] += 0.5 * up @ down
    y = twins.linear(x, (weight,), (None,))
    found = twins.adapted(y, x, down, up, 0.5, chosen, start=3)
    torch.testing.assert_close(found[chosen], (x @ merged.T)[chosen])
    assert torch.equal(found[~chosen], y[~chosen])
