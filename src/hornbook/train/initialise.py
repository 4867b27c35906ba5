"""The weights that a model begins to learn from. Which way is a matter of its configuration's fields:

    a stream that is normalised after each part, tokens scaled up     Xavier, tokens of unit variance once scaled (2017)
    a stream that is normalised after each part                       normal (BERT, arXiv 1810.04805)
    a stream that only grows                                          normal, what is added to it / sqrt(2 layers) (GPT-2)

Norms begin as the identity, biases at 0. Where queries and keys are not scaled by 1/sqrt(D) as they are multiplied (T5),
the query's weights are by so much smaller.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hornbook.model.attention import Attention
from hornbook.model.block import Block
from hornbook.model.feedforward import FeedForward, Mixture
from hornbook.model.heads import LanguageHead
from hornbook.model.norms import RMSNorm
from hornbook.model.positions import RelativeBias
from hornbook.model.transformer import Transformer


@torch.no_grad()
def initialise(model: Transformer, *, std: float = 0.02, generator: torch.Generator | None = None) -> Transformer:
    """Draw every weight of ``model`` anew, in place. ``std``: of what is drawn from a normal distribution."""
    _Drawing(model, std, generator).draw(model)
    return model


class _Drawing:
    def __init__(self, model: Transformer, std: float, generator: torch.Generator | None) -> None:
        config = model.config
        self.std, self.generator = std, generator
        after = config.norm_placement == "post"
        self.xavier = after and config.embedding_scale != 1.0
        self.embedding = 1.0 / config.embedding_scale if self.xavier else std
        self.grows = not after

    def draw(self, model: Transformer) -> None:
        for module in model.modules():
            self._module(module)
        for part in (model, model.encoder):
            if part is not None:
                self._shrink(part)

    def _module(self, module: nn.Module) -> None:
        """The weights that a module holds itself."""
        if isinstance(module, nn.Linear):
            self._matrix(module.weight)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(std=self.embedding, generator=self.generator)
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, RMSNorm):
            module.weight.fill_(1.0 - module.offset)
        elif isinstance(module, RelativeBias):
            module.weight.normal_(std=self.std, generator=self.generator)
        elif isinstance(module, Mixture):
            for experts in (module.gate, module.up, module.down):
                for expert in experts:
                    self._matrix(expert)
        elif isinstance(module, LanguageHead) and module.bias is not None:
            module.bias.zero_()
        else:
            own = [name for name, _ in module.named_parameters(recurse=False)]
            assert not own, f"no rule draws {', '.join(own)} of {type(module).__name__}"

    def _matrix(self, weight: Tensor) -> None:
        if self.xavier:
            nn.init.xavier_uniform_(weight, generator=self.generator)
        else:
            weight.normal_(std=self.std, generator=self.generator)

    def _shrink(self, model: Transformer) -> None:
        """What is added to a stream that only grows, and queries that nothing scales."""
        config = model.config
        parts = 3 if config.encoder is not None else 2
        added = (parts * config.layers) ** -0.5 if self.grows else 1.0
        for block in model.blocks:
            assert isinstance(block, Block)
            for attention in (block.attention, block.cross):
                if isinstance(attention, Attention):
                    attention.output.weight.mul_(added)
                    attention.query.weight.mul_(config.head_width**-0.5 / config.scale)
            for module in block.feedforward.modules():
                if isinstance(module, Mixture):
                    module.down.mul_(added)
                elif isinstance(module, FeedForward):
                    module.down.weight.mul_(added)
