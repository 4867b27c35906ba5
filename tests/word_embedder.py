"""An Embedder for tests that need no model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from hornbook.retrieve import analyze


class WordEmbedder:
    """An Embedder without a model: texts that share words are near, whatever the words mean."""

    name = fingerprint = "words"
    dimensions = 256
    max_tokens = 256

    def embed(self, texts: Sequence[str], *, kind: Literal["passage", "query"] = "passage") -> np.ndarray[Any, Any]:
        vectors = np.full((len(texts), self.dimensions), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for term in analyze.terms(text):
                vectors[row, zlib.crc32(term.encode()) % self.dimensions] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def count_tokens(self, text: str) -> int:
        return len(text.split())
