"""GPT-NeoX and Pythia: LayerNorms, a part of each head turned by rotary positions, attention and feed-forward side by side.

Sources: arXiv 2204.06745, section 2.1; 2304.01373. A good file to begin with, for it has a little of everything:

    KEYS    what config.json says: its name for a thing, ours, the type, and what is meant where it says nothing
    SHAPE   what every model of the family has, and no file says
    NAMES   which module of theirs is which of ours; FUSED: which one holds three of ours

One matrix makes queries, keys and values, in the safetensors file head by head (Grouped), in GGUF one behind the other.
"""

from __future__ import annotations

from hornbook.checkpoint import ggml, hugging_face
from hornbook.checkpoint.families import gpt2
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import MULTI_HEAD, Implied, Key, Part
from hornbook.checkpoint.rules import Grouped, Map, override, table

KEYS: tuple[Part, ...] = (
    Key("vocab_size", "vocab_size", int),
    Key("max_position_embeddings", "context_length", int, 2048),
    Key("hidden_size", "width", int),
    Key("intermediate_size", "feedforward_width", int),
    Key("num_hidden_layers", "layers", int),
    Key("num_attention_heads", "heads", int),
    *MULTI_HEAD,
    Key("layer_norm_eps", "norm_epsilon", float, 1e-5),
    Key("tie_word_embeddings", "tied_head", bool, False),
    Key("attention_bias", "qkv_bias", bool, True),
    Key("attention_bias", "attention_output_bias", bool, True),
    Key("use_parallel_residual", "parallel", bool, True),
    Key("hidden_act", "activation", hugging_face.ACTIVATION, "gelu"),
    hugging_face.Rope(part=0.25, older=("rotary_emb_base", "rotary_pct")),
    Key("hidden_dropout", "dropout", float, 0.0),
    Key("attention_dropout", "attention_dropout", float, 0.0),
)
SHAPE = {"norm": "layer", "gated": False, "feedforward_bias": True}
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

HUGGING_FACE = Family(
    "gpt_neox",
    KEYS,
    (*table(NAMES), FUSED),
    SHAPE,
    heads=gpt2.heads("GPTNeoX"),
    prefix="gpt_neox",
    unused=(r".*\.attention\.(masked_)?bias", *hugging_face.UNUSED),  # masks of older files
    aliases=((r"^embed_out\.", "lm_head."),),
    twin=lambda config: "gptneox" if config.qkv_bias and not config.tied_head else None,  # there it is always so
)

KEYS_GGUF: tuple[Part, ...] = (
    *ggml.decoder("gptneox", ggml.LAYER),
    Key("gptneox.use_parallel_residual", "parallel", bool, True),
    # No key says it: GPT-NeoX-20B alone, by its layers, has the tanh form of GELU.
    Implied("activation", lambda fields: "gelu_tanh" if fields["layers"] == 44 else "gelu"),
)
GGUF = Family(
    "gptneox",
    KEYS_GGUF,
    override(ggml.DECODER, ggml.QKV),
    SHAPE | {"qkv_bias": True, "attention_output_bias": True},
    twin="gpt_neox",
)
