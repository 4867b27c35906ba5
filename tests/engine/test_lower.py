"""The plan is the model: torch runs it over pages, ragged and in pieces, and every register is what the Transformer has."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plan_models import (
    DECODERS,
    ENCODERS,
    LONG,
    SMALL,
    built,
    close,
    executor,
    in_pieces,
    packed,
    texts,
)
from torch import Tensor

import hornbook.model.attention
from hornbook.engine.lower import lower
from hornbook.engine.plan import Act, Attend, Gate, HeadNorm, Linear, Mix, Norm, Select, Turn
from hornbook.errors import UnsupportedModel
from hornbook.model.config import LayerKind, Relative, Rotary
from hornbook.model.transformer import Transformer


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
