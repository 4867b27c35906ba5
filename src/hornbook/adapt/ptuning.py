"""P-tuning (arXiv 2103.10385): a prompt whose vectors a small network makes, so that they move together in training.

    table [n,E] -> MLP, or LSTM in both directions and MLP -> vectors [n,E] -> before the tokens

Section 3.2 of the paper. The networks are those of PEFT: three linear layers, or an LSTM and two. In use the vectors
are all that counts, and all that a file holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hornbook.adapt.attached import Attached
from hornbook.adapt.front import stand
from hornbook.adapt.mlp import draw, mlp
from hornbook.adapt.prompt import (
    PromptPart,
    check_size,
    read_size,
    settle,
    sizes,
    vector_width,
    vectors_of,
)
from hornbook.errors import UsageError
from hornbook.model.transformer import Transformer


class Recurrent(nn.Module):
    """The LSTM's states of the table, through an MLP: [n,E] -> [n,E]."""

    def __init__(self, width: int, hidden: int, layers: int, dropout: float, generator: torch.Generator | None) -> None:
        super().__init__()
        lstm = nn.LSTM(width, hidden, num_layers=layers, dropout=dropout, bidirectional=True, batch_first=True)
        self.lstm = draw(lstm, generator)
        self.mlp = mlp((2 * hidden, 2 * hidden, width), nn.ReLU, generator)

    def forward(self, table: Tensor) -> Tensor:
        made: Tensor = self.mlp(self.lstm(table[None])[0])[0]
        return made


@dataclass(frozen=True, slots=True)
class PTuning:
    """``tokens`` vectors. ``hidden``: the network's width, the model's where None; ``layers`` and ``dropout``: an LSTM's."""

    kind: ClassVar[str] = "ptuning"
    peft_type: ClassVar[str] = "P_TUNING"
    needs_rows: ClassVar[bool] = True

    tokens: int = 20
    encoder: Literal["mlp", "lstm"] = "mlp"
    hidden: int | None = None
    layers: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_size(self.tokens)
        if self.encoder not in ("mlp", "lstm"):
            raise UsageError(f"no encoder of prompts is called {self.encoder!r}", "Say mlp or lstm.")

    def attach(
        self, model: Transformer, *, name: str = "default", generator: torch.Generator | None = None
    ) -> Attached:
        """See Adapter. Raises UnsupportedModel for a model with an encoder."""
        width = vector_width(model.config)
        hidden = self.hidden or width
        network: nn.Module
        if self.encoder == "mlp":
            network = mlp((width, hidden, hidden, width), nn.ReLU, generator)
        else:
            dropout = self.dropout if self.layers > 1 else 0.0
            network = Recurrent(width, hidden, self.layers, dropout, generator)
        return stand(model, self, PromptPart(torch.randn(self.tokens, width, generator=generator), network), name)

    def described(self, attached: Attached) -> dict[str, Any]:
        config = attached.model.config
        return {
            **sizes(self.tokens, config),
            "encoder_reparameterization_type": self.encoder.upper(),
            "encoder_hidden_size": self.hidden or vector_width(config),
            "encoder_num_layers": self.layers,
            "encoder_dropout": self.dropout,
        }

    def tensors(self, attached: Attached) -> dict[str, Tensor]:
        return vectors_of(attached)

    @classmethod
    def read(cls, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Transformer) -> PTuning:
        """See Adapter."""
        return cls(
            read_size(raw, tensors, (vector_width(model.config),)),
            encoder="lstm" if raw.get("encoder_reparameterization_type") == "LSTM" else "mlp",
            hidden=raw.get("encoder_hidden_size"),
            layers=raw.get("encoder_num_layers") or 2,
            dropout=raw.get("encoder_dropout") or 0.0,
        )

    def fill(self, attached: Attached, tensors: Mapping[str, Tensor]) -> None:
        """See Adapter. The vectors themselves are what can be trained on: what made them is not in the file."""
        settle(attached, tensors)
