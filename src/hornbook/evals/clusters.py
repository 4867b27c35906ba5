"""Items that hang together, such as questions about one passage: a cluster tells less than as many items that stand alone.

    "p1" "p1" "" "p2" "p1" ""   names, '' stands alone      Clusters      1 cluster of three items, 3 of one

Who reads one passage wrongly answers all questions about it wrongly. So errors are those of clusters drawn, not of items (Miller,
Adding Error Bars to Evals, arXiv 2411.00640, on clustered standard errors), and models that are equally good differ cluster by cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from hornbook.evals.metric import Column

Places: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.intp]]"
_LONGEST = 40  # characters that a name is told with


def named(text: str) -> str:
    """What a cluster is called that hangs on a text: the text where it is short, else a digest of it."""
    return text if len(text) <= _LONGEST else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Clusters:
    """``number`` [N]: which cluster each item is of, 0 to ``count`` - 1 in the order of the data."""

    number: Places
    count: int

    @classmethod
    def of(cls, names: Sequence[str] | None, has: np.ndarray[Any, np.dtype[np.bool_]] | None = None) -> Clusters | None:
        """Of the items' names [N], or of those items that ``has`` [N] leaves; None where every item stands alone."""
        if names is None:
            return None
        first: dict[str | int, int] = {}  # what stands alone goes by its place
        left = range(len(names)) if has is None else np.flatnonzero(has).tolist()
        number = np.array([first.setdefault(names[place] or place, len(first)) for place in left], dtype=np.intp)
        return cls(number, len(first)) if len(first) < len(number) else None

    @cached_property
    def sizes(self) -> Places:
        """How many items each has, [G]."""
        return np.bincount(self.number, minlength=self.count)

    @cached_property
    def firsts(self) -> Places:
        """The place of each one's first item, [G]."""
        return self._order[self._starts]

    def sums(self, column: Column) -> Column:
        """Of a column [N] over the items of each, [G]."""
        return np.asarray(np.bincount(self.number, column, minlength=self.count), dtype=np.float64)

    def members(self, drawn: Places) -> Places:
        """The places of all items of some clusters, one cluster after the other; of one that is drawn twice, twice."""
        sizes = self.sizes[drawn]
        ends = sizes.cumsum()
        at: Places = self._order[np.arange(ends[-1]) + np.repeat(self._starts[drawn] - ends + sizes, sizes)]
        return at

    @cached_property
    def _order(self) -> Places:
        return np.argsort(self.number, kind="stable")

    @cached_property
    def _starts(self) -> Places:
        return self.sizes.cumsum() - self.sizes
