"""Prompt tuning (arXiv 2104.08691): learnt vectors before the tokens of every row; the model itself stays as it is.

[ v0 v1 ... v(n-1) | a b c d ]      section 2: Pr(Y | [P; X]), and only P is trained
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hornbook.adapt.attached import Attached
from hornbook.adapt.front import FRONT, Prompting, stand
from hornbook.errors import ModelFileError, UnsupportedModel, UsageError
from hornbook.model.config import ModelConfig
from hornbook.model.transformer import Transformer
from hornbook.text.tokenizer import Tokenizer

FILE = "prompt_embeddings"  # what PEFT calls the one tensor of all that stand before the tokens


class PromptPart(Prompting):
    """``table`` [n,E] as it is, or what ``encoder`` makes of it."""

    def __init__(self, table: Tensor, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.size = len(table)
        self.table = nn.Parameter(table)
        self.encoder = encoder

    def vectors(self) -> Tensor:
        made: Tensor = self.table if self.encoder is None else self.encoder(self.table)
        return made

    def settle(self, vectors: Tensor) -> None:
        """Hold the vectors themselves: a file has no more."""
        self.encoder = None
        self.table = nn.Parameter(vectors.to(self.table))


@dataclass(frozen=True, slots=True)
class Prompt:
    """``tokens`` learnt vectors, which begin as numbers of the normal distribution ("random"), as the vectors of tokens
    drawn from the vocabulary, or as those of ``ids``, repeated or cut to as many (section 3.2 of the paper compares)."""

    kind: ClassVar[str] = "prompt"
    peft_type: ClassVar[str] = "PROMPT_TUNING"
    needs_rows: ClassVar[bool] = True

    tokens: int = 20
    init: Literal["random", "vocabulary"] = "vocabulary"
    ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_size(self.tokens)

    @classmethod
    def of_text(cls, text: str, tokenizer: Tokenizer, *, tokens: int = 20) -> Prompt:
        """A prompt that begins as a text: "Tell whether the review is positive or negative". Raises UsageError if it is
        empty."""
        ids = tokenizer.encode(text, add_special=False)
        if not ids:
            raise UsageError("the text that the prompt is to begin as is empty", "Give one, or none.")
        return cls(tokens, ids=tuple(ids))

    def attach(
        self, model: Transformer, *, name: str = "default", generator: torch.Generator | None = None
    ) -> Attached:
        """See Adapter. Raises UnsupportedModel for a model with an encoder, UsageError for ids that it does not have."""
        return stand(model, self, PromptPart(self._first(model, generator)), name)

    @torch.no_grad()
    def _first(self, model: Transformer, generator: torch.Generator | None) -> Tensor:
        config = model.config
        if self.init == "random" and not self.ids:
            return torch.randn(self.tokens, vector_width(config), generator=generator)
        if wrong := [id for id in self.ids if not 0 <= id < config.vocab_size]:
            raise UsageError(
                f"the prompt is to begin with the token {wrong[0]}, and the model has {config.vocab_size:,}",
                "Make the ids with the model's own tokenizer.",
            )
        if self.ids:
            ids = torch.tensor(self.ids).repeat(-(-self.tokens // len(self.ids)))[: self.tokens]
        else:
            ids = torch.randint(config.vocab_size, (self.tokens,), generator=generator)
        return model.vectors(ids.to(model.device)).float().clone()

    def described(self, attached: Attached) -> dict[str, Any]:
        return {**sizes(self.tokens, attached.model.config), "prompt_tuning_init": "RANDOM"}

    def tensors(self, attached: Attached) -> dict[str, Tensor]:
        return vectors_of(attached)

    @classmethod
    def read(cls, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Transformer) -> Prompt:
        """See Adapter."""
        return cls(read_size(raw, tensors, (vector_width(model.config),)), init="random")

    def fill(self, attached: Attached, tensors: Mapping[str, Tensor]) -> None:
        """See Adapter."""
        settle(attached, tensors)


# --------------------------------------------------------------------------------------- of all that stand before tokens


def check_size(tokens: int) -> None:
    if tokens < 1:
        raise UsageError(f"{tokens} learnt tokens stand before the text", "Say 1 or more; 20 are usual.")


def vector_width(config: ModelConfig) -> int:
    """E: of what enters as a token."""
    return config.width if config.embedding_width is None else config.embedding_width


def sizes(tokens: int, config: ModelConfig) -> dict[str, Any]:
    """What PEFT wants to know of the model."""
    return {
        "num_virtual_tokens": tokens,
        "token_dim": vector_width(config),
        "num_transformer_submodules": 1,
        "num_attention_heads": config.heads,
        "num_layers": config.layers,
    }


def vectors_of(attached: Attached) -> dict[str, Tensor]:
    """The vectors that were learnt, whatever makes them."""
    part = attached.parts[FRONT]
    assert isinstance(part, PromptPart)
    trained = part.training
    with torch.no_grad():
        made = part.eval().vectors().detach().clone()
    part.train(trained)
    return {FILE: made}


def settle(attached: Attached, tensors: Mapping[str, Tensor]) -> None:
    part = attached.parts[FRONT]
    assert isinstance(part, PromptPart)
    part.settle(tensors[FILE])


def read_size(raw: Mapping[str, Any], tensors: Mapping[str, Tensor], widths: Sequence[int]) -> int:
    """How many places a file's one tensor [n, width] has. Raises UsageError where it is for another base."""
    if raw.get("num_transformer_submodules", 1) not in (None, 1):
        raise UnsupportedModel(
            "the adapter stands before an encoder and a decoder", "Use it with the tool that made it."
        )
    if set(tensors) != {FILE} or tensors[FILE].dim() != 2:
        raise ModelFileError(f"the adapter has the tensors {sorted(tensors)[:4]}", f"It should have one: {FILE}.")
    tokens, width = tensors[FILE].shape
    if raw.get("num_virtual_tokens", tokens) != tokens:
        raise ModelFileError(
            f"the adapter says {raw['num_virtual_tokens']} tokens and has {tokens}", "Fetch the adapter again."
        )
    if width not in widths:
        raise UsageError(
            f"the adapter's vectors have {width} numbers, this model's {' or '.join(map(str, widths))}",
            "It was made for another base.",
        )
    return int(tokens)
