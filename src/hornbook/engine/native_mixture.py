"""A mixture of experts as the native kernels run it: its router, the experts, and the expert that every token passes.

    Mix(y, normed)  ->  scores = Linear normed                            router [E, C]
                        y      = Experts normed scores                    HB_MIX: gate and up [E, I, C], down [E, C, I]
                        common = Linear, Gate, Linear normed              the shared expert, where there is one,
                        weight = Linear normed | common = Weigh common    weighted by a sigmoid of its own
                        y      = y + common

Adapters do not reach any of it: its Linears have no site.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from hornbook.engine.plan import Act, Add, Embed, Gate, Linear, Mix, Op, Plan
from hornbook.model.config import ModelConfig

NO_SITE = -1


@dataclass(frozen=True, slots=True)
class Experts:
    """out = the shares that ``scores`` [T, E] give the best ``top`` experts, times what each makes of ``a``."""

    out: str
    a: str
    scores: str
    weights: tuple[str, str, str]  # gate, up, down
    top: int
    renormalise: bool
    activation: str


@dataclass(frozen=True, slots=True)
class Weigh:
    """out = a * sigmoid(weight), weight [T, 1]."""

    out: str
    a: str
    weight: str


NativeOp: TypeAlias = Op | Experts | Weigh


def native_ops(plan: Plan) -> tuple[list[NativeOp], dict[str, int]]:
    """The plan's operations with the parts of each mixture in its place, and the widths of all their registers."""
    ops: list[NativeOp] = []
    widths = dict(plan.widths)
    for op in plan.ops:
        if isinstance(op, Mix):
            own, more = _parts(op, plan.config)
            ops += own
            widths |= more
        else:
            ops.append(op)
    return ops, widths


def matrices(plan: Plan) -> Iterator[str]:
    """The names of what is packed for the kernels, in the order in which operations read it."""
    for op in native_ops(plan)[0]:
        if isinstance(op, Embed):
            yield op.tokens
        elif isinstance(op, (Linear, Experts)):
            yield from op.weights


def _parts(mix: Mix, config: ModelConfig) -> tuple[list[NativeOp], dict[str, int]]:
    """Its operations, in order, and the widths of the registers that they need beside the plan's."""
    experts, prefix = mix.experts, mix.prefix
    ops: list[NativeOp] = [_linear("scores", mix.a, f"{prefix}.router")]
    weights = (f"{prefix}.gate", f"{prefix}.up", f"{prefix}.down")
    ops.append(Experts(mix.out, mix.a, "scores", weights, experts.top, experts.renormalise, mix.activation))
    widths = {"scores": experts.count}
    if not experts.shared_width:
        return ops, widths
    bias = config.feedforward_bias
    widths |= {"shared_inner": experts.shared_width, "common": config.width}
    if config.gated:
        widths["shared_gate_up"] = 2 * experts.shared_width
        ops.append(_linear("shared_gate_up", mix.a, f"{prefix}.shared.gate", f"{prefix}.shared.up", bias=bias))
        ops.append(Gate("shared_inner", "shared_gate_up", mix.activation))
    else:
        ops.append(_linear("shared_inner", mix.a, f"{prefix}.shared.up", bias=bias))
        ops.append(Act("shared_inner", "shared_inner", mix.activation))
    ops.append(_linear("common", "shared_inner", f"{prefix}.shared.down", bias=bias))
    if experts.shared_gate:
        widths["shared_gate"] = 1
        ops += [_linear("shared_gate", mix.a, f"{prefix}.shared_gate"), Weigh("common", "common", "shared_gate")]
    ops.append(Add(mix.out, mix.out, "common"))
    return ops, widths


def _linear(out: str, a: str, *names: str, bias: bool = False) -> Linear:
    biases = tuple(f"{name}.bias" if bias else None for name in names)
    return Linear(out, a, tuple(f"{name}.weight" for name in names), biases, NO_SITE)
