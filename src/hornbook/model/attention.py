"""Attention: the layer that projects, and the arithmetic that it leaves to whoever keeps the keys and values.

    x [B,T,C] -> query [B,H,T,D], key and value [B,K,T,D] -> (norm) -> (rotation) -> store.attend -> output [B,T,C]

H query heads share K key/value heads (arXiv 2305.13245): heads 0..H/K-1 read head 0, and so on.
The layer never sees a mask. A *store* does: ``Uncached`` here for one pass over whole texts, a cache for a
text that grows, ``Memory`` for a source that another model has read. All call ``attend``, which picks torch's fused
kernel, or the plain one where that cannot serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.kernels import products, sublayers, training
from hornbook.model.config import ModelConfig, Rotary
from hornbook.model.norms import RMSNorm
from hornbook.model.positions import Bias, Turn, order, rotate


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """What a layer asks of its attention, whoever computes it."""

    scale: float
    causal: bool = True
    window: int | None = None  # a token sees only those less than this many places away
    softcap: float | None = None
    bias: Bias | None = None
    dropout: float = 0.0


class Store(Protocol):
    """Keeps keys and values, and attends to them."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """q [B,H,T,D], k and v [B,K,T,D] of the new tokens -> [B,H,T,D]."""
        ...


@dataclass(slots=True)
class Pass:
    """What all layers share in one pass over the tokens."""

    store: Store
    turns: dict[Rotary, Turn] = field(default_factory=dict)
    bias: Bias | None = None
    memory: Memory | None = None
    routing: list[Tensor] | None = None  # where sparse layers leave their routers' scores [B,T,E]

    # what adapters that act on some of the tokens go by: see Transformer.forward
    places: Tensor | None = None  # [B,T] long: each token's place in its row, or in its document
    mask: Tensor | None = None  # [B,T]
    segments: Tensor | None = None  # [D+1]
    prompts: Tensor | None = None  # [B] or [D] long
    grows: bool = False  # the rows may have tokens before and after this pass
    openings: Sequence[int] | None = None  # [D]: which segment opens each one, -1 for none
    notes: dict[Any, Any] = field(default_factory=dict)  # what one layer finds out for the next


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, *, source_width: int | None = None) -> None:
        """``source_width``: the width of the states that keys and values are made of, where it is not the stream."""
        super().__init__()
        self.config = config
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, config.head_width
        inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
        source = config.width if source_width is None else source_width
        self.query = nn.Linear(config.width, inner, bias=config.qkv_bias)
        self.key = nn.Linear(source, shared, bias=config.qkv_bias)
        self.value = nn.Linear(source, shared, bias=config.qkv_bias)
        self.output = nn.Linear(inner, config.width, bias=config.attention_output_bias)
        sizes = {"head": (config.head_width, config.head_width), "all": (inner, shared)}.get(config.qk_norm or "")
        self.query_norm = RMSNorm(sizes[0], config.norm_epsilon, config.norm_offset) if sizes else None
        self.key_norm = RMSNorm(sizes[1], config.norm_epsilon, config.norm_offset) if sizes else None

    def forward(self, x: Tensor, layer: int, shared: Pass) -> Tensor:
        """x [B,T,C] -> [B,T,C]: each token looks at those that the layer's kind and the store let it see."""
        kind = self.config.kind(layer)
        q, k, v = self._projected(x)
        q, k, v = self._heads(q, self.query_norm), self._heads(k, self.key_norm), self._heads(v, None)
        if kind.rotary is not None:
            turn = shared.turns[kind.rotary]
            q, k = rotate(q, turn), rotate(k, turn)
        rule = self._rule(kind.window, shared.bias)
        return self._merge(shared.store.attend(layer, q, k, v, rule))

    def beside(self, x: Tensor, norm: nn.LayerNorm, layer: int, shared: Pass) -> Tensor | None:
        """x + self(norm(x)) as one function, where that is possible (kernels/sublayers.py)."""
        config, kind, layers = self.config, self.config.kind(layer), (self.query, self.key, self.value, self.output)
        plain = (
            type(shared.store) is Uncached and shared.store.mask is None and shared.bias is None and config.causal
            and kind.rotary is None and (kind.window is None or kind.window >= x.shape[1])
            and config.attention_softcap is None and self.query_norm is None and products.bare(self)
            and not (self.training and config.attention_dropout)
        )  # fmt: skip
        if not plain or not sublayers.serves(x, norm, *layers, head_width=self.head_width):
            return None
        return sublayers.attended(x, norm, *layers, self.head_width, config.scale)

    def look_at(self, x: Tensor, layer: int, memory: Memory) -> Tensor:
        """x [B,T,C] -> [B,T,C]: each token looks at all of the source (arXiv 1706.03762, section 3.2.3)."""
        q = self._heads(self.query(x), self.query_norm)
        k, v = memory.keys_and_values(
            layer, lambda states: (self._heads(self.key(states), self.key_norm), self._heads(self.value(states), None))
        )
        return self._merge(attend(q, k, v, self._rule(None, None), visible=memory.visible))

    def _projected(self, x: Tensor) -> tuple[Tensor, ...]:
        layers = (self.query, self.key, self.value)
        return products.linear(x, *layers) if products.served(x, *layers) else tuple(layer(x) for layer in layers)

    def _heads(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        """[B,T,N*D] -> [B,N,T,D], normalised over all of it or over each head."""
        if norm is not None and self.config.qk_norm == "all":
            x, norm = norm(x), None
        x = x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)
        return x if norm is None else norm(x)

    def _merge(self, mixed: Tensor) -> Tensor:
        mixed = mixed.transpose(1, 2).flatten(2)
        out: Tensor = (
            products.linear(mixed, self.output)[0] if products.served(mixed, self.output) else self.output(mixed)
        )
        return out

    def _rule(self, window: int | None, bias: Bias | None) -> AttentionRule:
        config = self.config
        dropout = config.attention_dropout if self.training else 0.0
        return AttentionRule(config.scale, config.causal, window, config.attention_softcap, bias, dropout)


