"""One layer: attention, then feed-forward, each beside a residual stream.

    pre    x -+-- norm -- f --(+)--        post   x -+-- f --(+)-- norm --        both   x -+-- norm -- f -- norm --(+)--
              '---------------'                      '--------'                             '-----------------------'

pre: GPT-2 and most since; post: the Transformer of 2017 and BERT; both: Gemma 2 and 3.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from hornbook.model.attention import Attention, Store
from hornbook.model.config import ModelConfig
from hornbook.model.feedforward import FeedForward
from hornbook.model.norms import make_norm
from hornbook.model.positions import Turn


class Block(nn.Module):
    """[B,T,C] -> [B,T,C]. A norm that the placement does not have is None and holds no weight."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        before, after = config.norm_placement != "post", config.norm_placement != "pre"
        self.after_sum = config.norm_placement == "post"
        self.attention_norm = make_norm(config) if before else None
        self.attention = Attention(config, layer)
        self.attention_post_norm = make_norm(config) if after else None
        self.feedforward_norm = make_norm(config) if before else None
        self.feedforward = FeedForward(config)
        self.feedforward_post_norm = make_norm(config) if after else None

    def forward(self, x: Tensor, turn: Turn | None, store: Store) -> Tensor:
        x = self._add(x, lambda y: self.attention(y, turn, store), self.attention_norm, self.attention_post_norm)
        return self._add(x, self.feedforward, self.feedforward_norm, self.feedforward_post_norm)

    def _add(
        self, x: Tensor, f: Callable[[Tensor], Tensor], before: nn.Module | None, after: nn.Module | None
    ) -> Tensor:
        y = f(x if before is None else before(x))
        if self.after_sum:
            y = x + y
        if after is not None:
            y = after(y)
        return y if self.after_sum else x + y
