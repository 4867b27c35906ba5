"""Hide tokens, so that a model learns to tell them from all others (arXiv 1810.04805, section 3.1 and appendix A.1).

of a row's ordinary tokens   15 % are chosen, at least one
of these                     80 % become [MASK], 10 % any ordinary token, 10 % stay; all are to be told
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hornbook.train.batch import IGNORED


class Masking:
    """How a vocabulary's tokens are hidden. ``special``: ids that are never chosen and never put in another's place."""

    def __init__(self, vocab_size: int, mask_id: int, special: Iterable[int], *, share: float = 0.15) -> None:
        self.mask_id, self.share = mask_id, share
        self.ordinary = torch.ones(vocab_size, dtype=torch.bool)
        self.ordinary[[mask_id, *special]] = False
        self._others = self.ordinary.nonzero()[:, 0]

    def __call__(self, ids: Tensor, generator: torch.Generator, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """ids [B,T], mask [B,T] True for a real token -> (what the model reads, labels), both [B,T].

        The number chosen is exact: of a row's n ordinary tokens round(share * n), and one where that is none.
        """
        free = self.ordinary[ids] if mask is None else self.ordinary[ids] & mask
        wanted = (free.sum(1, keepdim=True) * self.share).round().clamp(min=1)
        draws = torch.rand(ids.shape, generator=generator).masked_fill(~free, 2.0)
        chosen = (draws.argsort(1).argsort(1) < wanted) & free
        labels = ids.masked_fill(~chosen, IGNORED)
        fate = torch.rand(ids.shape, generator=generator)
        others = self._others[torch.randint(len(self._others), ids.shape, generator=generator)]
        read = torch.where(chosen & (fate < 0.8), self.mask_id, ids)
        return torch.where(chosen & (fate >= 0.8) & (fate < 0.9), others, read), labels
