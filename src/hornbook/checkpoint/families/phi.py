"""Phi-1, 1.5 and 2: attention and feed-forward side by side behind one LayerNorm, a part of each head turned by rotary
positions, biases everywhere, the head's included.

Sources: arXiv 2306.11644, 2309.05463. GGUF calls the architecture phi2; its first files have one matrix for queries, keys and values.
"""

from __future__ import annotations

from hornbook.checkpoint import ggml, hugging_face
from hornbook.checkpoint.families import gpt2
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import DIVIDED, Also, Key, Only, Part
from hornbook.checkpoint.rules import override, table

KEYS: tuple[Part, ...] = (
    *hugging_face.decoder_keys(epsilon=1e-5, norm="layer_norm_eps"),
    hugging_face.KV_HEADS,
    DIVIDED,
    Key("hidden_act", "activation", hugging_face.OLD_ACTIVATION, "gelu_new"),
    hugging_face.Rope(part=0.5),
    Key("resid_pdrop", "dropout", float, 0.0),
    Also("embd_pdrop", "dropout"),
    Only("qk_layernorm", False, "puts a LayerNorm on queries and keys"),
)
SHAPE = gpt2.SHAPE | {"positions": "none", "parallel": True, "shared_norm": True, "head_bias": True}
NAMES = {
    "norm": ".final_layernorm",
    "head.bias": "lm_head.bias",
    "blocks.{i}.attention.output": ".layers.{i}.self_attn.dense",
    "blocks.{i}.feedforward.up": ".layers.{i}.mlp.fc1",
    "blocks.{i}.feedforward.down": ".layers.{i}.mlp.fc2",
}
HUGGING_FACE = Family(
    "phi", KEYS, override(hugging_face.DECODER, *table(NAMES)), SHAPE, heads=hugging_face.decoder_heads("Phi"),
    prefix="model", unused=hugging_face.UNUSED,
    twin=lambda config: None if config.tied_head else "phi2",  # there the head is never tied
)  # fmt: skip
GGUF = Family(
    "phi2", ggml.decoder("phi2", ggml.LAYER), ggml.DECODER, SHAPE | {"activation": "gelu_tanh"},
    older=((r"blk\.\d+\.attn_qkv\.weight", (ggml.QKV,)),), twin="phi",
)  # fmt: skip
