"""Bottleneck adapters (arXiv 1902.00751): a narrow network after the parts of each block, which begins as almost nothing.

    attention -> (+ up(act(down .)))  -> residual sum      figure 2; "houlsby": after both parts
    feed-forward -> (+ up(act(down .))) -> residual sum    "pfeiffer": after the feed-forward alone (arXiv 2005.00247)

It reads and changes what a part is about to add to the stream, before any norm that stands there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hornbook.adapt import inject
from hornbook.adapt.attached import Attached
from hornbook.adapt.inject import Below, Part
from hornbook.errors import ModelFileError, UsageError
from hornbook.model.feedforward import ACTIVATIONS
from hornbook.model.transformer import Transformer

FIRST_STD = 1e-2  # section 3.6: normal, cut off at two deviations
# A block does not call its attention to a source, but asks it to look: what comes out of that is its last layer's.
PLACES = {"houlsby": ("attention", "cross.output", "feedforward"), "pfeiffer": ("feedforward",)}


class BottleneckPart(Part):
    """y -> y + W_up act(W_down y + b) + b', y [..., C] of the module that it stands around."""

    def __init__(self, width: int, inner: int, activation: str, generator: torch.Generator | None) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation = ACTIVATIONS[activation]
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=FIRST_STD, a=-2 * FIRST_STD, b=2 * FIRST_STD, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, below: Below, *inputs: Any, **named: Any) -> Tensor:
        y = below(*inputs, **named)
        change: Tensor = self.up(self.activation(self.down(y.to(self.down.weight.dtype))))
        return y + change.to(y.dtype)


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """``width``: inside, 64 in most of the paper; ``placement`` as above."""

    kind: ClassVar[str] = "bottleneck"
    peft_type: ClassVar[str] = "HORNBOOK_BOTTLENECK"  # PEFT has no such kind, and says so
    needs_rows: ClassVar[bool] = False

    width: int = 64
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "gelu"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"a bottleneck of width {self.width}", "Say 1 or more; 64 is usual.")
        if self.placement not in PLACES or self.activation not in ACTIVATIONS:
            raise UsageError(
                f"there is no bottleneck {self.placement!r} with {self.activation!r}",
                f"Placements: {', '.join(PLACES)}; activations: {', '.join(ACTIVATIONS)}.",
            )

    def attach(
        self, model: Transformer, *, name: str = "default", generator: torch.Generator | None = None
    ) -> Attached:
        """See Adapter."""
        config, places = model.config, "|".join(map(re.escape, PLACES[self.placement]))
        parts = {}
        for path, _ in inject.modules(model):
            if re.fullmatch(rf"(encoder\.)?blocks\.\d+\.({places})", path):
                stack = config.encoder if config.encoder is not None and path.startswith("encoder.") else config
                part = BottleneckPart(stack.width, self.width, self.activation, generator)
                parts[path] = part.to(model.device)
        return Attached(model, self, name=name, parts=parts)

    def described(self, attached: Attached) -> dict[str, Any]:
        return {"width": self.width, "placement": self.placement, "activation": self.activation}

    def tensors(self, attached: Attached) -> dict[str, Tensor]:
        return dict(own_tensors(attached))

    @classmethod
    def read(cls, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Transformer) -> Bottleneck:
        """See Adapter."""
        try:
            return cls(raw["width"], raw["placement"], raw["activation"])
        except KeyError as error:
            raise ModelFileError(f"adapter_config.json has no {error}", "Fetch the adapter again.") from error

    def fill(self, attached: Attached, tensors: Mapping[str, Tensor]) -> None:
        """See Adapter."""
        fill_own(attached, tensors)


# ------------------------------------------------------------------------------------------ kinds that PEFT does not have


def own_tensors(attached: Attached) -> dict[str, Tensor]:
    """Weights by our own names: "blocks.0.attention.down.weight"."""
    return {
        f"{path}.{name}": value.detach().clone()
        for path, part in attached.parts.items()
        for name, value in part.state_dict().items()
    }


def fill_own(attached: Attached, tensors: Mapping[str, Tensor]) -> None:
    """Raises ModelFileError where a file's names are not these, UsageError where the shapes are another model's."""
    wanted = own_tensors(attached)
    if strange := sorted(wanted.keys() ^ tensors.keys()):
        raise ModelFileError(
            f"the adapter's file and its settings differ in {len(strange)} tensors: {', '.join(strange[:3])}",
            "Fetch the adapter again.",
        )
    for name, value in wanted.items():
        if value.shape != tensors[name].shape:
            raise UsageError(
                f"the adapter's {name} is {list(tensors[name].shape)}, this model's {list(value.shape)}",
                "It was made for another base.",
            )
    for path, part in attached.parts.items():
        own = {name.removeprefix(f"{path}."): value for name, value in tensors.items() if name.startswith(f"{path}.")}
        part.load_state_dict(own)
