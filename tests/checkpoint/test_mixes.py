"""The recipes give every tensor the type that llama.cpp gives it.

llama_cpp_mixes.json was recorded with llama.cpp v0.5.0 (October 2026): its llama_model_quantize was run with each of
the recipes on the models that ``model`` describes, random weights of those shapes, and the types were read from the
files that it wrote. "Q6_K*2 Q4_K" stands for the tensor of that name in layers 0 and 1, and in layer 2.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from hornbook.checkpoint.dequantize import BY_NAME
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.mixes import MIXES, assign, mix_named
from hornbook.errors import UsageError

RECORDED = json.loads((Path(__file__).parent / "llama_cpp_mixes.json").read_text("utf-8"))

MODELS: dict[str, dict[str, Any]] = {
    "four queries to a key, output tied": {},
    "two queries to a key, output of its own": {"kv_heads": 4, "tied": False},
    "rows of 576 and 1536": {"layers": 9, "width": 576, "feed_forward": 1536, "heads": 9, "kv_heads": 3},
    "rows of 288 and 352": {
        "layers": 9, "width": 288, "feed_forward": 352, "heads": 9, "kv_heads": 9, "tied": False
    },
    "eight experts": {"layers": 9, "experts": 8},
    "four experts": {"layers": 9, "experts": 4, "tied": False},
    "eighty layers": {"layers": 80},
    "falcon": {"architecture": "falcon", "fused": True, "tied": False},
}  # fmt: skip


def model(
    *, architecture: str = "llama", layers: int = 17, width: int = 256, feed_forward: int = 512, heads: int = 8,
    kv_heads: int = 2, experts: int = 0, tied: bool = True, fused: bool = False,
) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:  # fmt: skip
    """Shapes and metadata of a model, with GGUF's names."""
    values = width * kv_heads // heads
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (64, width), "output_norm.weight": (width,)}
    if not tied:
        shapes["output.weight"] = (64, width)
    for i in range(layers):
        layer: dict[str, tuple[int, ...]] = {"attn_norm": (width,), "ffn_norm": (width,), "attn_output": (width, width)}
        if fused:
            layer["attn_qkv"] = (width + 2 * values, width)
        else:
            layer |= {"attn_q": (width, width), "attn_k": (values, width), "attn_v": (values, width)}
        up, down = (feed_forward, width), (width, feed_forward)
        if experts:
            layer["ffn_gate_inp"] = (experts, width)
            layer |= {f"ffn_{name}_exps": (experts, *up) for name in ("gate", "up")}
            layer["ffn_down_exps"] = (experts, *down)
        else:
            layer |= {"ffn_gate": up, "ffn_up": up, "ffn_down": down}
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
    numbers = {"block_count": layers, "attention.head_count": heads, "attention.head_count_kv": kv_heads}
    if experts:
        numbers["expert_count"] = experts
    return shapes, {"general.architecture": architecture} | {f"{architecture}.{k}": v for k, v in numbers.items()}


def told_by_layer(types: dict[str, str]) -> dict[str, str]:
    """{"blk.0.attn_v.weight": "Q6_K", ...} -> {"attn_v": "Q6_K*2 Q4_K", ...}"""
    columns: dict[str, list[str]] = {}
    for name in sorted(types, key=lambda name: [int(part) if part.isdigit() else 0 for part in name.split(".")]):
        columns.setdefault(re.sub(r"^blk\.\d+\.|\.weight$", "", name), []).append(types[name])
    runs = {kind: [(type, len(list(run))) for type, run in groupby(column)] for kind, column in columns.items()}
    return {
        kind: " ".join(f"{type}*{n}" if n > 1 else type for type, n in runs[kind])
        for kind in sorted(runs)
        if not kind.endswith("norm")
    }


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_gets_the_type_that_llama_cpp_gives_it(name: str, mix: str) -> None:
    types = assign(mix, *model(**MODELS[name]))
    assert told_by_layer(types) == RECORDED[name][mix]
    assert all(type == "F32" for tensor, type in types.items() if tensor.endswith("norm.weight"))


def test_the_record_tells_the_recipes_apart() -> None:
    dense = RECORDED["four queries to a key, output tied"]
    assert len({json.dumps(dense[mix]) for mix in MIXES}) == len(MIXES)
    assert "Q6_K" in dense["Q4_K_M"]["attn_v"] and "Q4_K" in dense["Q4_K_M"]["attn_v"]


@pytest.mark.models
def test_a_published_file_has_the_types_of_its_recipe(gemma_path: Path) -> None:
    with GGUF.open(gemma_path) as file:
        shapes = {name: info.shape for name, info in file.tensors.items()}
        assert file.metadata["general.file_type"] == MIXES["Q4_K_M"].file_type
        assert assign("q4_k_m", shapes, file.metadata) == {name: info.type for name, info in file.tensors.items()}


def test_types_always_fit_their_rows_and_vectors_stay_whole() -> None:
    shapes, metadata = model(width=240, feed_forward=100, heads=8, kv_heads=8)
    shapes |= {"blk.0.attn_q.bias": (240,), "token_types.weight": (2, 240), "blk.0.ssm_conv1d.weight": (4, 240)}
    for mix in MIXES:
        types = assign(mix, shapes, metadata)
        assert list(types) == list(shapes)
        assert all(shapes[name][-1] % BY_NAME[type].block == 0 for name, type in types.items())
        assert {types[name] for name in ("blk.0.attn_q.bias", "token_types.weight", "blk.0.ssm_conv1d.weight")} == {
            "F32"
        }
    assert types["blk.0.ffn_down.weight"] == "F16"  # rows of 100


def test_heads_may_differ_from_layer_to_layer() -> None:
    shapes, metadata = model()
    listed = metadata | {"llama.attention.head_count": [8] * 17, "llama.attention.head_count_kv": [2] * 17}
    assert assign("Q2_K", shapes, listed) == assign("Q2_K", shapes, metadata)


def test_short_names_and_mistakes() -> None:
    assert mix_named("q4_k") == "Q4_K_M" and mix_named("Q8_0") == "Q8_0"
    with pytest.raises(UsageError, match="no recipe Q4_X.*\n.*Q4_K_M"):
        mix_named("Q4_X")
    shapes, metadata = model()
    del metadata["llama.block_count"]
    with pytest.raises(UsageError, match="lack llama.block_count"):
        assign("Q8_0", shapes, metadata)
