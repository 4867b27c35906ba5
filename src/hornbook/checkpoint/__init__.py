"""Floor 2: models on disk. ``load`` opens a GGUF file or a Hugging Face folder, ``save`` and ``export`` write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hornbook.checkpoint.exporting import export as export
    from hornbook.checkpoint.loading import Checkpoint as Checkpoint
    from hornbook.checkpoint.loading import load as load
    from hornbook.checkpoint.saving import save as save

_WHERE = {"load": "loading", "Checkpoint": "loading", "save": "saving", "export": "exporting"}


def __getattr__(name: str) -> Any:
    """Imported when asked for: the store, which is in this room too, has no need of torch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
