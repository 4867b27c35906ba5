"""Which type each tensor of a GGUF file gets: the recipes that llama.cpp's quantize tool calls Q4_K_M and so on.

    assign("Q4_K_M", {"token_embd.weight": (32000, 2048), ...}, metadata)       # {"token_embd.weight": "Q6_K", ...}

Not all weights bear rounding equally. Vectors, norms, routers and positions stay float32; the embedding that is also
the output, or the output, gets 6 bits or 8; the values of attention and the second matrix of the feed-forward get more
bits than the rest, in the "M" recipes where it tells most: the first eighth of the layers, the last, and every third
between. A type of 256-value blocks gives way where a row is no multiple of 256: Q4_K to Q5_0, Q5_K to Q5_1, Q6_K to
Q8_0, Q2_K and Q3_K to Q4_0, and all of these to F16 where it is no multiple of 32.

The recipes follow llama.cpp (src/llama-quant.cpp as of October 2026, MIT licence) without an importance matrix, tensor
by tensor. One thing differs: a row that suits neither the chosen type nor its substitute is refused there in Q8_0 and
Q4_0 to Q5_1, and is F16 here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from hornbook.checkpoint.dequantize import BY_NAME
from hornbook.errors import UsageError


class Mix(NamedTuple):
    """A recipe: the number that general.file_type has for it, and the type of whatever is not named specially."""

    file_type: int
    type: str


MIXES: dict[str, Mix] = {
    "F32": Mix(0, "F32"), "F16": Mix(1, "F16"), "BF16": Mix(32, "BF16"),
    "Q8_0": Mix(7, "Q8_0"), "Q4_0": Mix(2, "Q4_0"), "Q4_1": Mix(3, "Q4_1"), "Q5_0": Mix(8, "Q5_0"), "Q5_1": Mix(9, "Q5_1"),
    "Q2_K": Mix(10, "Q2_K"), "Q3_K_S": Mix(11, "Q3_K"), "Q3_K_M": Mix(12, "Q3_K"), "Q3_K_L": Mix(13, "Q3_K"),
    "Q4_K_S": Mix(14, "Q4_K"), "Q4_K_M": Mix(15, "Q4_K"), "Q5_K_S": Mix(16, "Q5_K"), "Q5_K_M": Mix(17, "Q5_K"),
    "Q6_K": Mix(18, "Q6_K"),
}  # fmt: skip
_SHORT = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

_SUBSTITUTES = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_FLOATS = ("F32", "F16", "BF16")

# Matrices that stay as they are: small, or badly hurt by rounding.
_KEPT_NAMES = ("position_embd.weight", "token_types.weight")
_KEPT_PARTS = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "attn_rel_b.weight",
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight",
    "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight",
    "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight", ".position_embd", ".rel_pos", ".patch_embd", ".patch_merger",
)  # fmt: skip
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_VALUES = ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight")
_LAYER = re.compile(r"blk\.(\d+)\.")


class _Model(NamedTuple):
    """What the recipes ask of the model."""

    architecture: str
    layers: int
    shared: int  # query heads to a key head
    experts: int
    tied: bool  # the embedding is the output too
    value_tensors: int

    @property
    def is_70b(self) -> bool:
        """Eighty layers of Llama 2's kind: eight queries share a value, and its matrix is small for what hangs on it."""
        return self.architecture in ("llama", "qwen2", "deci") and self.layers == 80 and self.shared > 1


def mix_named(name: str) -> str:
    """The name in MIXES: in capitals, and "Q4_K" for Q4_K_M. Raises UsageError for a recipe that there is not."""
    known = _SHORT.get(name.upper(), name.upper())
    if known not in MIXES:
        raise UsageError(f"there is no recipe {name}", f"Take one of: {', '.join(MIXES)}.")
    return known


