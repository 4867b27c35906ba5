"""What the GGUF metadata of many architectures share: keys that start with the architecture's name, and rotary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.rules import Key, TensorSource, choose, read_key, read_keys, write_keys
from hornbook.errors import ModelFileError
from hornbook.model.config import ModelConfig, Rotary, RotaryScaling

POOLING = {0: None, 1: "mean", 2: "first", 3: "last"}  # llama.cpp's enum llama_pooling_type


def _keys(arch: str, epsilon: str) -> tuple[Key, ...]:
    return (
        Key(f"{arch}.block_count", "layers", int),
        Key(f"{arch}.context_length", "context_length", int),
        Key(f"{arch}.embedding_length", "width", int),
        Key(f"{arch}.feed_forward_length", "feedforward_width", int),
        Key(f"{arch}.attention.head_count", "heads", int),
        Key(f"{arch}.attention.{epsilon}", "norm_epsilon", float),
    )


def read_sizes(
    raw: Mapping[str, Any], source: TensorSource, arch: str, epsilon: str = "layer_norm_rms_epsilon"
) -> dict[str, Any]:
    """The fields that every architecture has, the number of tokens from the embedding itself."""
    sizes = read_keys(raw, _keys(arch, epsilon))
    heads = max(sizes["heads"], 1)
    width = read_key(raw, f"{arch}.attention.key_length", int, sizes["width"] // heads)
    if (values := read_key(raw, f"{arch}.attention.value_length", int, width)) != width:
        raise ModelFileError(f"keys are {width} wide and values {values}", "Such a model is not supported.")
    return sizes | {
        "kv_heads": read_key(raw, f"{arch}.attention.head_count_kv", int, heads),
        "head_width": width,
        "vocab_size": rows(source, "token_embd.weight"),
    }


def write_sizes(config: ModelConfig, arch: str, epsilon: str = "layer_norm_rms_epsilon") -> dict[str, Any]:
    return {
        "general.architecture": arch,
        **write_keys(config, _keys(arch, epsilon)),
        f"{arch}.attention.head_count_kv": config.kv_heads,
        f"{arch}.attention.key_length": config.head_width,
        f"{arch}.attention.value_length": config.head_width,
        f"{arch}.vocab_size": config.vocab_size,
    }


def rows(source: TensorSource, name: str) -> int:
    """The first size of a tensor that must be there."""
    if name not in source.tensors:
        raise ModelFileError(f"the model has no tensor {name}", "The file is incomplete: fetch it again.")
    return int(source.tensors[name].shape[0])


def read_rotary(raw: Mapping[str, Any], source: TensorSource, arch: str, head_width: int) -> Rotary:
    """The base and the scaling, which stands in the metadata or, by frequency, in the tensor rope_freqs."""
    turned = read_key(raw, f"{arch}.rope.dimension_count", int, head_width)
    if turned != head_width:
        raise ModelFileError(
            f"{turned} of {head_width} dimensions of a head are turned", "Partial rotation is not supported here."
        )
    base = read_key(raw, f"{arch}.rope.freq_base", float, 10_000.0)
    if "rope_freqs.weight" in source.tensors:
        factors = source.torch("rope_freqs.weight").tolist()
        return Rotary(base, RotaryScaling("factors", factors=tuple(factors)))
    # Files of before 2024 say "scale_linear".
    factor = read_key(raw, f"{arch}.rope.scale_linear", float, 1.0)
    factor = read_key(raw, f"{arch}.rope.scaling.factor", float, factor)
    kind = read_key(raw, f"{arch}.rope.scaling.type", str, "linear")
    scaled = choose({"linear": True, "none": False}, kind, "the rotary scaling (rope.scaling.type)")
    return Rotary(base, RotaryScaling("linear", factor) if scaled and factor != 1.0 else None)


def write_rotary(rotary: Rotary, arch: str) -> dict[str, Any]:
    """Raises ValueError for Llama 3's scaling, which this format keeps as a tensor of factors."""
    said: dict[str, Any] = {f"{arch}.rope.freq_base": rotary.base}
    if rotary.scaling is not None and rotary.scaling.kind == "linear":
        return said | {f"{arch}.rope.scaling.type": "linear", f"{arch}.rope.scaling.factor": rotary.scaling.factor}
    if rotary.scaling is not None and rotary.scaling.kind == "llama3":
        raise ValueError("Llama 3's rotary scaling is written to GGUF as factors by frequency")
    return said
