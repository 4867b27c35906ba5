"""Qwen 2, 2.5 and 3, dense and mixtures: Llama's shape with biases on queries, keys and values (2), or with normalised
queries and keys in their place (3).

Some sizes look back over a window in their upper layers. In the mixtures of Qwen 2 every token passes a shared expert too,
weighted by a gate of its own, and the chosen experts' weights do not sum to 1; some layers may be dense.
Sources: arXiv 2407.10671, 2412.15115, 2505.09388.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key, read_nullable
from hornbook.checkpoint.rules import Map, Stacked, TensorSource, table
from hornbook.errors import ModelFileError
from hornbook.model.config import Experts, LayerKind, ModelConfig

WINDOW, FIRST_WINDOWED = 4096, 28  # where a file does not say
BIASES: dict[str, Any] = {"qkv_bias": True}
NORMS: dict[str, Any] = {"qk_norm": "head"}


def _reader(mixture: bool, shared: bool, head_width: int | None, usual: Callable[[int, int], bool]) -> Any:
    """``usual``: whether layer i sees a window, given max_window_layers, where a file does not say of each layer."""

    def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
        width = read_key(raw, "head_dim", int, head_width or hugging_face.read_head_width(fields))
        rotary = hugging_face.read_rotary(raw, 10_000.0)
        on = read_key(raw, "use_sliding_window", bool, False)
        window = read_nullable(raw, "sliding_window", int, WINDOW) if on else None
        first = read_key(raw, "max_window_layers", int, FIRST_WINDOWED)
        windowed = hugging_face.read_windowed(raw, fields["layers"], lambda i: usual(i, first))
        experts, sparse = _read_experts(raw, fields, shared) if mixture else (None, [False] * fields["layers"])
        return {
            "kv_heads": read_key(raw, "num_key_value_heads", int, fields["heads"]),
            "head_width": width,
            "activation": hugging_face.read_activation(raw, "hidden_act", "silu"),
            "experts": experts,
            "pattern": tuple(
                LayerKind(window if near else None, rotary, mixed) for near, mixed in zip(windowed, sparse, strict=True)
            ),
        }

    return read


def _read_experts(raw: Mapping[str, Any], fields: Fields, shared: bool) -> tuple[Experts | None, list[bool]]:
    """The mixture, and which layers are one."""
    # transformers 5 has two names for it
    count = read_key(raw, "num_experts", int, read_key(raw, "num_local_experts", int, 60 if shared else 128))
    step, dense = read_key(raw, "decoder_sparse_step", int, 1), raw.get("mlp_only_layers") or []
    if step < 1 or not all(type(i) is int for i in dense):
        raise ModelFileError(f"decoder_sparse_step is {step}, mlp_only_layers {dense}", "Numbers of layers are meant.")
    sparse = [count > 0 and i not in dense and (i + 1) % step == 0 for i in range(fields["layers"])]
    if not any(sparse):
        return None, sparse
    experts = Experts(
        count,
        read_key(raw, "num_experts_per_tok", int, 4 if shared else 8),
        read_key(raw, "moe_intermediate_size", int, 1408 if shared else 768),
        renormalise=read_key(raw, "norm_topk_prob", bool, False),
        shared_width=read_key(raw, "shared_expert_intermediate_size", int, 5632) if shared else 0,
        shared_gate=shared,
    )
    return experts, sparse


def write(config: ModelConfig) -> dict[str, Any]:
    windows = hugging_face.write_windowed(config)
    said = {
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": hugging_face.write_activation(config.activation),
        "use_sliding_window": windows["sliding_window"] is not None,
        **windows,
        **hugging_face.write_rotary(hugging_face.pattern_rotary(config)),
    }
    return said if config.experts is None else said | _write_experts(config, config.experts)


def _write_experts(config: ModelConfig, experts: Experts) -> dict[str, Any]:
    shared = {"shared_expert_intermediate_size": experts.shared_width} if experts.shared_width else {}
    return shared | {
        "num_experts": experts.count,
        "num_experts_per_tok": experts.top,
        "moe_intermediate_size": experts.width,
        "norm_topk_prob": experts.renormalise,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i in range(config.layers) if not config.kind(i).sparse],
    }


MIXTURE = (
    *hugging_face.DECODER,
    *table(
        {
            "blocks.{i}.feedforward.router": ".layers.{i}.mlp.gate",
            "blocks.{i}.feedforward.shared_gate": ".layers.{i}.mlp.shared_expert_gate",
            **{
                f"blocks.{{i}}.feedforward.shared.{n}": f".layers.{{i}}.mlp.shared_expert.{n}_proj"
                for n in ("gate", "up", "down")
            },
        }
    ),
    *(
        Map((f"blocks.{{i}}.feedforward.{n}",), (f".layers.{{i}}.mlp.experts.{{e}}.{n}_proj.weight",), Stacked())
        for n in ("gate", "up", "down")
    ),
)


def _upper(i: int, first: int) -> bool:
    return i >= first


def _hugging_face(name: str, stem: str, twin: str, bias: tuple[Key, ...], shape: dict[str, Any], read: Any) -> Family:
    return Family(
        name, (*hugging_face.decoder_keys(32_768), *bias), MIXTURE, shape, read, write,
        hugging_face.decoder_heads(stem), prefix="model", unused=(r"lm_head\.weight",), twin=twin,
    )  # fmt: skip


def _gguf(name: str, twin: str, shape: dict[str, Any], **implied: Any) -> Family:
    """``implied``: what the architecture's mixture is like."""

    def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
        found = ggml.read_decoder(raw, source, fields, name)
        if not implied.get("shared_gate"):
            return ggml.read_experts(raw, found, name, **implied)
        shared = read_key(raw, f"{name}.expert_shared_feed_forward_length", int, fields["feedforward_width"])
        return ggml.read_experts(raw, found, name, shared_width=shared, **implied)

    return Family(name, ggml.keys(name), ggml.DECODER, shape, read, _gguf_write(name), twin=twin)


def _gguf_write(name: str) -> Callable[[ModelConfig], dict[str, Any]]:
    return lambda config: ggml.write_decoder(config, name)


QWEN_2 = _hugging_face("qwen2", "Qwen2", "qwen2", (), BIASES, _reader(False, False, None, _upper))
QWEN_3 = _hugging_face("qwen3", "Qwen3", "qwen3", hugging_face.BIASES, NORMS, _reader(False, False, 128, _upper))
QWEN_2_MOE = _hugging_face(
    "qwen2_moe", "Qwen2Moe", "qwen2moe", (Key("qkv_bias", "qkv_bias", bool, True),), {},
    _reader(True, True, None, lambda i, first: i < first and (i + 1) % 2 == 1),
)  # fmt: skip
QWEN_3_MOE = _hugging_face(
    "qwen3_moe", "Qwen3Moe", "qwen3moe", hugging_face.BIASES, NORMS, _reader(True, False, None, lambda i, first: True)
)
GGUF_2, GGUF_3 = _gguf("qwen2", "qwen2", BIASES), _gguf("qwen3", "qwen3", NORMS)
GGUF_2_MOE = _gguf("qwen2moe", "qwen2_moe", BIASES, renormalise=False, shared_gate=True)
GGUF_3_MOE = _gguf("qwen3moe", "qwen3_moe", NORMS)
