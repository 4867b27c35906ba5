"""What a forward pass keeps for the backward pass, and what it needs in passing: sums over the parts of a block.

    N = B T tokens, C width, H heads and K key heads of D, F inner width of the feed-forward, V vocabulary,
    s bytes a number in the model's dtype, 4 in float32 (in which norms and the loss compute, whatever the dtype)

Counted is what torch's autograd saves, or our own kernels of training where they serve (``fused``: kernels/training.py),
for these modules, each tensor once, of rows that are equally long; tests/checkpoint/test_memory_plan.py counts the same with torch's own hooks. Where no fused kernel serves (a softcap,
dropout of scores) attention is computed in the open and keeps its T x T tables, which then dominate.
"""

from __future__ import annotations

from dataclasses import dataclass

from hornbook.model.config import ModelConfig

FLOAT = 4


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over B rows of T tokens. ``frozen``: the weights themselves take no gradient (adapters do)."""

    config: ModelConfig
    rows: int
    tokens: int
    item: int  # bytes a number in the model's dtype
    frozen: bool = False
    rank: int = 0  # of adapters beside every linear map of the blocks; 0: none
    fused: bool = False  # float32 on a processor with native kernels: they keep less

    @property
    def count(self) -> int:
        """N"""
        return self.rows * self.tokens

    # ------------------------------------------------------------------------------------------------------ parts

    def norm(self, width: int) -> int:
        """RMSNorm: its input and, for the weight's gradient, the normalised input in float32, and its result in s:
        N C (8 + s) + 4 N. LayerNorm: input and result, 2 s N C, and 8 N of statistics. Fused: the input and 4 N, and
        the result only for weights that are trained, for adapters make it again."""
        if self.config.norm == "layer":
            return self.count * (width * 2 * self.item + 2 * FLOAT)
        if self.fused:
            return self.count * (width * FLOAT * (1 if self.rank else 2) + FLOAT)
        kept = FLOAT if self.frozen else 2 * FLOAT
        return self.count * (width * (kept + self.item) + FLOAT)

    def attention(self, keys: int | None = None, *, turned: bool = False, masked: bool = False) -> int:
        """q, k, v, what is mixed and its copy for the output's map: s (3 N H D + 2 M K D) + 4 N H, M: the N tokens or
        those of a source. Without a rotation (not ``turned``), or where it is fused, mixed and copy are one. ``masked``: s T T for the mask.

        In the open everything is in float32, keys repeated for every head: 4 N 3 H D + s N H D + 4 N H S for each of
        the tables that are kept, two with a softcap (its tanh, the softmax), three with dropout.
        """
        config = self.config
        seen = self.tokens if keys is None else keys
        source = self.rows * seen
        inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
        if self.in_the_open:
            kept = FLOAT * inner * (self.count + 2 * source) + self.item * self.count * inner
            kept += (3 if config.attention_dropout else 2) * FLOAT * config.heads * self.count * seen
        else:
            kept = self.item * ((3 if turned and not self.fused else 2) * self.count * inner + 2 * source * shared)
            kept += FLOAT * self.count * config.heads + (self.item * self.tokens**2 if masked else 0)
        if config.qk_norm is not None:  # in float32: the input, and for the weight's gradient the normalised input
            kept += (1 if self.frozen or self.fused else 2) * FLOAT * (self.count * inner + source * shared)
        return kept

    def feed_forward(self, inner: int, *, gated: bool) -> int:
        """gated: gate, act(gate), up and their product, s 4 N F; otherwise up and act(up), s 2 N F. Fused: gate, up and
        the product, which adapters make again."""
        if gated and self.fused:
            return self.item * self.count * inner * (2 if self.rank else 3)
        return self.item * self.count * inner * (4 if gated else 2)

    def mixture(self) -> int:
        """Each token through ``top`` experts: its state gathered, the gated form, the result before its weight and
        after, and the numbers of who goes where: top N (s (3 C + 4 I) + 48), and 4 N E of the router. Frozen experts
        keep no inputs: top N (s (C + 3 I) + 48)."""
        config, experts = self.config, self.config.experts
        assert experts is not None, "a sparse layer has experts"
        wide = config.width + 3 * experts.width if self.frozen else 3 * config.width + 4 * experts.width
        kept = experts.top * self.count * (self.item * wide + 48)
        kept += FLOAT * self.count * experts.count
        if experts.shared_width:
            kept += self.feed_forward(experts.shared_width, gated=config.gated)
        return kept

    # ------------------------------------------------------------------------------------------------------ whole

    def block(self, layer: int, *, source: int = 0) -> int:
        """What block ``layer`` keeps for the backward pass; ``source``: tokens of what an encoder read."""
        config, kind = self.config, self.config.kind(layer)
        stream = self.item * self.count * config.width
        kept = (2 - config.shared_norm) * self._normed()
        if config.parallel and not config.shared_norm and (config.norm == "layer" or self.item == FLOAT):
            kept -= stream  # both norms read one tensor
        masked = kind.window is not None and kind.window < self.tokens
        kept += self.attention(turned=kind.rotary is not None, masked=masked)
        if source:
            kept += self._normed() + self.attention(source)
        kept += self.mixture() if kind.sparse else self.feed_forward(config.feedforward_width, gated=config.gated)
        if config.dropout:
            kept += (3 if source else 2) * stream
        return kept + self._adapters(layer)

    def stack(self, *, source: int = 0) -> int:
        """All blocks, the norm at the end, the biases of distances (s H T T once), and the tokens' numbers."""
        config = self.config
        kept = sum(self.block(layer, source=source) for layer in range(config.layers)) + 8 * self.count
        if config.final_norm:
            kept += self.norm(config.width)
        if config.embedding_norm:
            kept += self.norm(config.width)
        if config.alibi is not None or config.relative is not None:
            kept += self.item * config.heads * self.tokens**2
        if config.dropout:
            kept += self.item * self.count * config.width
        return kept

    def _normed(self) -> int:
        """The norms of one part of a block. What a norm after it gives is added to the stream, and kept by nobody."""
        config = self.config
        if config.norm_placement != "both":
            return self.norm(config.width)
        return 2 * self.norm(config.width) - self.item * self.count * config.width

    def _adapters(self, layer: int) -> int:
        """What low-rank adapters keep beside what is kept anyway: s N r for each of a block's linear maps."""
        config = self.config
        sparse = config.kind(layer).sparse
        shared = config.experts is not None and sparse and config.experts.shared_width > 0
        maps = 4 + (0 if sparse and not shared else 3 if config.gated else 2)
        return self.item * self.count * self.rank * maps

    @property
    def in_the_open(self) -> bool:
        """Whether attention is computed without a fused kernel."""
        return self.config.attention_dropout > 0 or self.config.attention_softcap is not None

    def scores(self) -> int:
        """The logarithms of the softmax in float32, 4 N V, and s N V for the tanh where logits are capped."""
        capped = self.item if self.config.logit_softcap is not None else 0
        return (FLOAT + capped) * self.count * self.config.vocab_size

    def passing(self) -> int:
        """The most that one block has in hand at a time: the stream, a norm in float32, and the wider of attention's
        vectors (queries, keys and values before and after the rotation) and the feed-forward's (two or three inner
        ones). Twice as much is in hand when it is gone through backwards."""
        config = self.config
        inner, shared = config.heads * config.head_width, config.kv_heads * config.head_width
        attention = self.item * (2 * inner + 2 * shared) + FLOAT * 2 * inner
        forward = self.item * config.feedforward_width * (3 if config.gated else 2)
        if config.experts is not None and any(kind.sparse for kind in config.pattern):
            forward = max(forward, self.item * config.experts.top * (3 * config.experts.width + config.width))
        if self.in_the_open:
            attention += 2 * FLOAT * config.heads * self.tokens
        return self.count * (config.width * (2 * self.item + 2 * FLOAT) + max(attention, forward))
