"""Write a Llama of the shape of a 1B model with random weights: what is measured on it is speed, and nothing else.

    python benchmarks/random_llama.py random-1b-Q4_0.gguf [--vocabulary smollm2:135m]

16 layers, width 2,048, 32 heads of 64 over 8, feed-forward 8,192: 973 million weights in Q4_0 blocks, and a tied embedding
of 49,152 rows in Q6_K, as llama.cpp's own Q4_0 files have it. The blocks are made directly, not by quantising: random
nibbles under scales that give each matrix a spread of 0.02. The tokenizer is that of the model named.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.gguf_writer import OutTensor, write
from hornbook.checkpoint.store import Store
from hornbook.settings import Settings

LAYERS, WIDTH, HEADS, KV_HEADS, INNER = 16, 2048, 32, 8, 8192
SPREAD = 0.02
Made = Callable[[], np.ndarray]


def q4_0(rows: int, columns: int, seed: int) -> Made:
    """Blocks of 32: a half scale, 16 bytes of two nibbles; a weight is scale * (nibble - 8)."""

    def make() -> np.ndarray:
        chance = np.random.default_rng(seed)
        blocks = chance.integers(0, 256, (rows * columns // 32, 18), np.uint8)
        scale = SPREAD / np.sqrt((16**2 - 1) / 12) * chance.uniform(0.8, 1.2, len(blocks))
        blocks[:, :2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
        return blocks

    return make


def q6_k(rows: int, columns: int, seed: int) -> Made:
    """Blocks of 256: 192 bytes of six-bit numbers, 16 scales of a byte, a half scale; a weight is d * scale * (number - 32)."""

    def make() -> np.ndarray:
        chance = np.random.default_rng(seed)
        blocks = chance.integers(0, 256, (rows * columns // 256, 210), np.uint8)
        blocks[:, 192:208] = chance.integers(50, 70, (len(blocks), 16), np.uint8)
        blocks[:, 208:] = np.float16(SPREAD / 60 / np.sqrt((64**2 - 1) / 12)).reshape(1).view(np.uint8)
        return blocks

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--vocabulary", default="smollm2:135m")
    options = parser.parse_args()
    with GGUF.open(Store(Settings.load()).ensure(options.vocabulary).path) as source:
        metadata = {key: source.metadata[key] for key in source.metadata if key.startswith("tokenizer.")}
    vocabulary = len(metadata["tokenizer.ggml.tokens"])
    metadata |= {
        "general.architecture": "llama",
        "general.name": "Random Llama 1B",
        "general.file_type": 2,
        "general.quantization_version": 2,
        "llama.block_count": LAYERS,
        "llama.context_length": 8192,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "llama.rope.freq_base": 500_000.0,
        "llama.vocab_size": vocabulary,
    }
    shared = WIDTH * KV_HEADS // HEADS
    shapes = {
        "attn_q": (WIDTH, WIDTH), "attn_k": (shared, WIDTH), "attn_v": (shared, WIDTH), "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER),
    }  # fmt: skip

    def norm(name: str) -> OutTensor:
        return OutTensor(name, (WIDTH,), "F32", lambda: np.ones(WIDTH, np.float32))

    tensors = [OutTensor("token_embd.weight", (vocabulary, WIDTH), "Q6_K", q6_k(vocabulary, WIDTH, 0))]
    for layer in range(LAYERS):
        tensors += [norm(f"blk.{layer}.attn_norm.weight"), norm(f"blk.{layer}.ffn_norm.weight")]
        for name, shape in shapes.items():
            tensors.append(OutTensor(f"blk.{layer}.{name}.weight", shape, "Q4_0", q4_0(*shape, seed=len(tensors))))
    write(options.path, metadata, [*tensors, norm("output_norm.weight")])
    print(f"{options.path}: {options.path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
