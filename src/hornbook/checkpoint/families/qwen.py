"""Qwen 2, 2.5 and 3, dense and mixtures: Llama's shape with biases on queries, keys and values (2), or with normalised
queries and keys in their place (3).

Some sizes look back over a window in their upper layers. In the mixtures of Qwen 2 every token passes a shared expert too,
weighted by a gate of its own, and the chosen experts' weights do not sum to 1; some layers may be dense.
Sources: arXiv 2407.10671, 2412.15115, 2505.09388.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from hornbook.checkpoint import ggml, hugging_face
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import Implied, Key, Part, read_key
from hornbook.checkpoint.rules import TensorSource, layer, table
from hornbook.errors import ModelFileError
from hornbook.model.config import ModelConfig


def _first(raw: Mapping[str, Any]) -> int:
    return int(read_key(raw, "max_window_layers", int, 28))


# Which layers see a window, where a file does not say of each and windows are in use at all.
SWITCH = "use_sliding_window"
UPPER = hugging_face.Windows(4096, lambda i, raw: i >= _first(raw), SWITCH)
LOWER = hugging_face.Windows(4096, lambda i, raw: i < _first(raw) and i % 2 == 0, SWITCH)
ALL = hugging_face.Windows(4096, lambda i, raw: True, SWITCH)


class Dense(NamedTuple):
    """The layers of a mixture that are none: those named, and all but every so many; or all, where it has no experts."""

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        step, dense = read_key(raw, "decoder_sparse_step", int, 1), raw.get("mlp_only_layers") or []
        if step < 1 or not all(type(i) is int for i in dense):
            what = f"decoder_sparse_step is {step}, mlp_only_layers {dense}"
            raise ModelFileError(what, "Numbers of layers are meant.")
        kinds, mixed = fields["pattern"], fields["experts"].count > 0
        sparse = [mixed and i not in dense and (i + 1) % step == 0 for i in range(fields["layers"])]
        return {
            "experts": fields["experts"] if any(sparse) else None,
            "pattern": tuple(replace(kinds[i % len(kinds)], sparse=is_one) for i, is_one in enumerate(sparse)),
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        dense = [i for i in range(config.layers) if not config.kind(i).sparse]
        return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


def experts(count: int, top: int, width: int, *shared: Part) -> tuple[Part, ...]:
    """Given are the values of a file that does not say."""
    said = (
        Key("num_experts", "count", int, count, older="num_local_experts"),  # transformers 5 has two names for it
        Key("num_experts_per_tok", "top", int, top),
        Key("moe_intermediate_size", "width", int, width),
        Key("norm_topk_prob", "renormalise", bool, False),
    )
    return (hugging_face.Mixture((*said, *shared)), Dense())


SHARED = (
    Key("shared_expert_intermediate_size", "shared_width", int, 5632),
    Implied("shared_gate", lambda fields: True),
)
BIAS, WIDE = Key("qkv_bias", "qkv_bias", bool, True), Key("head_dim", "head_width", int, 128)
MAPS = (
    *hugging_face.DECODER,
    *table(layer(".layers.{i}.mlp.", {
        "feedforward.router": "gate", "feedforward.shared_gate": "shared_expert_gate",
        **{f"feedforward.shared.{name}": f"shared_expert.{name}_proj" for name in ("gate", "up", "down")},
    })),
    *hugging_face.experts(".layers.{i}.mlp.experts.{e}.", gate="gate_proj", up="up_proj", down="down_proj"),
)  # fmt: skip
BIASES, NORMS = {"qkv_bias": True}, {"qk_norm": "head"}


def _hugging_face(name: str, stem: str, twin: str, shape: Mapping[str, Any], *parts: Part) -> Family:
    return Family(
        name, (*hugging_face.decoder(32_768), *parts), MAPS, shape, heads=hugging_face.decoder_heads(stem),
        prefix="model", unused=hugging_face.UNUSED, twin=twin,
    )  # fmt: skip


QWEN_2 = _hugging_face("qwen2", "Qwen2", "qwen2", BIASES, UPPER)
QWEN_3 = _hugging_face("qwen3", "Qwen3", "qwen3", NORMS, WIDE, *hugging_face.BIASES, UPPER)
QWEN_2_MOE = _hugging_face("qwen2_moe", "Qwen2Moe", "qwen2moe", {}, BIAS, LOWER, *experts(60, 4, 1408, *SHARED))
QWEN_3_MOE = _hugging_face("qwen3_moe", "Qwen3Moe", "qwen3moe", NORMS, *hugging_face.BIASES, ALL, *experts(128, 8, 768))


def _gguf(name: str, twin: str, shape: Mapping[str, Any], **implied: Any) -> Family:
    """``implied``: what the architecture's mixture is like."""
    return Family(name, (*ggml.decoder(name), ggml.Mixture(name, implied)), ggml.DECODER, shape, twin=twin)


GGUF_2, GGUF_3 = _gguf("qwen2", "qwen2", BIASES), _gguf("qwen3", "qwen3", NORMS)
GGUF_2_MOE = _gguf("qwen2moe", "qwen2_moe", BIASES, renormalise=False, shared_gate=True)
GGUF_3_MOE = _gguf("qwen3moe", "qwen3_moe", NORMS)
