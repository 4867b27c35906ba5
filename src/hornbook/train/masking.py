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

    def __call__(
        self, ids: Tensor, generator: torch.Generator, *, mask: Tensor | None = None, words: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """ids [B,T], mask [B,T] True for a real token -> (what the model reads, labels), both [B,T].

        The number chosen is exact: of a row's n ordinary tokens round(share * n), and one where that is none.
        ``words`` [B,T], True where a word begins: words are chosen whole, as long as they fit into that number; of a
        row whose words are all longer, the first drawn.
        """
        free = self.ordinary[ids] if mask is None else self.ordinary[ids] & mask
        wanted = (free.sum(1, keepdim=True) * self.share).round().clamp(min=1)
        draws = torch.rand(ids.shape, generator=generator).masked_fill(~free, 2.0)
        if words is None:
            chosen = (draws.argsort(1).argsort(1) < wanted) & free
        else:
            chosen = torch.stack([_whole(*row) for row in zip(free, words, draws, wanted, strict=True)])
        labels = ids.masked_fill(~chosen, IGNORED)
        fate = torch.rand(ids.shape, generator=generator)
        others = self._others[torch.randint(len(self._others), ids.shape, generator=generator)]
        read = torch.where(chosen & (fate < 0.8), self.mask_id, ids)
        return torch.where(chosen & (fate >= 0.8) & (fate < 0.9), others, read), labels


def _whole(free: Tensor, words: Tensor, draws: Tensor, wanted: Tensor) -> Tensor:
    """Which tokens of a row [T] are chosen, where words are taken whole in the order of their first tokens' draws."""
    number = (words | ~free | ~free.roll(1)).long().cumsum(0)  # of each token's word; what is special stands alone
    sizes = torch.zeros(int(number[-1]) + 1, dtype=torch.long).index_add_(0, number, free.long())
    first = torch.full(sizes.shape, 2.0).scatter_reduce_(0, number, draws, "amin")
    taken, left = torch.zeros(len(sizes), dtype=torch.bool), int(wanted)
    lengths = sizes.tolist()
    for word in first.argsort().tolist():
        if not lengths[word]:
            break  # what has no ordinary token is drawn last
        if lengths[word] <= left or left == int(wanted):
            taken[word] = True
            left -= lengths[word]
        if left <= 0:
            break
    return taken[number] & free
