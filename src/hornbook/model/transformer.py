"""The one Transformer (arXiv 1706.03762). Encoder, decoder or both, old or new: ModelConfig's fields decide.

    ids [B,T] -> embed -> block 0 .. block n-1 -> norm -> hidden [B,T,C] -> head -> logits [B,T,V]
                               |
    source ids [B,S] -> encoder -> Memory      where the configuration has an encoder

Batches are ragged from the start: ``mask`` says which tokens are real, padding may stand on either side, and
a row's answer does not depend on how it was padded or who shares its batch (but for rotary scalings that follow the
length: they take the longest text's).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hornbook.errors import ContextTooLong
from hornbook.model.attention import Memory, Pass, Store, Uncached
from hornbook.model.block import Block
from hornbook.model.cache import Cache
from hornbook.model.config import ModelConfig, Rotary
from hornbook.model.heads import ClassifierHead, LanguageHead, Pooler, last
from hornbook.model.norms import make_norm
from hornbook.model.packed import Packed
from hornbook.model.position_tables import follows_length
from hornbook.model.positions import (
    Alibi,
    Bias,
    RelativeBias,
    Turn,
    frequencies,
    order,
    sinusoids,
    turn,
)
from hornbook.model.shifted import Shifted

if hasattr(os, "register_at_fork"):
    # GNU OpenMP waits for ever, in the child of a fork, for threads that only its parent has; for one thread it asks nobody.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class Output(NamedTuple):
    """``hidden`` [B,T,C]; ``logits`` [B,T,V], or [B,V] of each row's last real token, or None if not asked for."""

    hidden: Tensor
    logits: Tensor | None


class Embedding(nn.Module):
    """Tokens, and where the model has them positions and token types, as vectors."""

    def __init__(self, config: ModelConfig, *, tokens: bool = True) -> None:
        super().__init__()
        self.config = config
        width = config.width if config.embedding_width is None else config.embedding_width
        rows = config.context_length + config.position_offset
        self.tokens = nn.Embedding(config.vocab_size, width) if tokens else None
        self.positions = nn.Embedding(rows, width) if config.positions == "learned" else None
        self.types = nn.Embedding(config.token_types, width) if config.token_types else None
        self.norm = make_norm(config, width) if config.embedding_norm else None
        self.projection = nn.Linear(width, config.width) if config.embedding_width is not None else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, positions: Tensor, token_types: Tensor | None) -> Tensor:
        """x: token vectors [B,T,E]; positions and token_types [B,T] (None: all of type 0); -> [B,T,C]."""
        if self.types is not None:
            x = x + (self.types.weight[0] if token_types is None else self.types(token_types))
        if self.positions is not None:
            x = x + self.positions(positions + self.config.position_offset)
        elif self.config.positions == "sinusoidal":
            x = x + sinusoids(positions, x.shape[-1]).to(x.dtype)
        x = self.dropout(x if self.norm is None else self.norm(x))
        return x if self.projection is None else self.projection(x)


