"""The weights of a model as it answers, with the adapter that is attached to it in them: what is written to a file.

Nothing is merged for that: each matrix is folded when its turn comes, and the model stays attached.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hornbook.adapt import inject
from hornbook.errors import UsageError
from hornbook.model.parameters import parameters
from hornbook.model.transformer import Transformer


def shapes(model: Transformer) -> Mapping[str, tuple[int, ...]]:
    """The parameters that are going to be written, by the names of a plain model.

    Raises UsageError where what is attached cannot be written into them, or the weights are not whole.
    """
    active = [attached for attached in model.attached.values() if attached.active and not attached.merged]
    if len(active) > 1:
        names = ", ".join(attached.name for attached in active)
        raise UsageError(f"{len(active)} adapters are active: {names}", "Switch off or detach all but one.")
    for attached in active:
        attached.check_mergeable()
    found = {name: tuple(parameter.shape) for name, parameter in inject.parameters(model)}
    if found.keys() != (wanted := parameters(model.config)).keys():
        missing = sorted(wanted.keys() - found.keys())
        raise UsageError(
            f"{len(missing)} of the model's weights are in four bits ({', '.join(missing[:2])}, ...)",
            "Load the model as floats, and the adapter onto it.",
        )
    return found


@torch.no_grad()
def value(model: Transformer, name: str) -> Tensor:
    """One of the parameters of ``shapes``."""
    path, _, attribute = name.rpartition(".")
    own = inject.module(model, path)
    for attached in model.attached.values():
        part = attached.parts.get(path)
        if part is not None and part.active:
            folded: dict[str, Tensor] = part.folded(own)
            if attribute in folded:
                return folded[attribute]
    found: Tensor = getattr(own, attribute)
    return found.detach()
