"""Let a rotary model read texts longer than it was trained for, without training it again.

    linear    position interpolation, arXiv 2306.15595       ntk       a larger base, 2309.00071, eq. 16
    yarn      between the two, by frequency, 2309.00071      dynamic   a base that grows with the text at hand
    factor    how many times longer

What it costs within the first context and gains beyond it, at once and after some training: docs/results/long-context.md.
A model that is saved says how it was stretched; "dynamic" has no place for that in a file.
"""

from __future__ import annotations

import math
from dataclasses import replace

from hornbook.errors import UnsupportedModel, UsageError
from hornbook.model.config import LayerKind, ModelConfig, RotaryScaling
from hornbook.model.position_tables import larger_base

KINDS = ("linear", "ntk", "dynamic", "yarn")


def stretched(config: ModelConfig, said: str) -> ModelConfig:
    """``config`` with ``said``, such as "yarn:4", done to the rotary positions of all layers that see the whole text.

    Raises UsageError where that is not a kind and a factor above 1; UnsupportedModel for a model without rotary
    positions, and for one that is stretched already.
    """
    kind, _, number = said.partition(":")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if kind not in KINDS or not 1 < factor <= 1024:
        raise UsageError(
            f"{said!r} is not a way to stretch a context", f"Say one of {', '.join(KINDS)} and a factor: yarn:4."
        )
    whole = [kind for kind in config.pattern if kind.window is None and kind.rotary is not None]
    if not whole:
        raise UnsupportedModel("this model has no rotary positions over the whole text", "Leave the stretching out.")
    if any(kind.rotary is not None and kind.rotary.scaling is not None for kind in whole):
        raise UnsupportedModel("the model's rotary positions are scaled already", "Leave the stretching out.")
    if kind in ("ntk", "dynamic") and any(config.rotary_width(layer.rotary) <= 2 for layer in whole):
        raise UnsupportedModel("the model turns a single pair of dimensions: its base changes nothing", "Say yarn:4.")
    context = config.context_length
    scaling = {
        "linear": RotaryScaling("linear", factor),
        "ntk": None,
        "dynamic": RotaryScaling("dynamic", factor, context),
        "yarn": RotaryScaling("yarn", factor, context, slow=1.0, fast=32.0, magnitude=1 + 0.1 * math.log(factor)),
    }[kind]

    def of(kind: LayerKind) -> LayerKind:
        if kind.rotary is None or kind not in whole:
            return kind
        base = kind.rotary.base if scaling else larger_base(kind.rotary.base, factor, config.rotary_width(kind.rotary))
        return replace(kind, rotary=replace(kind.rotary, base=base, scaling=scaling))

    return replace(config, pattern=tuple(map(of, config.pattern)), context_length=int(context * factor))
