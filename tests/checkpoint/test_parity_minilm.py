"""MiniLM's sentence vectors against sentence-transformers, on batches of unequal lengths and several languages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hornbook.checkpoint.loading import load
from hornbook.model.heads import pool

pytestmark = pytest.mark.models

TEXTS = [
    "Hi",
    "Where does the river meet the sea?",
    "春天来了，河边的柳树都绿了。",
    "Die Straße führt über den Fluß — naïve café, №42.",
    "A passage of some length. " * 20,
    "A passage that fills the model's whole context, and is cut there. " * 90,
]


@pytest.mark.parametrize("side", ["right", "left"])
def test_sentence_vectors_equal_those_of_sentence_transformers(minilm_path: Path, side: str) -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(minilm_path), device="cpu")
    checkpoint = load(minilm_path, device="cpu")
    rows = [checkpoint.tokenizer.encode(text) for text in TEXTS]
    rows = [row if len(row) <= 256 else [*row[:255], row[-1]] for row in rows]  # sentence_bert_config.json
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = torch.tensor(row), True
    assert checkpoint.config.pooling == "mean"
    with torch.inference_mode():
        hidden = checkpoint.model(ids, mask=mask, logits="none").hidden
        found = F.normalize(pool(hidden, mask, checkpoint.config.pooling), dim=-1)
    expected = torch.from_numpy(reference.encode(TEXTS, normalize_embeddings=True))
    error = (found - expected).abs().max().item()
    print(f"\nsentence vectors within {error:.1e} of sentence-transformers")
    assert error < 1e-5