class Transformer(nn.Module):
    def __init__(self, config: ModelConfig, *, tokens: bool = True) -> None:
        """``tokens``: whether it has a table of tokens of its own; an encoder may read with its decoder's."""
        super().__init__()
        self.config = config
        self.origin: Any = None  # checkpoint.loading.Origin, of a model that was read from a file
        self.attached: dict[str, Any] = {}  # adapt.attached.Attached by name, in the order in which they came
        self.encoder = None
        if config.encoder is not None:
            self.encoder = Transformer(config.encoder, tokens=not config.shared_tokens)
        self.embed = Embedding(config, tokens=tokens)
        firsts = [i for i in range(config.layers) if i == 0 or config.block(i) != config.block(i - 1)]
        self.blocks = nn.ModuleList(Block(config, layer) for layer in firsts)
        self.norm = make_norm(config) if config.final_norm else None
        self.relative = None
        if config.relative is not None:
            self.relative = RelativeBias(config.relative, config.heads, causal=config.causal)
        self.head = LanguageHead(config) if config.language_head else None
        self.pooler = Pooler(config.width) if config.pooler else None
        self.next_sentence = nn.Linear(config.width, 2) if config.next_sentence else None
        self.classifier = ClassifierHead(config, config.classifier) if config.classifier is not None else None
        self.shifted: int | None = (
            None  # the group of shifted sparse attention, in training alone; None: full attention
        )
        # Not buffers: a model cast to bfloat16 keeps its angles in float32, and one built on meta has them already.
        self._alibi = None if config.alibi is None else Alibi(config.heads, config.alibi)
        rotaries = {kind.rotary for kind in config.pattern if kind.rotary is not None}
        self._frequencies = {rotary: frequencies(rotary, config.rotary_width(rotary)) for rotary in rotaries}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def encode(self, ids: Tensor, mask: Tensor | None = None) -> Memory:
        """Read a source: ids [B,S], mask [B,S] bool (None: all real) -> what ``forward`` takes as ``memory``.

        Raises ValueError for a model without an encoder, ContextTooLong as ``forward`` does.
        """
        if self.encoder is None:
            raise ValueError("this model has no encoder: it reads its source as the first tokens of ids")
        if self.encoder.embed.tokens is not None:
            hidden = self.encoder(ids, mask=mask, logits="none").hidden
        else:
            hidden = self.encoder(embeds=self.vectors(ids), mask=mask, logits="none").hidden
        return Memory(hidden, mask)

    def forward(
        self,
        ids: Tensor | None = None,
        *,
        embeds: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        token_types: Tensor | None = None,
        memory: Memory | None = None,
        cache: Cache | None = None,
        segments: Tensor | None = None,
        openings: Sequence[int] | None = None,
        prompts: Tensor | None = None,
        logits: Literal["all", "last", "none"] = "all",
        routing: list[Tensor] | None = None,
    ) -> Output:
        """Run the tokens ``ids`` [B,T] (long), or vectors ``embeds`` [B,T,E] in their place, through the model.

        mask         [B,T] bool, True for a real token; None: all are. What stands at padding is undefined.
        positions    [B,T] long; default: each real token's place in its row, counted on from the cache's lengths
        token_types  [B,T] long, for models that have them; default 0
        memory       what ``encode`` made of the source, for models with an encoder
        cache        the tokens are appended to its rows, row b grows by mask[b].sum(), and all of a row is seen
        segments     [D+1]: the one row [1,T] holds D documents, of which these are the starts, and T; none sees another
        openings     [D]: which of these segments opens each one and is seen by it, -1 for none (see model/packed.py)
        prompts      [B] long, or [D]: how many of each row's tokens, or document's, are its prompt, for adapters that act on
                     its ends; default what the cache says, without one all tokens
        routing      a list that takes each mixture's router scores [B,T,experts], for the load-balancing loss
        Raises ContextTooLong where the tokens exceed a table of learned positions or the cache; ValueError on inputs
        that do not fit the model.
        """
        if ids is not None and embeds is None:
            x = self.vectors(ids)
        elif embeds is not None and ids is None:
            x = embeds
        else:
            raise ValueError("give either ids or embeds")
        if (memory is None) != (self.encoder is None):
            raise ValueError("a model with an encoder, and no other, takes the memory that encode() makes of a source")
        batch, length, _ = x.shape
        store: Store
        if segments is not None:
            if batch != 1 or mask is not None or cache is not None or memory is not None:
                raise ValueError("segments are those of one row without padding, cache or memory")
            if openings is not None and not self.config.causal:
                raise ValueError("an opening is not the same before every document where it sees what comes behind it")
            packed = Packed(segments, length, x.device, openings=openings, alone=partial(self._store, None))
            store, places = packed, packed.positions
        elif cache is not None:
            store, places = cache, cache.begin(batch, length, mask)
        elif mask is not None:
            store, places = self._store(mask), order(mask)
        else:
            store, places = self._store(None), torch.arange(length, device=x.device).expand(batch, length)
        positions = self._within(places if positions is None else positions, mask)
        bias: Bias | None = self._alibi if self.relative is None else self.relative
        turns = self._turns(positions, None if cache is None else cache.capacity)
        if prompts is None and cache is not None:
            prompts = cache.prompts
        shared = Pass(store, turns, bias, memory, routing, places, mask, segments, prompts, cache is not None, openings)

        x = self.embed(x, positions, token_types)
        for layer in range(self.config.layers):
            x = self.blocks[self.config.block(layer)](x, layer, shared)
        hidden = x if self.norm is None else self.norm(x)
        if cache is not None:
            cache.commit()

        if logits == "none":
            return Output(hidden, None)
        return Output(hidden, self.scores(hidden if logits == "all" else last(hidden, mask)))

    def vectors(self, ids: Tensor) -> Tensor:
        """The tokens' own vectors [..., E], scaled: what ``embeds`` stands for."""
        if self.embed.tokens is None:
            raise ValueError("this encoder has no table of tokens: give the embeds that its decoder makes")
        x: Tensor = self.embed.tokens(ids)
        return x if self.config.embedding_scale == 1.0 else x * self.config.embedding_scale

    def scores(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of states [..., C]. Raises ValueError for a model without a language head."""
        if self.head is None or self.embed.tokens is None:
            raise ValueError("this model has no language head: ask for logits='none'")
        scores: Tensor = self.head(hidden, self.embed.tokens.weight)
        return scores

    def classify(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of the labels, [B,n] for a text and [B,T,n] for tokens or spans, of states [B,T,C]."""
        if self.classifier is None:
            raise ValueError("this model has no classification head")
        scores: Tensor = self.classifier(hidden, mask, self.pooler)
        return scores

    def follows(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [B,2] of "the second sentence follows the first" and "it does not" (arXiv 1810.04805, task 2)."""
        if self.next_sentence is None or self.pooler is None:
            raise ValueError("this model has no head for the next sentence")
        scores: Tensor = self.next_sentence(self.pooler(hidden, mask))
        return scores

    def _within(self, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Positions that a table of learned ones has: padding may stand behind its end, a token may not."""
        if self.config.positions != "learned":
            return positions
        longest = 1 + int((positions if mask is None else positions.masked_fill(~mask, 0)).max())
        if longest > self.config.context_length:
            raise ContextTooLong(
                f"the text has {longest} tokens, the model reads at most {self.config.context_length}",
                "Split or shorten the text.",
            )
        return positions.clamp(max=self.config.context_length - 1)

    def _store(self, mask: Tensor | None) -> Store:
        """Who attends in a pass over whole texts."""
        return Shifted(self.shifted, mask) if self.training and self.shifted is not None else Uncached(mask)

    def _turns(self, positions: Tensor, capacity: int | None) -> dict[Rotary, Turn]:
        """The rotation of every position for each rotary of the pattern.

        Frequencies that follow the length take that of the text or, so that all keys in a cache are turned alike, what
        the cache can hold.
        """
        turns = {}
        for rotary, on in self._frequencies.items():
            if follows_length(rotary):
                length = int(positions.max()) + 1 if capacity is None else capacity
                on = frequencies(rotary, self.config.rotary_width(rotary), length).to(positions.device)
            elif on.device != positions.device:
                on = self._frequencies[rotary] = on.to(positions.device)
            turns[rotary] = turn(positions, on, rotary)
        return turns
