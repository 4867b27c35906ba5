"""LoReFT (arXiv 2404.03592): the states of a few tokens are edited in a subspace of low rank, and no weight is touched.

    h  ->  h + R' (W h + b - R h)          eq. 2;  R [r,C] has orthonormal rows, W [r,C], b [r]

after chosen layers, at the ``first`` and ``last`` tokens of each row's prompt, with one R, W and b for both (section 3.3).
What follows the prompt is not edited: it costs nothing while a model writes.

Where this departs: W begins as R and b as 0, so that the model begins as it is.

Legend: B rows, T tokens, C channels, r rank, D documents of a packed row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.adapt.attached import Attached
from hornbook.adapt.bottleneck import fill_own, own_tensors
from hornbook.adapt.front import size_of
from hornbook.adapt.inject import Below, Part
from hornbook.errors import ModelFileError, UnsupportedModel, UsageError
from hornbook.model.attention import Pass
from hornbook.model.transformer import Transformer


class LoReFTPart(Part):
    """Around one block. R is the orthonormal basis of the rows of ``rotation`` [r,C], which are themselves free."""

    def __init__(self, model: Transformer, rank: int, first: int, last: int, generator: torch.Generator | None) -> None:
        super().__init__()
        drawn = torch.randn(rank, model.config.width, generator=generator)
        self.rotation = nn.Parameter(orthonormal(drawn))
        self.weight = nn.Parameter(self.rotation.detach().clone())
        self.bias = nn.Parameter(torch.zeros(rank))
        self.first, self.last = first, last
        self._model = (model,)  # not a module of this part's own

    def forward(self, below: Below, x: Tensor, layer: int, shared: Pass) -> Tensor:
        h = below(x, layer, shared)
        at = self._where(shared)
        if at is None:
            return h
        edited: Tensor = h.index_put(at, self.edit(h[at].float()).to(h.dtype))
        return edited

    def edit(self, h: Tensor) -> Tensor:
        """[..., C] -> [..., C], float32"""
        rotation = orthonormal(self.rotation)
        return h + F.linear(h, self.weight.float() - rotation, self.bias.float()) @ rotation

    def _where(self, shared: Pass) -> tuple[Tensor, Tensor] | None:
        """(row, column) of each token of this pass that is edited; None: there is none, as while a model writes. All layers
        share one answer. Raises UsageError where whole rows have no prompt."""
        key = ("LoReFT", self.first, self.last)
        if key not in shared.notes:
            chosen = _edges(shared, self.first, self.last, size_of(self._model[0]))
            rows, columns = chosen.nonzero(as_tuple=True)
            if not len(rows) and not shared.grows:
                raise UsageError(
                    f"LoReFT edits the ends of prompts, and none of these {len(chosen)} rows has a prompt",
                    "Train it on prompts and replies (sft): the prompt is what stands before the first label.",
                )
            shared.notes[key] = (rows, columns) if len(rows) else None
        found: tuple[Tensor, Tensor] | None = shared.notes[key]
        return found


def orthonormal(rows: Tensor) -> Tensor:
    """The rows [r,C] made orthonormal one after the other (Gram-Schmidt, by QR); those that are so already stay."""
    q, r = torch.linalg.qr(rows.float().T)
    signed: Tensor = q * r.diagonal().sign()
    return signed.T


def _edges(shared: Pass, first: int, last: int, ahead: int) -> Tensor:
    """Which tokens of the pass are among the first or the last of their row's prompt: bool [B,T].

    ``ahead``: how many places stand before each row's own tokens.
    """
    assert shared.places is not None
    if shared.openings is not None:
        raise UsageError(
            "LoReFT edits each document's own beginning, and in this row documents share one",
            "Pack rows without sharing: feed.packed(..., share=False).",
        )
    places = shared.places - ahead
    real = torch.ones_like(places, dtype=torch.bool) if shared.mask is None else shared.mask
    lengths = shared.prompts
    if lengths is None and shared.grows:
        raise UsageError(
            "LoReFT edits the ends of a prompt, and a cache that grows has not been told how long its prompts are",
            "Set cache.prompts to the tokens of each row's prompt.",
        )
    if shared.segments is not None:
        sizes = shared.segments.diff().to(places.device)
        each = sizes if lengths is None else lengths.to(places.device)
        until = torch.repeat_interleave(each, sizes, output_size=places.shape[1])[None]
    elif lengths is None:
        until = places.masked_fill(~real, -1).amax(-1, keepdim=True) + 1
    else:
        until = lengths.to(places.device)[:, None]
    inside = real & (places >= 0) & (places < until)
    return inside & ((places < first) | (places >= until - last))


@dataclass(frozen=True, slots=True)
class LoReFT:
    """Of ``rank``, after ``layers`` (their numbers from 0, or all), at the ``first`` and ``last`` tokens of each prompt."""

    kind: ClassVar[str] = "loreft"
    peft_type: ClassVar[str] = "HORNBOOK_LOREFT"  # PEFT has no such kind, and says so
    needs_rows: ClassVar[bool] = False

    rank: int = 4
    layers: Literal["all"] | tuple[int, ...] = "all"
    first: int = 4
    last: int = 4

    def __post_init__(self) -> None:
        if self.rank < 1 or self.first < 0 or self.last < 0 or self.first + self.last == 0:
            raise UsageError(
                f"LoReFT of rank {self.rank} at {self.first} first and {self.last} last tokens edits nothing",
                "All three are numbers from 0, the rank and one of the others above it.",
            )

    def attach(
        self, model: Transformer, *, name: str = "default", generator: torch.Generator | None = None
    ) -> Attached:
        """See Adapter. Raises UsageError for layers that the model does not have, UnsupportedModel for layers that share
        their weights."""
        config = model.config
        if config.encoder is not None or config.layer_groups is not None:
            why = "an encoder" if config.encoder is not None else "layers that share their weights"
            raise UnsupportedModel(f"the model has {why}: LoReFT edits single layers of one stack", "Use lora.")
        layers = range(config.layers) if self.layers == "all" else self.layers
        if wrong := [layer for layer in layers if not 0 <= layer < config.layers]:
            raise UsageError(f"there is no layer {wrong[0]}", f"The model's are 0 to {config.layers - 1}.")
        if self.rank > config.width:
            raise UsageError(f"rank {self.rank} in {config.width} channels", "Take a rank below; 4 to 32 are usual.")
        parts = {
            f"blocks.{layer}": LoReFTPart(model, self.rank, self.first, self.last, generator).to(model.device)
            for layer in layers
        }
        return Attached(model, self, name=name, parts=parts)

    def described(self, attached: Attached) -> dict[str, Any]:
        layers = self.layers if self.layers == "all" else list(self.layers)
        return {"rank": self.rank, "layers": layers, "first": self.first, "last": self.last}

    def tensors(self, attached: Attached) -> dict[str, Tensor]:
        """``rotation`` is written as the orthonormal rows that it stands for."""
        with torch.no_grad():
            return {
                name: orthonormal(value) if name.endswith(".rotation") else value
                for name, value in own_tensors(attached).items()
            }

    @classmethod
    def read(cls, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Transformer) -> LoReFT:
        """See Adapter."""
        try:
            layers = raw["layers"] if raw["layers"] == "all" else tuple(raw["layers"])
            return cls(raw["rank"], layers, raw["first"], raw["last"])
        except KeyError as error:
            raise ModelFileError(f"adapter_config.json has no {error}", "Fetch the adapter again.") from error

    def fill(self, attached: Attached, tensors: Mapping[str, Tensor]) -> None:
        """See Adapter."""
        fill_own(attached, tensors)
