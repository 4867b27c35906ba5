"""Half a layer as one function gives the bits of its parts, and gives way to whatever wants to see these parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hornbook.kernels import sublayers, training
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer

pytestmark = pytest.mark.skipif(training.native() is None, reason="the native kernels are not built here")

GPT2: dict[str, Any] = {
    "vocab_size": 65, "layers": 2, "width": 64, "heads": 4, "kv_heads": 4, "head_width": 16, "feedforward_width": 160,
    "context_length": 40, "positions": "learned", "norm": "layer", "activation": "gelu_tanh", "gated": False, "tied_head": True,
    "qkv_bias": True, "attention_output_bias": True, "feedforward_bias": True,
}  # fmt: skip


def model_of(**changes: Any) -> Transformer:
    torch.manual_seed(3)
    model = Transformer(ModelConfig(**{**GPT2, **changes})).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def step(model: Transformer, mask: Tensor | None = None) -> list[Tensor]:
    """The logits, and the gradients of all that is trained."""
    ids = torch.randint(0, 65, (3, 33), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    logits = model(ids, mask=mask).logits
    logits.square().mean().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which halves were one function, in their order."""
    seen: list[str] = []
    for name in ("attended", "fed"):
        real = getattr(sublayers, name)
        monkeypatch.setattr(sublayers, name, lambda *a, _name=name, _real=real: (seen.append(_name), _real(*a))[1])
    return seen


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kv_heads": 2, "activation": "relu"},
        {"qkv_bias": False, "attention_output_bias": False, "feedforward_bias": False, "norm_bias": False},
    ],
)
@pytest.mark.parametrize("frozen", [(), ("attention.key", "feedforward.up"), ("norm", "bias"), ("token", "position")])
def test_the_bits_are_those_of_the_parts(changes: dict[str, Any], frozen: tuple[str, ...], taken: list[str]) -> None:
    model = model_of(**changes)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    whole = step(model)
    assert taken == ["attended", "fed"] * 2
    handles = [
        module.register_forward_hook(lambda module, given, out: None)
        for name, module in model.named_modules()
        if name.endswith(("attention", "feedforward"))
    ]
    assert len(handles) == 4
    parts = step(model)
    assert len(taken) == 4, "a hook is called, and that by its module"
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("changes", "halves"),
    [
        ({"dropout": 0.1}, []),
        ({"attention_dropout": 0.1}, ["fed"]),
        ({"pattern": (LayerKind(rotary=Rotary()),), "positions": "none"}, ["fed"]),
        ({"pattern": (LayerKind(window=8),)}, ["fed"]),
        ({"pattern": (LayerKind(window=33),)}, ["attended", "fed"]),
        ({"gated": True, "feedforward_bias": False}, ["attended"]),
        ({"norm": "rms"}, []),
        ({"norm_placement": "post"}, []),
        ({"attention_softcap": 30.0}, ["fed"]),
        ({"causal": False}, ["fed"]),
        ({"feedforward_width": 150}, ["attended"]),
    ],
)
def test_what_is_not_that_half_is_computed_part_by_part(
    changes: dict[str, Any], halves: list[str], taken: list[str]
) -> None:
    model = model_of(**changes)
    step(model)
    assert taken == halves * 2


def test_padding_and_passes_without_gradients_are_computed_part_by_part(taken: list[str]) -> None:
    model = model_of()
    mask = torch.ones(3, 33, dtype=torch.bool)
    mask[1, 20:] = False
    step(model, mask)
    assert taken == ["fed"] * 2
    with torch.no_grad():
        model(torch.zeros(1, 5, dtype=torch.long))
    assert taken == ["fed"] * 2


def test_checkpointed_layers_are_taken_whole_and_give_the_same(taken: list[str]) -> None:
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(2))
    model = model_of()
    layer = model.blocks[0].feedforward
    norm = model.blocks[0].feedforward_norm
    found = []
    for wrap in (lambda f, x: f(x), lambda f, x: torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False)):
        given = x.clone().requires_grad_()
        wrap(lambda y: layer.beside(y, norm), given).square().sum().backward()
        found.append(given.grad)
    assert torch.equal(*found) and len(taken) == 3
