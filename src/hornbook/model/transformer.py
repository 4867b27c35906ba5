"""The one Transformer (arXiv 1706.03762). Encoder or decoder, old or new: ModelConfig's fields decide.

    ids [B,T] -> embed -> block 0 .. block n-1 -> norm -> hidden [B,T,C] -> head -> logits [B,T,V]

Batches are ragged from the start: ``mask`` says which tokens are real, padding may stand on either side, and
a row's answer does not depend on how it was padded or who shares its batch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.errors import ContextTooLong
from hornbook.model.attention import Uncached
from hornbook.model.block import Block
from hornbook.model.cache import Cache
from hornbook.model.config import ModelConfig, Rotary
from hornbook.model.heads import Pooler, last, softcap
from hornbook.model.norms import make_norm
from hornbook.model.positions import frequencies, order, turn


class Output(NamedTuple):
    """``hidden`` [B,T,C]; ``logits`` [B,T,V], or [B,V] of each row's last real token, or None if not asked for."""

    hidden: Tensor
    logits: Tensor | None


class Embedding(nn.Module):
    """Tokens, and where the model has them positions and token types, as vectors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = config.embedding_scale
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context_length, config.width) if config.learned_positions else None
        self.types = nn.Embedding(config.token_types, config.width) if config.token_types else None
        self.norm = make_norm(config) if config.embedding_norm else None

    def forward(self, x: Tensor, positions: Tensor, token_types: Tensor | None) -> Tensor:
        """x: token vectors [B,T,C]; positions and token_types [B,T] (None: all of type 0)."""
        if self.types is not None:
            x = x + (self.types.weight[0] if token_types is None else self.types(token_types))
        if self.positions is not None:
            x = x + self.positions(positions)
        return x if self.norm is None else self.norm(x)


class Transformer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = make_norm(config) if config.final_norm else None
        separate = config.language_head and not config.tied_head
        self.head = nn.Linear(config.width, config.vocab_size, bias=False) if separate else None
        self.pooler = Pooler(config.width) if config.pooler else None
        # Not buffers: a model cast to bfloat16 keeps its angles in float32, and one built on meta has them already.
        rotaries = {kind.rotary for kind in config.pattern if kind.rotary is not None}
        self._frequencies = {rotary: frequencies(rotary, config.head_width) for rotary in rotaries}

    @property
    def device(self) -> torch.device:
        return self.embed.tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.tokens.weight.dtype

    def forward(
        self,
        ids: Tensor | None = None,
        *,
        embeds: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        token_types: Tensor | None = None,
        cache: Cache | None = None,
        logits: Literal["all", "last", "none"] = "all",
    ) -> Output:
        """Run the tokens ``ids`` [B,T] (long), or vectors ``embeds`` [B,T,C] in their place, through the model.

        mask         [B,T] bool, True for a real token; None: all are. What stands at padding is undefined.
        positions    [B,T] long; default: each real token's place in its row, counted on from the cache's lengths
        token_types  [B,T] long, for models that have them; default 0
        cache        the tokens are appended to its rows, row b grows by mask[b].sum(), and all of a row is seen
        Raises ContextTooLong where the tokens exceed a table of learned positions or the cache.
        """
        if ids is not None and embeds is None:
            x = self.vectors(ids)
        elif embeds is not None and ids is None:
            x = embeds
        else:
            raise ValueError("give either ids or embeds")
        batch, length, _ = x.shape
        if cache is not None:
            places = cache.begin(batch, length, mask)
        elif mask is not None:
            places = order(mask)
        else:
            places = torch.arange(length, device=x.device).expand(batch, length)
        positions = self._within(places if positions is None else positions, mask)
        store = Uncached(mask) if cache is None else cache

        x = self.embed(x, positions, token_types)
        turns = {rotary: turn(positions, on) for rotary, on in self._frequencies_on(x.device).items()}
        for layer, block in enumerate(self.blocks):
            rotary = self.config.kind(layer).rotary
            x = block(x, None if rotary is None else turns[rotary], store)
        hidden = x if self.norm is None else self.norm(x)
        if cache is not None:
            cache.commit()

        if logits == "none":
            return Output(hidden, None)
        return Output(hidden, self.scores(hidden if logits == "all" else last(hidden, mask)))

    def vectors(self, ids: Tensor) -> Tensor:
        """The tokens' own vectors [..., C], scaled: what ``embeds`` stands for."""
        x: Tensor = self.embed.tokens(ids)
        return x if self.embed.scale == 1.0 else x * self.embed.scale

    def scores(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of states [..., C]. Raises ValueError for a model without a language head."""
        if not self.config.language_head:
            raise ValueError("this model has no language head: ask for logits='none'")
        scores = F.linear(hidden, self.embed.tokens.weight if self.head is None else self.head.weight)
        return scores if self.config.logit_softcap is None else softcap(scores, self.config.logit_softcap)

    def _within(self, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Positions that a table of learned ones has: padding may stand behind its end, a token may not."""
        if not self.config.learned_positions:
            return positions
        longest = 1 + int((positions if mask is None else positions.masked_fill(~mask, 0)).max())
        if longest > self.config.context_length:
            raise ContextTooLong(
                f"the text has {longest} tokens, the model reads at most {self.config.context_length}",
                "Split or shorten the text.",
            )
        return positions.clamp(max=self.config.context_length - 1)

    def _frequencies_on(self, device: torch.device) -> dict[Rotary, Tensor]:
        for rotary, on in self._frequencies.items():
            if on.device != device:
                self._frequencies[rotary] = on.to(device)
        return self._frequencies
