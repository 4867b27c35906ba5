"""Prefix tuning (arXiv 2101.00190): learnt keys and values before those of the tokens, in every layer.

    table [n, 2 L K D] (-> MLP, section 4.3, where it is projected) -> per layer keys [K,n,D] and values [K,n,D]

The layout is PEFT's: a row of the table holds, layer by layer, the keys of all key heads and then their values. The keys
stand where rotated ones do, and are not rotated; the tokens' positions count on from n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hornbook.adapt.attached import Attached
from hornbook.adapt.front import FRONT, Prefixing, stand
from hornbook.adapt.mlp import mlp
from hornbook.adapt.prompt import FILE, check_size, read_size, sizes
from hornbook.model.config import ModelConfig
from hornbook.model.transformer import Transformer

FIRST_STD = 0.02


class PrefixPart(Prefixing):
    """``table`` [n, 2 L K D] as it is, or what ``encoder`` makes of it."""

    def __init__(self, table: Tensor, encoder: nn.Module | None, config: ModelConfig) -> None:
        super().__init__()
        self.size = len(table)
        self.table = nn.Parameter(table)
        self.encoder = encoder
        self.shape = (self.size, config.layers, 2, config.kv_heads, config.head_width)

    def flat(self) -> Tensor:
        """[n, 2 L K D]"""
        made: Tensor = self.table if self.encoder is None else self.encoder(self.table)
        return made

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        keys, values = self.flat().view(self.shape).permute(2, 1, 3, 0, 4)
        return keys, values

    def settle(self, flat: Tensor) -> None:
        """Hold the keys and values themselves: a file has no more."""
        self.encoder = None
        self.table = nn.Parameter(flat.to(self.table))


@dataclass(frozen=True, slots=True)
class Prefix:
    """``tokens`` places in every layer. ``projected``: made by an MLP of width ``hidden`` (None: as wide as a layer's keys),
    which the paper found steadier to train."""

    kind: ClassVar[str] = "prefix"
    peft_type: ClassVar[str] = "PREFIX_TUNING"
    needs_rows: ClassVar[bool] = True

    tokens: int = 20
    projected: bool = False
    hidden: int | None = None

    def __post_init__(self) -> None:
        check_size(self.tokens)

    def attach(
        self, model: Transformer, *, name: str = "default", generator: torch.Generator | None = None
    ) -> Attached:
        """See Adapter. Raises UnsupportedModel for a model with an encoder.

        What is not projected begins close to nothing, where PEFT draws keys of norm sqrt(D), which a model does not
        recover from in a few steps.
        """
        config = model.config
        one = config.kv_heads * config.head_width
        if self.projected:
            table = torch.randn(self.tokens, one, generator=generator)
            widths = (one, self.hidden or one, 2 * config.layers * one)
            part = PrefixPart(table, mlp(widths, nn.Tanh, generator), config)
        else:
            table = torch.randn(self.tokens, 2 * config.layers * one, generator=generator)
            part = PrefixPart(FIRST_STD * table, None, config)
        return stand(model, self, part, name)

    def described(self, attached: Attached) -> dict[str, Any]:
        config = attached.model.config
        return {
            **sizes(self.tokens, config),
            "token_dim": config.kv_heads * config.head_width,
            "num_attention_heads": config.kv_heads,
            "prefix_projection": self.projected,
            "encoder_hidden_size": self.hidden or config.kv_heads * config.head_width,
        }

    def tensors(self, attached: Attached) -> dict[str, Tensor]:
        part = attached.parts[FRONT]
        assert isinstance(part, PrefixPart)
        return {FILE: part.flat().detach().clone()}

    @classmethod
    def read(cls, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Transformer) -> Prefix:
        """See Adapter."""
        config = model.config
        tokens = read_size(raw, tensors, (2 * config.layers * config.kv_heads * config.head_width,))
        return cls(tokens, projected=bool(raw.get("prefix_projection")), hidden=raw.get("encoder_hidden_size"))

    def fill(self, attached: Attached, tensors: Mapping[str, Tensor]) -> None:
        """See Adapter. Keys and values themselves are what can be trained on: what made them is not in the file."""
        part = attached.parts[FRONT]
        assert isinstance(part, PrefixPart)
        part.settle(tensors[FILE])
