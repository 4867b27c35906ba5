"""Gemma 3, text: norms before and after each part that count from one, normalised queries and keys, and, of every six
layers, five that see a window of the last tokens and turn by a short base, and one that sees everything.

Source: arXiv 2503.19786. In GGUF the norms' weights have the one added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, hugging_face
from hornbook.checkpoint.rules import (
    Family,
    Key,
    Rule,
    Shift,
    TensorSource,
    linear,
    one,
    read_key,
    read_keys,
    write_keys,
)
from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.model.config import LayerKind, ModelConfig, Rotary

LOCAL, GLOBAL = "sliding_attention", "full_attention"
LOCAL_BASE, GLOBAL_BASE, PERIOD = 10_000.0, 1_000_000.0, 6  # where a file does not say

KEYS = (
    Key("vocab_size", "vocab_size", int, 262_208),
    Key("hidden_size", "width", int),
    Key("intermediate_size", "feedforward_width", int),
    Key("num_hidden_layers", "layers", int),
    Key("num_attention_heads", "heads", int),
    Key("num_key_value_heads", "kv_heads", int, 4),
    Key("head_dim", "head_width", int, 256),
    Key("max_position_embeddings", "context_length", int, 131_072),
    Key("rms_norm_eps", "norm_epsilon", float, 1e-6),
    Key("tie_word_embeddings", "tied_head", bool, True),
    Key("attention_bias", "qkv_bias", bool, False),
    Key("attention_bias", "attention_output_bias", bool, False),
    Key("attn_logit_softcapping", "attention_softcap", float, None),
    Key("final_logit_softcapping", "logit_softcap", float, None),
)


def _shape(width: int) -> dict[str, Any]:
    """What every Gemma 3 has, said in no file."""
    return {"norm_offset": 1.0, "norm_placement": "both", "qk_norm": True, "embedding_scale": width**0.5}


def _alternate(layers: int, period: int, local: LayerKind, whole: LayerKind) -> tuple[LayerKind, ...]:
    """Every ``period``-th layer is whole."""
    return (*[local] * (min(period, layers + 1) - 1), whole)


def read_config(raw: Mapping[str, Any], source: TensorSource) -> ModelConfig:
    if read_key(raw, "use_bidirectional_attention", bool, False):
        raise UnsupportedModel("this Gemma reads in both directions", "Take a generating Gemma 3 model.")
    fields = read_keys(raw, KEYS)
    said = raw.get("rope_parameters")
    if isinstance(said, Mapping):
        local = hugging_face.read_rotary_parameters(said.get(LOCAL) or {}, LOCAL_BASE)
        whole = hugging_face.read_rotary_parameters(said.get(GLOBAL) or {}, GLOBAL_BASE)
    else:
        local = Rotary(read_key(raw, "rope_local_base_freq", float, LOCAL_BASE))
        whole = hugging_face.read_rotary(raw, GLOBAL_BASE)
    kinds = {
        LOCAL: LayerKind(read_key(raw, "sliding_window", int, 4096), local),
        GLOBAL: LayerKind(None, whole),
    }
    types = raw.get("layer_types")
    if types is None:
        period = read_key(raw, "sliding_window_pattern", int, PERIOD)
        pattern = _alternate(fields["layers"], period, kinds[LOCAL], kinds[GLOBAL])
    elif len(types) == fields["layers"] and set(types) <= set(kinds):
        pattern = tuple(kinds[name] for name in types)
    else:
        raise ModelFileError(
            f"layer_types has {len(types)} entries of {sorted(set(map(str, types)))} for {fields['layers']} layers",
            f"It must say {LOCAL} or {GLOBAL} for each layer.",
        )
    return ModelConfig(
        **fields,
        **_shape(fields["width"]),
        query_scale=read_key(raw, "query_pre_attn_scalar", float, 256.0) ** -0.5,
        activation=hugging_face.read_activation(raw, "hidden_activation", "gelu_pytorch_tanh"),
        pattern=pattern,
    )


def _kinds(config: ModelConfig) -> tuple[LayerKind, LayerKind]:
    """The local kind and the whole one; raises ValueError where the layers are not of such kinds."""
    local = [kind for kind in config.pattern if kind.window is not None]
    whole = [kind for kind in config.pattern if kind.window is None] or [LayerKind(None, Rotary(GLOBAL_BASE))]
    if len(set(local)) > 1 or len(set(whole)) > 1 or not all(kind.rotary for kind in config.pattern):
        raise ValueError("Gemma has layers of two kinds, local and whole, with rotary positions")
    return (local or [LayerKind(4096, Rotary(LOCAL_BASE))])[0], whole[0]


def write_config(config: ModelConfig) -> dict[str, Any]:
    local, whole = _kinds(config)
    assert local.rotary is not None and whole.rotary is not None
    types = [GLOBAL if config.kind(i).window is None else LOCAL for i in range(config.layers)]
    return {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        **write_keys(config, KEYS),
        "hidden_activation": hugging_face.write_activation(config.activation),
        "query_pre_attn_scalar": round(config.scale**-2),
        "sliding_window": local.window,
        "layer_types": types,
        "rope_parameters": {
            LOCAL: hugging_face.write_rotary_parameters(local.rotary),
            GLOBAL: hugging_face.write_rotary_parameters(whole.rotary),
        },
    }


def rules(config: ModelConfig) -> list[Rule]:
    found = [one("model.embed_tokens.weight", "embed.tokens.weight"), one("model.norm.weight", "norm.weight")]
    if not config.tied_head:
        found.append(one("lm_head.weight", "head.weight"))
    for i in range(config.layers):
        their, our = f"model.layers.{i}.", f"blocks.{i}."
        found += [
            one(f"{their}input_layernorm.weight", f"{our}attention_norm.weight"),
            *linear(f"{their}self_attn.q_proj", f"{our}attention.query", bias=config.qkv_bias),
            *linear(f"{their}self_attn.k_proj", f"{our}attention.key", bias=config.qkv_bias),
            *linear(f"{their}self_attn.v_proj", f"{our}attention.value", bias=config.qkv_bias),
            one(f"{their}self_attn.q_norm.weight", f"{our}attention.query_norm.weight"),
            one(f"{their}self_attn.k_norm.weight", f"{our}attention.key_norm.weight"),
            *linear(f"{their}self_attn.o_proj", f"{our}attention.output", bias=config.attention_output_bias),
            one(f"{their}post_attention_layernorm.weight", f"{our}attention_post_norm.weight"),
            one(f"{their}pre_feedforward_layernorm.weight", f"{our}feedforward_norm.weight"),
            one(f"{their}mlp.gate_proj.weight", f"{our}feedforward.gate.weight"),
            one(f"{their}mlp.up_proj.weight", f"{our}feedforward.up.weight"),
            one(f"{their}mlp.down_proj.weight", f"{our}feedforward.down.weight"),
            one(f"{their}post_feedforward_layernorm.weight", f"{our}feedforward_post_norm.weight"),
        ]
    return found


def read_gguf(raw: Mapping[str, Any], source: TensorSource) -> ModelConfig:
    fields = ggml.read_sizes(raw, source, "gemma3")
    # The 27B model alone scales by its width per head and not by the width of its heads (llama.cpp does the same).
    by_width = fields["layers"] == 62
    whole = ggml.read_rotary({"gemma3.rope.freq_base": GLOBAL_BASE, **raw}, source, "gemma3", fields["head_width"])
    local = Rotary(read_key(raw, "gemma3.rope.freq_base_swa", float, LOCAL_BASE))
    near, far = LayerKind(read_key(raw, "gemma3.attention.sliding_window", int), local), LayerKind(None, whole)
    said = raw.get("gemma3.attention.sliding_window_pattern", PERIOD)  # every how many layers, or for each whether
    if isinstance(said, int):
        pattern = _alternate(fields["layers"], said, near, far)
    else:
        pattern = tuple(near if windowed else far for windowed in said)
    return ModelConfig(
        **fields,
        **_shape(fields["width"]),
        tied_head="output.weight" not in source.tensors,
        query_scale=(fields["width"] / fields["heads"] if by_width else fields["head_width"]) ** -0.5,
        activation="gelu_tanh",
        attention_softcap=read_key(raw, "gemma3.attn_logit_softcapping", float, None),
        logit_softcap=read_key(raw, "gemma3.final_logit_softcapping", float, None),
        pattern=pattern,
    )


def write_gguf(config: ModelConfig) -> dict[str, Any]:
    local, whole = _kinds(config)
    assert local.rotary is not None and whole.rotary is not None
    caps = {
        "gemma3.attn_logit_softcapping": config.attention_softcap,
        "gemma3.final_logit_softcapping": config.logit_softcap,
    }
    return {
        **ggml.write_sizes(config, "gemma3"),
        **ggml.write_rotary(whole.rotary, "gemma3"),
        "gemma3.rope.freq_base_swa": local.rotary.base,
        "gemma3.attention.sliding_window": local.window,
        **{key: cap for key, cap in caps.items() if cap is not None},
    }


def gguf_rules(config: ModelConfig) -> list[Rule]:
    plus_one = Shift(1.0)
    found = [one("token_embd.weight", "embed.tokens.weight"), one("output_norm.weight", "norm.weight", plus_one)]
    if not config.tied_head:
        found.append(one("output.weight", "head.weight"))
    for i in range(config.layers):
        their, our = f"blk.{i}.", f"blocks.{i}."
        found += [
            one(f"{their}attn_norm.weight", f"{our}attention_norm.weight", plus_one),
            one(f"{their}attn_q.weight", f"{our}attention.query.weight"),
            one(f"{their}attn_k.weight", f"{our}attention.key.weight"),
            one(f"{their}attn_v.weight", f"{our}attention.value.weight"),
            one(f"{their}attn_q_norm.weight", f"{our}attention.query_norm.weight", plus_one),
            one(f"{their}attn_k_norm.weight", f"{our}attention.key_norm.weight", plus_one),
            one(f"{their}attn_output.weight", f"{our}attention.output.weight"),
            one(f"{their}post_attention_norm.weight", f"{our}attention_post_norm.weight", plus_one),
            one(f"{their}ffn_norm.weight", f"{our}feedforward_norm.weight", plus_one),
            one(f"{their}ffn_gate.weight", f"{our}feedforward.gate.weight"),
            one(f"{their}ffn_up.weight", f"{our}feedforward.up.weight"),
            one(f"{their}ffn_down.weight", f"{our}feedforward.down.weight"),
            one(f"{their}post_ffw_norm.weight", f"{our}feedforward_post_norm.weight", plus_one),
        ]
    return found


HUGGING_FACE = Family(read_config, write_config, rules, unused=(r"lm_head\.weight",))  # a tied head, kept twice
GGUF = Family(read_gguf, write_gguf, gguf_rules)
