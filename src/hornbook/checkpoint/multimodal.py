"""Models that read images too: the part that reads and writes text stands for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.family import AGAIN
from hornbook.errors import ModelFileError

# model_type: where config.json describes the part of text, and what that part is
TEXT_PARTS = {"gemma3": ("text_config", "gemma3_text")}
OUTSIDE = ("quantization_config", "tie_word_embeddings", "dtype", "torch_dtype")


def text_part(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json of the part that reads and writes text, which is the whole of most models.

    Raises ModelFileError where the file does not describe it.
    """
    key, name = TEXT_PARTS.get(str(raw.get("model_type")), (None, ""))
    if key is None:
        return raw
    inner = raw.get(key)
    if not isinstance(inner, Mapping):
        raise ModelFileError(f"config.json has no {key}", AGAIN)
    kept = {k: value for k, value in raw.items() if k.endswith("_token_id") or k in OUTSIDE}
    return {"model_type": name, **kept, **inner}
