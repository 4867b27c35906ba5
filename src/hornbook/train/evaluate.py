"""The loss on data that nothing is learnt from."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hornbook.errors import TrainingError
from hornbook.model.transformer import Transformer
from hornbook.train.batch import Batch
from hornbook.train.losses import Loss
from hornbook.train.precision import Plain, Precision
from hornbook.train.team import ALONE, Team


@dataclass(frozen=True, slots=True)
class Validation:
    """``loss``: the mean over all labels, the sum of ``parts``, as a step's."""

    loss: float
    parts: dict[str, float]
    labels: int
    seconds: float


@torch.no_grad()
def evaluate(
    model: Transformer,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    precision: Precision | None = None,
    team: Team = ALONE,
) -> Validation:
    """The loss over ``batches``, which end, each label weighing the same whatever batch it is in. Nothing is dropped out;
    the model is left in the mode in which it came. Raises TrainingError where there is no label at all."""
    precision = Plain() if precision is None else precision
    began, trained = time.perf_counter(), model.training
    sums: Counter[str] = Counter()  # of each part, its mean times its labels; and, under another key, its labels
    model.eval()
    try:
        for batch in batches:
            counts = loss.count(batch)
            with precision.passes(model.device):
                _, parts = loss(model, batch.to(model.device), over={name: max(1, n) for name, n in counts.items()})
            for name, count in counts.items():
                sums[_PART + name] += parts[name].item() * count  # type: ignore[assignment]
                sums[_LABELS + name] += count
    finally:
        model.train(trained)
    over = team.sum(sums)
    names = [key.removeprefix(_LABELS) for key in over if key.startswith(_LABELS)]
    empty = [name for name in names if not over[_LABELS + name]]
    if empty or not names:
        raise TrainingError(
            f"the held-out data has no label for the loss {empty[0]!r}" if empty else "the held-out data is empty",
            "Hold out more of the data, or give other data to validate with.",
        )
    means = {name: over[_PART + name] / over[_LABELS + name] for name in names}
    labels = sum(int(over[_LABELS + name]) for name in names)
    return Validation(sum(means.values()), means, labels, time.perf_counter() - began)


_PART, _LABELS = "part ", "labels "