class Uncached:
    """One pass over whole texts, padded on any side: nothing is kept.

    ``mask`` [B,T], True for a real token; None: all are.
    """

    def __init__(self, mask: Tensor | None) -> None:
        self.mask = None if mask is None or bool(mask.all()) else mask
        self._visible: dict[tuple[bool, int | None], Tensor] = {}  # layers of a kind share one

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        length = q.shape[2]
        window = rule.window if rule.window is not None and rule.window < length else None
        if self.mask is None and window is None and rule.bias is None:
            return attend(q, k, v, rule, causal=rule.causal)
        key = (rule.causal, window)
        if key not in self._visible:
            self._visible[key] = self._see(length, window, rule, q)
        return attend(q, k, v, rule, visible=self._visible[key])

    def _see(self, length: int, window: int | None, rule: AttentionRule, q: Tensor) -> Tensor:
        mask = torch.ones(1, length, dtype=torch.bool, device=q.device) if self.mask is None else self.mask
        place = order(mask)
        visible = mask[:, None, :] & see(place, place, window, rule.causal)
        # A padding token sees itself: a row without anything to see would be 0/0.
        visible |= torch.eye(length, dtype=torch.bool, device=q.device)
        return visible[:, None] if rule.bias is None else biased(visible, place, place, rule.bias, q.dtype)


class Memory:
    """What an encoder made of a source: ``hidden`` [B,S,C], with ``mask`` [B,S] True for a real token (None: all).

    Keys and values that decoding without gradients makes of it are made once.
    """

    def __init__(self, hidden: Tensor, mask: Tensor | None = None) -> None:
        self.hidden, self.mask = hidden, mask
        self.visible = None if mask is None or bool(mask.all()) else mask[:, None, None, :]
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def keys_and_values(self, layer: int, make: KeysAndValues) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return make(self.hidden)
        if layer not in self._kept:
            self._kept[layer] = make(self.hidden)
        return self._kept[layer]

    def keep(self, rows: list[int]) -> Memory:
        """The memory of these rows, in this order; one may be named more than once."""
        index = torch.tensor(rows, dtype=torch.long, device=self.hidden.device)
        kept = Memory(self.hidden[index], None if self.mask is None else self.mask[index])
        kept._kept = {layer: (k[index], v[index]) for layer, (k, v) in self._kept.items()}
        return kept


class KeysAndValues(Protocol):
    """States [B,S,C] -> keys and values, each [B,K,S,D]."""

    def __call__(self, states: Tensor, /) -> tuple[Tensor, Tensor]: ...


def see(query: Tensor, key: Tensor, window: int | None, causal: bool) -> Tensor:
    """Which keys a query may look at, by their places [B,T] and [B,S] in the text: bool [B,T,S]."""
    back = query[:, :, None] - key[:, None, :]
    visible = back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)
    return visible if window is None else visible & (back.abs() < window)


def biased(visible: Tensor, query: Tensor, key: Tensor, bias: Bias, dtype: torch.dtype) -> Tensor:
    """The bias of each distance where ``visible`` [B,T,S] is true, minus infinity elsewhere: [B,H,T,S]."""
    added = bias(key[:, None, :] - query[:, :, None]).to(dtype)
    return added.masked_fill(~visible[:, None], -torch.inf)


def attend(
    q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule, *, visible: Tensor | None = None, causal: bool = False
) -> Tensor:
    """softmax(scale * q k' + bias) v. q [B,H,T,D]; k, v [B,K,S,D]; -> [B,H,T,D].

    ``visible``: bool, or float to be added to the scores, broadcast to [B,H,T,S]; ``causal`` (with T = S) in its place
    lets the kernel skip what is hidden.
    """
    if rule.softcap is not None:
        return attend_plainly(q, k, v, rule, visible=visible, causal=causal)
    batch, heads, length, width = q.shape
    whole = causal and visible is None and rule.dropout == 0.0 and length == k.shape[2]
    if whole and training.serves(q, k, v) and training.attends(width):
        return training.attend(q, k, v, rule.scale)
    if length == 1 and heads != k.shape[1] and (visible is None or visible.shape[1] == 1):
        # One token a row: the heads that share a key head stand as its queries, and no key is repeated.
        folded = q.reshape(batch, k.shape[1], -1, width)
        mixed = F.scaled_dot_product_attention(folded, k, v, visible, rule.dropout, scale=rule.scale)
        return mixed.reshape(q.shape)
    return F.scaled_dot_product_attention(
        q, k, v, visible, rule.dropout, is_causal=causal, scale=rule.scale, enable_gqa=heads != k.shape[1]
    )


def attend_plainly(
    q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule, *, visible: Tensor | None = None, causal: bool = False
) -> Tensor:
    """The same by its definition (arXiv 1706.03762, eq. 1), in float32: the reference, and the one that can soft-cap."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = rule.scale * (q.float() @ k.float().transpose(-1, -2))
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    if causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if visible is not None and visible.dtype != torch.bool:
        scores = scores + visible.float()
    elif visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    weights = F.dropout(scores.softmax(-1), rule.dropout, training=rule.dropout > 0)
    return (weights @ v.float()).to(q.dtype)
