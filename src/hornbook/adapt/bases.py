"""Which model an adapter was made for, of a model in memory: see checkpoint/fingerprint.py."""

from __future__ import annotations

from collections.abc import Sequence

from hornbook.adapt import inject
from hornbook.adapt.nf4 import NF4Linear
from hornbook.checkpoint import fingerprint as prints
from hornbook.checkpoint.fingerprint import Fingerprint, Floats
from hornbook.model.transformer import Transformer


def fingerprint(model: Transformer) -> Fingerprint:
    """Of a model's own weights; call it before they are trained."""

    def rows(name: str, which: Sequence[int]) -> Floats:
        path, _, attribute = name.rpartition(".")
        place = inject.module(model, path)
        values = place.dense() if isinstance(place, NF4Linear) and attribute == "weight" else getattr(place, attribute)
        found: Floats = values.detach()[list(which)].float().cpu().numpy()
        return found

    return prints.of(model.config, rows)
