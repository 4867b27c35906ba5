"""Attention: the layer that projects, and the arithmetic that it leaves to whoever keeps the keys and values.

    x [B,T,C] -> query [B,H,T,D], key and value [B,K,T,D] -> (norm) -> (rotation) -> store.attend -> output [B,T,C]

H query heads share K key/value heads (arXiv 2305.13245): heads 0..H/K-1 read head 0, and so on.
The layer never sees a mask. A *store* does: ``Uncached`` here for one pass over whole texts, a cache for a
text that grows. Both call ``attend``, which picks torch's fused kernel, or the plain one where that cannot serve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.model.config import ModelConfig
from hornbook.model.norms import RMSNorm
from hornbook.model.positions import Turn, order, rotate


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """What a layer asks of its attention, whoever computes it."""

    scale: float
    causal: bool = True
    window: int | None = None  # a token sees only those less than this many places away
    softcap: float | None = None


class Store(Protocol):
    """Keeps keys and values, and attends to them."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """q [B,H,T,D], k and v [B,K,T,D] of the new tokens -> [B,H,T,D]."""
        ...


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, config.head_width
        self.rule = AttentionRule(config.scale, config.causal, config.kind(layer).window, config.attention_softcap)
        inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
        self.query = nn.Linear(config.width, inner, bias=config.qkv_bias)
        self.key = nn.Linear(config.width, shared, bias=config.qkv_bias)
        self.value = nn.Linear(config.width, shared, bias=config.qkv_bias)
        self.output = nn.Linear(inner, config.width, bias=config.attention_output_bias)
        norm = (config.head_width, config.norm_epsilon, config.norm_offset)
        self.query_norm = RMSNorm(*norm) if config.qk_norm else None
        self.key_norm = RMSNorm(*norm) if config.qk_norm else None

    def forward(self, x: Tensor, turn: Turn | None, store: Store) -> Tensor:
        """x [B,T,C]; ``turn``: the rotation of each token, None where positions enter elsewhere."""
        batch, length, _ = x.shape
        q = self.query(x).view(batch, length, self.heads, self.head_width).transpose(1, 2)
        k = self.key(x).view(batch, length, self.kv_heads, self.head_width).transpose(1, 2)
        v = self.value(x).view(batch, length, self.kv_heads, self.head_width).transpose(1, 2)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        mixed = store.attend(self.layer, q, k, v, self.rule)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, self.heads * self.head_width))
        return out


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
        if self.mask is None and window is None:
            return attend(q, k, v, rule, causal=rule.causal)
        key = (rule.causal, window)
        if key not in self._visible:
            self._visible[key] = self._see(length, window, rule.causal, q.device)
        return attend(q, k, v, rule, visible=self._visible[key])

    def _see(self, length: int, window: int | None, causal: bool, device: torch.device) -> Tensor:
        mask = torch.ones(1, length, dtype=torch.bool, device=device) if self.mask is None else self.mask
        place = order(mask)
        visible = mask[:, None, :] & see(place, place, window, causal)
        # A padding token sees itself: a row without anything to see would be 0/0.
        visible |= torch.eye(length, dtype=torch.bool, device=device)
        return visible[:, None]


def see(query: Tensor, key: Tensor, window: int | None, causal: bool) -> Tensor:
    """Which keys a query may look at, by their places [B,T] and [B,S] in the text: bool [B,T,S]."""
    back = query[:, :, None] - key[:, None, :]
    visible = back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)
    return visible if window is None else visible & (back.abs() < window)


def attend(
    q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule, *, visible: Tensor | None = None, causal: bool = False
) -> Tensor:
    """softmax(scale * q k') v. q [B,H,T,D]; k, v [B,K,S,D]; -> [B,H,T,D].

    ``visible``: bool, broadcast to [B,H,T,S]; ``causal`` (with T = S) in its place lets the kernel skip what is hidden.
    """
    if rule.softcap is not None:
        return attend_plainly(q, k, v, rule, visible=visible, causal=causal)
    batch, heads, length, width = q.shape
    if length == 1 and heads != k.shape[1]:
        # One token a row: the heads that share a key head stand as its queries, and no key is repeated.
        folded = q.reshape(batch, k.shape[1], -1, width)
        mixed = F.scaled_dot_product_attention(folded, k, v, attn_mask=visible, scale=rule.scale)
        return mixed.reshape(q.shape)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=visible, is_causal=causal, scale=rule.scale, enable_gqa=heads != k.shape[1]
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
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) @ v.float()).to(q.dtype)