def assign(mix: str, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, Any]) -> dict[str, str]:
    """The type of each tensor, by GGUF's names: row-major ``shapes`` of all tensors of the file -> types.

    Of ``metadata``, the file's own, it needs general.architecture and that architecture's block_count and
    attention.head_count, and reads attention.head_count_kv and expert_count. Raises UsageError for an unknown ``mix``.
    """
    mix = mix_named(mix)
    model = _model(shapes, metadata)
    types: dict[str, str] = {}
    values = downs = 0  # how many of these have been seen
    for name in sorted(shapes, key=lambda name: (_layer(name), name)):
        type = MIXES[mix].type
        if not _is_rounded(name, shapes[name]):
            types[name] = "F32"
            continue
        if type in _FLOATS:
            types[name] = type
            continue
        row = shapes[name][-1]
        if name == "output.weight" or (model.tied and name in _EMBEDDINGS):
            type = _output(type, row, model)
        elif any(part in name for part in _VALUES):
            type = _attention_value(mix, type, values, model)
            values += 1
        elif "attn_k.weight" in name:
            type = "Q8_0" if model.experts == 8 else type
        elif "attn_output.weight" in name:
            type = _attention_output(mix, type, model)
        elif "ffn_down" in name:
            type = _feed_forward_down(mix, type, _layer(name) if model.experts > 1 else downs, model)
            downs += 1
        types[name] = _fitting(type, row)
    return {name: types[name] for name in shapes}


def _model(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, Any]) -> _Model:
    architecture = metadata["general.architecture"]

    def first(key: str, default: int | None = None) -> int:
        value = metadata.get(f"{architecture}.{key}", default)
        if value is None:
            raise UsageError(
                f"the metadata lack {architecture}.{key}, on which the recipe depends", "Write it beside the tensors."
            )
        return int(value if isinstance(value, int) else value[0])  # some models have one number a layer

    heads = first("attention.head_count", 1)
    key_heads = first("attention.head_count_kv", heads)
    return _Model(
        architecture=architecture,
        layers=first("block_count"),
        shared=heads // key_heads if key_heads else 0,
        experts=first("expert_count", 0),
        tied="output.weight" not in shapes,
        value_tensors=sum(any(part in name for part in _VALUES) for name in shapes),
    )


def _layer(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else -1


def _is_rounded(name: str, shape: tuple[int, ...]) -> bool:
    matrix = sum(1 for size in shape[:-1] if size > 1) > 0
    kept = name in _KEPT_NAMES or any(part in name for part in _KEPT_PARTS)
    return matrix and name.endswith("weight") and not kept


def _gets_more(index: int, count: int) -> bool:
    """Of ``count`` layers the first eighth, the last, and every third between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


def _output(type: str, row: int, model: _Model) -> str:
    if type == "Q8_0" or row % BY_NAME[type].block or model.architecture == "falcon":
        return "Q8_0"
    return "Q6_K"


def _attention_value(mix: str, type: str, index: int, model: _Model) -> str:
    if mix == "Q2_K":
        type = "Q4_K" if model.shared >= 4 else "Q3_K"
    elif mix == "Q3_K_M":
        type = "Q5_K" if index < 2 else "Q4_K"
    elif mix == "Q3_K_L" or (mix == "Q4_K_S" and index < 4):
        type = "Q5_K"
    elif mix in ("Q4_K_M", "Q5_K_M") and _gets_more(index, model.value_tensors):
        type = "Q6_K"
    if model.is_70b and type in ("Q3_K", "Q4_K"):
        type = "Q5_K"
    return "Q8_0" if model.experts == 8 else type


def _attention_output(mix: str, type: str, model: _Model) -> str:
    if model.architecture == "falcon":
        return "Q4_K" if mix == "Q3_K_L" else type
    if model.experts == 8:
        return "Q5_K" if mix in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M") else type
    return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(mix, type)


def _feed_forward_down(mix: str, type: str, index: int, model: _Model) -> str:
    more, falcon = _gets_more(index, model.layers), model.architecture == "falcon"
    if mix == "Q2_K":
        return "Q3_K"
    if mix == "Q3_K_M":
        if index < model.layers // 16:
            return "Q5_K"
        return "Q4_K" if more or not falcon else "Q3_K"
    if mix == "Q3_K_L":
        return "Q4_K" if falcon else "Q5_K"
    if mix == "Q4_K_M" and falcon:
        return "Q6_K" if index < model.layers // 16 else "Q5_K" if more else "Q4_K"
    if mix in ("Q4_K_M", "Q5_K_M") and more:
        return "Q6_K"
    if mix == "Q4_K_S" and not falcon and index < model.layers // 8:
        return "Q5_K"
    return type


def _fitting(type: str, row: int) -> str:
    """``type``, or what takes its place where its blocks do not fill a row."""
    if row % BY_NAME[type].block == 0:
        return type
    substitute = _SUBSTITUTES.get(type, "F16")
    return substitute if row % BY_NAME[substitute].block == 0 else "F16"
