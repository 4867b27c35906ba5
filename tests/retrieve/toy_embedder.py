"""An Embedder that needs no model: a text is the normalised sum of a fixed random direction for each of its words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np


class ToyEmbedder:
    max_tokens = 256

    def __init__(self, dimensions: int = 32, name: str = "toy") -> None:
        self.name = name
        self.fingerprint = f"{name}-{dimensions}"
        self.dimensions = dimensions
        self.embedded: list[str] = []  # every passage that was asked for

    def embed(self, texts: Sequence[str], *, kind: Literal["passage", "query"] = "passage") -> np.ndarray:
        if kind == "passage":
            self.embedded += texts
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()) or ["(nothing)"]:
                seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest())
                row += np.random.default_rng(seed).standard_normal(self.dimensions)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def count_tokens(self, text: str) -> int:
        return len(re.findall(r"[\u3400-\u9fff]|\w+|[^\w\s]", text))
