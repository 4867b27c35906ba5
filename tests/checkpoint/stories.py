"""stories260K, a trained Llama of 260,000 parameters, from the files that llama2.c made of it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch

from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer
from hornbook.text.tokenizer import Tokenizer

# llama2.c's rotary pairs are neighbours
ROTARY = Rotary(10_000.0, interleaved=True)


def model_of(folder: Path) -> Transformer:
    """Its weights stand one behind the other, the layers of a matrix together."""
    raw = (folder / "stories260K.bin").read_bytes()
    width, inner, layers, heads, kv_heads, vocab, context = struct.unpack("<7i", raw[:28])
    config = ModelConfig(
        vocab_size=vocab, layers=layers, width=width, heads=heads, kv_heads=kv_heads, head_width=width // heads,
        feedforward_width=inner, context_length=context, tied_head=True, pattern=(LayerKind(rotary=ROTARY),),
    )  # fmt: skip
    numbers, at = torch.from_numpy(np.frombuffer(raw[28:], "<f4").copy()), 0
    model = Transformer(config).eval().requires_grad_(False)
    shared = kv_heads * width // heads
    order = [("embed.tokens.weight", (vocab, width))]
    for name, shape in {
        "attention_norm": (width,), "attention.query": (width, width), "attention.key": (shared, width),
        "attention.value": (shared, width), "attention.output": (width, width), "feedforward_norm": (width,),
        "feedforward.gate": (inner, width), "feedforward.down": (width, inner), "feedforward.up": (inner, width),
    }.items():  # fmt: skip
        order += [(f"blocks.{i}.{name}.weight", shape) for i in range(layers)]
    weights = {}
    for name, shape in [*order, ("norm.weight", (width,))]:
        count = int(np.prod(shape))
        weights[name], at = numbers[at : at + count].view(shape), at + count
    model.load_state_dict(weights)
    return model


def tokenizer_of(folder: Path) -> Tokenizer:
    raw, at, tokens, scores = (folder / "tok512.bin").read_bytes(), 4, [], []
    while at < len(raw):
        score, length = struct.unpack("<fi", raw[at : at + 8])
        tokens.append(raw[at + 8 : at + 8 + length].decode().strip("\n").replace(" ", "▁") or "\n")
        scores.append(score)
        at += 8 + length
    types = [2, 3, 3] + [6 if token.startswith("<0x") else 1 for token in tokens[3:]]
    tokens[1:3] = ["<s>", "</s>"]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": np.array(scores, np.float32),
            "tokenizer.ggml.token_type": np.array(types, np.int32),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
        }
    )
