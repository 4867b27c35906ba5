"""Floor 2: a model is changed without being rewritten. Adapters are attached to it, switched, merged, saved and loaded.

attached = attach(model, LoRA(rank=16))        with attached.disabled(): ...        attached.save(folder)
attached = load(model, folder)                 what Hornbook or PEFT wrote
"""

from __future__ import annotations

from pathlib import Path

import torch

from hornbook.adapt import bases, format
from hornbook.adapt.attached import Adapter, Attached
from hornbook.adapt.bottleneck import Bottleneck
from hornbook.adapt.ia3 import IA3
from hornbook.adapt.lora import DoRA, LoRA
from hornbook.adapt.prefix import Prefix
from hornbook.adapt.prompt import Prompt
from hornbook.adapt.ptuning import PTuning
from hornbook.adapt.reft import LoReFT
from hornbook.checkpoint import fingerprint
from hornbook.checkpoint.lora import adapter_folder, stretch_for
from hornbook.errors import UnsupportedModel, UsageError
from hornbook.model.transformer import Transformer

__all__ = [
    "IA3",
    "KINDS",
    "Adapter",
    "Attached",
    "Bottleneck",
    "DoRA",
    "LoRA",
    "LoReFT",
    "PTuning",
    "Prefix",
    "Prompt",
    "attach",
    "load",
]

# By the names that recipes use.
KINDS: dict[str, type[Adapter]] = {
    "lora": LoRA,
    "dora": DoRA,
    "prompt": Prompt,
    "ptuning": PTuning,
    "prefix": Prefix,
    "bottleneck": Bottleneck,
    "ia3": IA3,
    "loreft": LoReFT,
}


def attach(
    model: Transformer, adapter: Adapter, *, name: str = "default", generator: torch.Generator | None = None
) -> Attached:
    """Put an adapter on a model, whose own weights are frozen by it.

    generator: what the adapter's first weights are drawn from, on the CPU.
    Raises UsageError for targets that the model does not have, or a name that is taken.
    """
    return adapter.attach(model, name=name, generator=generator)


def load(model: Transformer, folder: str | Path, name: str = "default") -> Attached:
    """Put a saved adapter on the model that it was made for. ``folder``: an adapter's, or a run's that trained one.

    Raises ModelNotFound, ModelFileError, UnsupportedModel (another kind, or options that compute something else),
    UsageError where it was made for another base.
    """
    folder = adapter_folder(folder)
    raw, tensors = format.read(folder)
    others = list(model.attached.values())
    here = others[0].base if others else bases.fingerprint(model)
    fingerprint.check(raw, here, "this model")
    if model.origin is not None and (stretch := stretch_for(folder, model.origin.stretch)) != model.origin.stretch:
        raise UsageError(
            f"the adapter was trained on a model stretched by {stretch}, and this one is not",
            f"Load it with {stretch}.",
        )
    said = raw.get("peft_type")
    kinds = {kind.peft_type: kind for kind in reversed(KINDS.values())}
    if said not in kinds:
        raise UnsupportedModel(f"the adapter is of the kind {said}", f"Known are: {', '.join(kinds)}.")
    own, replaced = format.split_replaced(raw, tensors, model)
    adapter = kinds[said].read(raw, own, model)
    attached = adapter.attach(model, name=name)
    try:
        attached.replace(replaced)
        adapter.fill(attached, own)
    except BaseException:
        attached.detach()
        raise
    return attached
