"""Small random models that use every field of a description, and ways to feed them to an executor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hornbook.engine.executor import PAGE, Batch
from hornbook.engine.lower import lower
from hornbook.engine.torch_executor import TorchExecutor
from hornbook.model.config import Experts, LayerKind, ModelConfig, Rotary, RotaryScaling
from hornbook.model.transformer import Transformer

PAGES, VOCAB = 24, 53
SMALL = ModelConfig(
    vocab_size=VOCAB, layers=3, width=16, heads=4, kv_heads=2, head_width=4, feedforward_width=24, context_length=96,
    pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip
NEAR, FAR = LayerKind(window=5, rotary=Rotary()), LayerKind(rotary=Rotary(base=500.0, interleaved=True))
LAYER_NORM = {"norm": "layer", "gated": False, "activation": "gelu_tanh"}
BIASED = {"qkv_bias": True, "attention_output_bias": True, "feedforward_bias": True}
LONG = RotaryScaling("longrope", factors=(1.0, 2.0), long_factors=(3.0, 4.0), original_context=20, magnitude=1.2)
MIXED = {"experts": Experts(5, 2, 8, True, 12, True), "pattern": (LayerKind(rotary=Rotary()), LayerKind(sparse=True))}
DECODERS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "multi-query, tied, capped": {"kv_heads": 1, "tied_head": True, "attention_softcap": 5.0, "logit_softcap": 3.0},
    "windows, both norms, offset, scaled": {
        "pattern": (NEAR, NEAR, FAR), "norm_placement": "both", "norm_offset": 1.0, "embedding_scale": 4.0,
        "query_scale": 0.3, "qk_norm": "head", "activation": "gelu_tanh",
    },
    "norms over all heads": {"qk_norm": "all", "norm_placement": "both"},
    "learned positions, biases": LAYER_NORM | BIASED | {
        "positions": "learned", "position_offset": 2, "pattern": (LayerKind(),), "head_bias": True, "logit_scale": 0.4,
    },
    "sinusoidal, post, transformed head": LAYER_NORM | BIASED | {
        "positions": "sinusoidal", "pattern": (LayerKind(),), "norm_placement": "post", "activation": "relu",
        "head_transform": True, "tied_head": True, "embedding_norm": True, "embedding_width": 8,
    },
    "parallel, one norm": LAYER_NORM | {"parallel": True, "shared_norm": True, "norm_bias": False, "kv_heads": 1},
    "parallel, two norms": LAYER_NORM | BIASED | {"parallel": True, "pattern": (LayerKind(rotary=Rotary(width=2)),)},
    "one norm, one after the other": {"shared_norm": True},
    "ALiBi": LAYER_NORM | {"alibi": 0.5, "pattern": (LayerKind(),), "heads": 6, "kv_heads": 6},
    "ALiBi in a window": {"alibi": 1.0, "pattern": (LayerKind(window=7),)},
    "shared blocks, types": {"layers": 4, "layer_groups": 2, "token_types": 3},
    "mixture": MIXED,
    "mixture, plain": {"experts": Experts(4, 1, 8, False), "pattern": (LayerKind(rotary=Rotary(), sparse=True),)},
    "factors that follow the length": {"pattern": (LayerKind(rotary=Rotary(scaling=LONG)),)},
}  # fmt: skip
BERT = LAYER_NORM | BIASED | {
    "causal": False, "positions": "learned", "embedding_norm": True, "norm_placement": "post", "token_types": 2,
    "pattern": (LayerKind(),), "activation": "gelu", "tied_head": True, "head_transform": True,
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    "post": BERT,
    "projected, one block": BERT | {"embedding_width": 8, "layer_groups": 1, "pooler": True},
    "rotary, window both ways": {"causal": False, "pattern": (NEAR, FAR), "language_head": False},
}  # fmt: skip


def built(fields: dict[str, Any]) -> Transformer:
    torch.manual_seed(3)
    model = Transformer(replace(SMALL, **fields)).eval().requires_grad_(False)
    for name, weight in model.named_parameters():  # nothing is without effect
        torch.nn.init.normal_(weight, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.4)
    return model


def executor(model: Transformer, **how: Any) -> TorchExecutor:
    return TorchExecutor(lower(model.config), dict(model.named_parameters()), PAGES, **how)


def texts(lengths: tuple[int, ...] = (23, 7, 40, 1, 33)) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(VOCAB, (length,), generator=generator).tolist() for length in lengths]


def packed(
    parts: list[tuple[int, list[int]]], table: np.ndarray[Any, Any], *, adapters: list[int] | None = None
) -> Batch:
    """parts: of each sequence how many tokens are there already, and the new ones; every token is selected."""

    def numbers(values: list[int]) -> np.ndarray[Any, Any]:
        return np.array(values, np.int32)

    return Batch(
        numbers([id for _, new in parts for id in new]),
        numbers([past + i for past, new in parts for i in range(len(new))]),
        numbers([s for s, (_, new) in enumerate(parts) for _ in new]),
        table[: len(parts)].astype(np.int32),
        numbers([past + len(new) for past, new in parts]),
        np.arange(sum(len(new) for _, new in parts), dtype=np.int32),
        None if adapters is None else numbers([a for a, (_, new) in zip(adapters, parts, strict=True) for _ in new]),
    )


def in_pieces(
    runs: TorchExecutor, rows: list[list[int]], seed: int, adapters: list[int] | None = None
) -> list[np.ndarray[Any, Any]]:
    """Logits of every token, the texts fed in random pieces or one by one, side by side, pages shuffled."""
    random = np.random.default_rng(seed)
    pages = -(-max(map(len, rows)) // PAGE)
    needed = sum(-(-len(row) // PAGE) for row in rows)
    owned, order = np.zeros((len(rows), pages), np.int32), iter(random.permutation(needed).tolist())
    for s, row in enumerate(rows):
        for page in range(-(-len(row) // PAGE)):
            owned[s, page] = next(order)
    done, found = [0] * len(rows), [[] for _ in rows]
    while going := [s for s in range(len(rows)) if done[s] < len(rows[s])]:
        chosen = [s for s in going if random.random() < 0.7] or going
        most = int(random.choice([1, 13]))  # a step of single tokens, or of pieces
        counts = [int(random.integers(1, min(most, len(rows[s]) - done[s]) + 1)) for s in chosen]
        parts = [(done[s], rows[s][done[s] : done[s] + n]) for s, n in zip(chosen, counts, strict=True)]
        batch = packed(parts, owned[chosen], adapters=None if adapters is None else [adapters[s] for s in chosen])
        logits = runs.run(batch)
        for s, (_, new) in zip(chosen, parts, strict=True):
            found[s].append(logits[: len(new)].copy())
            logits = logits[len(new) :]
            done[s] += len(new)
    return [np.concatenate(pieces) for pieces in found]


def close(found: Any, expected: Any, within: float = 2e-5) -> None:
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    assert error < within, error
