"""GPT-NeoX and Pythia: LayerNorms, a part of each head turned by rotary positions, attention and feed-forward side by side.

Sources: arXiv 2204.06745, section 2.1; 2304.01373. A good file to begin with, for it has a little of everything:

    KEYS    what config.json says and ModelConfig has as well, under another name
    SHAPE   what every model of the family has, and no file says
    NAMES   which module of theirs is which of ours
    read    what takes a computation, and write, its inverse

One matrix makes queries, keys and values, in the safetensors file head by head (Grouped), in GGUF one behind the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, gpt2, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key
from hornbook.checkpoint.rules import Grouped, Map, TensorSource, override, table
from hornbook.model.config import LayerKind, ModelConfig

KEYS = (
    Key("vocab_size", "vocab_size", int),
    Key("max_position_embeddings", "context_length", int, 2048),
    Key("hidden_size", "width", int),
    Key("intermediate_size", "feedforward_width", int),
    Key("num_hidden_layers", "layers", int),
    Key("num_attention_heads", "heads", int),
    Key("layer_norm_eps", "norm_epsilon", float, 1e-5),
    Key("tie_word_embeddings", "tied_head", bool, False),
    Key("attention_bias", "qkv_bias", bool, True),
    Key("attention_bias", "attention_output_bias", bool, True),
    Key("use_parallel_residual", "parallel", bool, True),
    Key("hidden_dropout", "dropout", float, 0.0),
    Key("attention_dropout", "attention_dropout", float, 0.0),
)
SHAPE: dict[str, Any] = {"norm": "layer", "gated": False, "feedforward_bias": True}
NAMES = {
    "embed.tokens": ".embed_in",
    "norm": ".final_layer_norm",
    "head.tokens": "lm_head",
    "classifier.linear": "score",
    "blocks.{i}.attention_norm": ".layers.{i}.input_layernorm",
    "blocks.{i}.attention.output": ".layers.{i}.attention.dense",
    "blocks.{i}.feedforward_norm": ".layers.{i}.post_attention_layernorm",
    "blocks.{i}.feedforward.up": ".layers.{i}.mlp.dense_h_to_4h",
    "blocks.{i}.feedforward.down": ".layers.{i}.mlp.dense_4h_to_h",
}
FUSED = Map(ggml.FUSED, (".layers.{i}.attention.query_key_value",), lambda config: Grouped(config.heads, 1))


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    width = hugging_face.read_head_width(fields)
    part, base = read_key(raw, "rotary_pct", float, 0.25), read_key(raw, "rotary_emb_base", float, 10_000.0)
    rotary = hugging_face.read_rotary({"partial_rotary_factor": part, **raw}, base, head_width=width)
    return {
        "kv_heads": fields["heads"],
        "head_width": width,
        "activation": hugging_face.read_activation(raw, "hidden_act", "gelu"),
        "pattern": (LayerKind(rotary=rotary),),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_act": hugging_face.write_activation(config.activation),
        **hugging_face.write_rotary(hugging_face.pattern_rotary(config), config.head_width),
    }


def read_gguf(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    # No key says it: GPT-NeoX-20B alone, by its layers, has the tanh form of GELU.
    activation = "gelu_tanh" if fields["layers"] == 44 else "gelu"
    return ggml.read_decoder(raw, source, fields, "gptneox") | {"activation": activation}


HUGGING_FACE = Family(
    "gpt_neox",
    KEYS,
    (*table(NAMES), FUSED),
    shape=SHAPE,
    read=read,
    write=write,
    heads=gpt2.heads("GPTNeoX", "ForCausalLM"),
    prefix="gpt_neox",
    # Masks and angles of older files; a tied head that is written a second time.
    unused=(r".*\.attention\.(masked_)?bias", r".*rotary_emb\.inv_freq", r"lm_head\.weight"),
    aliases=((r"^embed_out\.", "lm_head."),),
    twin=lambda config: "gptneox" if config.qkv_bias and not config.tied_head else None,  # there it is always so
)
GGUF = Family(
    "gptneox",
    (*ggml.keys("gptneox", ggml.LAYER), Key("gptneox.use_parallel_residual", "parallel", bool, True)),
    override(ggml.DECODER, ggml.QKV),
    shape=SHAPE | {"qkv_bias": True, "attention_output_bias": True},
    read=read_gguf,
    write=lambda config: ggml.write_decoder(config, "gptneox"),
    twin="gpt_neox",
)
