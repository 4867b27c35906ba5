"""A number that a task is known by, computed from the grades of its items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Column: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"  # [N], or [R, N] for R resamples
Columns: TypeAlias = "Mapping[str, Column]"


@dataclass(frozen=True, slots=True)
class Metric:
    """``total`` makes the value from the columns that the grades fill; None: the mean of the column with the metric's name.

    ``total`` works along the last axis, so that many resamples are computed at once: [N] -> one value, [R, N] -> [R].
    ``percent``: shown times a hundred.
    """

    name: str
    higher_is_better: bool = True
    percent: bool = True
    total: Callable[[Columns], Column] | None = None

    def value(self, columns: Columns) -> Column:
        """Of the columns [N], an array without dimensions; of resamples [R, N], one value each [R]."""
        if self.total is not None:
            return np.asarray(self.total(columns))
        return np.asarray(columns[self.name].mean(-1))


def ratio(above: str, below: str) -> Callable[[Columns], Column]:
    """The sum of one column over the sum of another: tokens weigh alike, wherever they stand."""
    return lambda columns: np.asarray(columns[above].sum(-1) / columns[below].sum(-1))
