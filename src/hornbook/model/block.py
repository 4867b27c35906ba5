"""One layer: attention, in a decoder of two parts a look at the source, then feed-forward, each beside a residual stream.

    pre    x -+-- norm -- f --(+)--        post   x -+-- f --(+)-- norm --        both   x -+-- norm -- f -- norm --(+)--
              '---------------'                      '--------'                             '-----------------------'

    parallel   x -+-- norm -- attention ----(+)--      with norms of their own, or one for both
                  +-- norm -- feedforward ---|
                  '--------------------------'

pre: GPT-2 and most since; post: the Transformer of 2017 and BERT; both: Gemma 2 and 3; parallel: GPT-J, Falcon, Phi.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from hornbook.model.attention import Attention, Pass
from hornbook.model.config import ModelConfig
from hornbook.model.feedforward import FeedForward, Mixture
from hornbook.model.norms import LayerNorm, make_norm


class Block(nn.Module):
    """[B,T,C] -> [B,T,C]. A norm that the placement does not have is None and holds no weight."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.after_sum, self.parallel = config.norm_placement == "post", config.parallel
        before, after = config.norm_placement != "post", config.norm_placement != "pre"

        def norms() -> tuple[nn.Module | None, nn.Module | None]:
            return make_norm(config) if before else None, make_norm(config) if after else None

        self.attention_norm, self.attention_post_norm = norms()
        self.attention = Attention(config)
        self.cross = self.cross_norm = self.cross_post_norm = None
        if config.encoder is not None:
            self.cross_norm, self.cross_post_norm = norms()
            self.cross = Attention(config, source_width=config.encoder.width)
        self.feedforward_norm, self.feedforward_post_norm = norms()
        if config.shared_norm:
            self.feedforward_norm = None
        experts = config.experts if config.kind(layer).sparse else None
        self.sparse = experts is not None
        self.feedforward = FeedForward(config) if experts is None else Mixture(config, experts)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, layer: int, shared: Pass) -> Tensor:
        """``layer``: the number of the layer, which several may share the weights of this block."""

        def feed(y: Tensor) -> Tensor:
            out: Tensor = self.feedforward(y, shared.routing) if self.sparse else self.feedforward(y)
            return out

        if self.parallel:
            first = x if self.attention_norm is None else self.attention_norm(x)
            second = first if self.feedforward_norm is None else self.feedforward_norm(x)
            added: Tensor = self.dropout(self.attention(first, layer, shared)) + self.dropout(feed(second))
            return x + added
        attention, feedforward = self.attention, self.feedforward
        x = self._add(
            x, lambda y: self.attention(y, layer, shared), self.attention_norm, self.attention_post_norm,
            (lambda norm: attention.beside(x, norm, layer, shared)) if type(attention) is Attention else None,
        )  # fmt: skip
        if self.cross is not None:
            cross, memory = self.cross, shared.memory
            assert memory is not None, "a model with an encoder has been given no memory"
            x = self._add(x, lambda y: cross.look_at(y, layer, memory), self.cross_norm, self.cross_post_norm)
        return self._add(
            x, feed, self.feedforward_norm, self.feedforward_post_norm,
            (lambda norm: feedforward.beside(x, norm)) if type(feedforward) is FeedForward else None,
        )  # fmt: skip

    def _add(
        self, x: Tensor, f: Callable[[Tensor], Tensor], before: nn.Module | None, after: nn.Module | None,
        beside: Callable[[LayerNorm], Tensor | None] | None = None,
    ) -> Tensor:  # fmt: skip
        """``beside``: x + f(norm(x)) as one function, or None where that cannot be had."""
        drops = self.training and self.dropout.p > 0
        if beside is not None and type(before) is LayerNorm and after is None and not self.after_sum and not drops:
            whole = beside(before)
            if whole is not None:
                return whole
        y: Tensor = self.dropout(f(x if before is None else before(x)))
        if self.after_sum:
            y = x + y
        if after is not None:
            y = after(y)
        return y if self.after_sum else x + y
