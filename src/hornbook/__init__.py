"""Hornbook: the whole life of a language model in one hand.

    answer = hornbook.ask("papers/", "What limits the batch size?")
    llm = hornbook.load("smollm2:135m")
    index = hornbook.Index.open("my-index")

Names are imported when they are first used, so that ``import hornbook`` costs milliseconds and no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# module -> the public names it holds. These are stable; everything else may move.
_PUBLIC = {
    "hornbook.errors": ["HornbookError"],
    "hornbook.llm": ["RemoteLLM", "ScriptedLLM", "load"],
    "hornbook.rag.ask": ["ask"],
    "hornbook.retrieve.index": ["Index"],
    "hornbook.settings": ["Settings"],
    "hornbook.types": [
        *["Answer", "Chunk", "Citation", "Completion", "Document", "Embedder", "Hit", "IngestReport", "LLM", "Message"],
        *["Piece", "SamplingParams", "Score", "Sentence", "Token", "ToolCall", "Usage"],
    ],
}
_WHERE = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *sorted(_WHERE)]  # noqa: PLE0604

if TYPE_CHECKING:
    from hornbook.errors import *  # noqa: F403
    from hornbook.llm import RemoteLLM, ScriptedLLM, load  # noqa: F401
    from hornbook.rag.ask import ask  # noqa: F401
    from hornbook.retrieve.index import Index  # noqa: F401
    from hornbook.settings import Settings  # noqa: F401
    from hornbook.types import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'hornbook' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
