"""Llama 1 to 3 and all who took its shape, OpenLLaMA, SOLAR and SmolLM2 among them: pre-RMSNorm, rotary, grouped heads,
gated SiLU. In GGUF Mistral and Mixtral, which have a file of their own each, are of this architecture as well.

Sources: arXiv 2302.13971, 2307.09288, 2407.21783. In GGUF the rows of queries and keys stand interleaved, and the
long-context frequencies of Llama 3 come as a tensor, rope_freqs.
"""

from __future__ import annotations

from hornbook.checkpoint import ggml, hugging_face
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import Has, Key, Part

KEYS: tuple[Part, ...] = (
    *hugging_face.decoder(),
    *hugging_face.BIASES,
    Key("mlp_bias", "feedforward_bias", bool, False),
)
KEYS_GGUF: tuple[Part, ...] = (
    *ggml.decoder("llama"),
    ggml.Mixture("llama"),
    Has("blk.0.attn_q.bias", "qkv_bias"),
    Has("blk.0.attn_output.bias", "attention_output_bias"),
    Has("blk.0.ffn_up.bias", "feedforward_bias"),
)
HUGGING_FACE = Family(
    "llama", KEYS, hugging_face.DECODER, heads=hugging_face.decoder_heads("Llama"), prefix="model",
    unused=hugging_face.UNUSED, twin="llama",
)  # fmt: skip
GGUF = Family(
    "llama", KEYS_GGUF, ggml.interleaved(ggml.DECODER), unused=(r"rope_freqs\.weight",),
    older=((r"blk\.\d+\.ffn_up\.\d+\.weight", ggml.APART),),
    twin=lambda config: "mixtral" if config.experts else "mistral" if config.pattern[0].window else "llama",
)  # fmt: skip
