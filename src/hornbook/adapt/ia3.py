"""IA3 (arXiv 2205.05638): keys, values and the feed-forward's inner states are multiplied by learnt vectors.

    softmax(Q (l_k * K)') (l_v * V)      W_down (l_ff * act(...))      section 3.3; all begin as 1

A vector multiplies what a linear layer gives ("out": the layers that make keys and values) or what it reads ("in": the
one that leads out of the feed-forward), so it can be folded into that layer's rows or columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from hornbook.adapt import format as peft_format
from hornbook.adapt import targets as modules
from hornbook.adapt.attached import Attached
from hornbook.adapt.inject import Below, Part, module
from hornbook.adapt.low_rank import weight_of
from hornbook.checkpoint.lora import find, moved, returned
from hornbook.checkpoint.rules import Rule
from hornbook.errors import ModelFileError, UnsupportedModel, UsageError
from hornbook.model.transformer import Transformer

TARGETS = ("attention.key", "attention.value", "cross.key", "cross.value", "feedforward.down")
_NAME = re.compile(r"(?P<module>.+)\.ia3_l")


class IA3Part(Part):
    """``scale`` [out] of what the layer gives, or [in] of what it reads."""

    def __init__(self, base: nn.Module, *, reads: bool) -> None:
        super().__init__()
        self.reads = reads
        width = cast(int, base.in_features if reads else base.out_features)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, below: Below, x: Tensor) -> Tensor:
        if self.reads:
            return below((x * self.scale).to(x.dtype))
        y = below(x)
        return (y * self.scale).to(y.dtype)

    def folded(self, base: nn.Module) -> dict[str, Tensor]:
        weight, bias = weight_of(base).float(), getattr(base, "bias", None)
        if self.reads:
            return {"weight": weight * self.scale}
        changed = {"weight": weight * self.scale[:, None]}
        return changed if bias is None else {**changed, "bias": bias.float() * self.scale}


@dataclass(frozen=True)
class IA3:
    """``targets``: linear layers that are scaled, by names as in targets.py; None: those of the paper, as the model has them.
    ``reads``: which of them are scaled in what they read, None: those that lead out of a feed-forward."""

    kind: ClassVar[str] = "ia3"
    peft_type: ClassVar[str] = "IA3"
    needs_rows: ClassVar[bool] = False

    targets: str | Sequence[str] | None = None
    reads: Sequence[str] | None = None

    def attach(
        self, model: Transformer, *, name: str = "default", generator: torch.Generator | None = None
    ) -> Attached:
        """See Adapter. Raises UnsupportedModel for a mixture of experts, whose inner states are none of one layer."""
        paths = self._paths(model)
        reads = modules.linears(model, self.reads) if self.reads else ()
        if self.reads is None:
            reads = [path for path in paths if path.endswith("feedforward.down")]
        parts = {path: IA3Part(module(model, path), reads=path in reads).to(model.device) for path in paths}
        return Attached(model, self, name=name, parts=parts)

    def _paths(self, model: Transformer) -> list[str]:
        if self.targets is not None:
            return modules.linears(model, self.targets)
        if model.config.experts is not None:
            raise UnsupportedModel(
                "IA3 scales the inner states of a feed-forward, and this model has a mixture of experts",
                "Name targets without it: key, value.",
            )
        return [path for path in modules.linears(model) if path.endswith(TARGETS)]

    # --- PEFT's files

    def described(self, attached: Attached) -> dict[str, Any]:
        names = {module: reads for module, reads, _ in _wholes(attached)}
        return {
            "target_modules": list(names),
            "feedforward_modules": [module for module, reads in names.items() if reads],
            "fan_in_fan_out": any(_transposed(rule) for _, _, rule in _wholes(attached)),
            "init_ia3_weights": True,
            "exclude_modules": None,
        }

    def tensors(self, attached: Attached) -> dict[str, Tensor]:
        found = {}
        for theirs, reads, rule in _wholes(attached):
            vectors = tuple(_vector(attached, name.removesuffix(".weight")) for name in rule.ours)
            if reads:
                found[f"{theirs}.ia3_l"] = vectors[0][None]
            else:
                found[f"{theirs}.ia3_l"] = returned(rule.transform, vectors)[:, None]
        return found

    @classmethod
    def read(cls, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Transformer) -> IA3:
        """See Adapter. A file's shapes say which of its vectors are for what a layer reads."""
        paths, reads = [], []
        for name, tensor in tensors.items():
            here = [ours.removesuffix(".weight") for ours in _rule(model, name).ours]
            paths += here
            if tensor.dim() != 2 or 1 not in tensor.shape:
                raise ModelFileError(f"the adapter's {name} is {list(tensor.shape)}", "It should be a row or a column.")
            reads += here if tensor.shape[0] == 1 else []
        if not paths:
            raise ModelFileError("the adapter changes nothing", "Fetch it again.")
        return cls(tuple(paths), tuple(reads))

    @torch.no_grad()
    def fill(self, attached: Attached, tensors: Mapping[str, Tensor]) -> None:
        """See Adapter."""
        for name, tensor in tensors.items():
            rule = _rule(attached.model, name)
            column = tensor.flatten()
            vectors = (column,) if tensor.shape[0] == 1 else moved(rule.transform, column)
            for ours, vector in zip(rule.ours, vectors, strict=True):
                part = attached.parts[ours.removesuffix(".weight")]
                assert isinstance(part, IA3Part)
                if part.scale.shape != vector.shape:
                    raise UsageError(
                        f"the adapter's {name} scales {vector.numel()} numbers, the model's {ours} has {part.scale.numel()}",
                        "It was made for another base.",
                    )
                part.scale.copy_(vector)


def _vector(attached: Attached, path: str) -> Tensor:
    """The scale at a module, ones where nothing is attached."""
    part = attached.parts.get(path)
    if isinstance(part, IA3Part):
        return part.scale.detach()
    return torch.ones(cast(int, module(attached.model, path).out_features))


def _wholes(attached: Attached) -> list[tuple[str, bool, Rule]]:
    """Each module of theirs that is scaled, whether in what it reads, and the rule of its weight."""
    family, rules = peft_format.form(attached.model)
    found = []
    for rule in rules:
        parts = [attached.parts.get(name.removesuffix(".weight")) for name in rule.ours]
        there = [part for part in parts if isinstance(part, IA3Part)]
        if not there or not rule.ours[0].endswith(".weight"):
            continue
        reads = {part.reads for part in there}
        if len(rule.theirs) != 1 or len(reads) > 1 or (reads == {True} and len(rule.ours) > 1):
            raise UnsupportedModel(
                f"{rule.ours[0]} is {', '.join(rule.theirs)} in the model's Hugging Face form, where it is not scaled alone",
                "Leave it out.",
            )
        theirs = peft_format.full_name(family, rule.theirs[0]).removesuffix(".weight")
        found.append((theirs, reads.pop(), rule))
    return found


def _transposed(rule: Rule) -> bool:
    return "Transposed" in repr(rule.transform)


def _rule(model: Transformer, name: str) -> Rule:
    match = _NAME.fullmatch(name)
    if match is None:
        raise UnsupportedModel(f"the adapter has a tensor {name}", "Train it again without.")
    rule = find(peft_format.form(model)[1], match["module"])
    if rule is None:
        raise UsageError(
            f"the adapter changes {match['module']}, and this model has no such module", "It was made for another base."
        )
    return rule
