"""GPT, the first: GPT-2's parts, but each norm stands behind the sum (post-LayerNorm), and none at the end.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 4.1. What its
configuration calls "gelu" is the tanh form. GGUF has no such architecture.
"""

from __future__ import annotations

from hornbook.checkpoint.families import gpt2
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import Implied, Key, Part, Words

KEYS: tuple[Part, ...] = (
    *gpt2.sizes(512),
    Implied("feedforward_width", lambda fields: 4 * fields["width"]),
    Key("afn", "activation", Words({"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}), "gelu"),
)
NAMES = gpt2.NAMES | {
    "embed.tokens": ".tokens_embed", "embed.positions": ".positions_embed",
    "blocks.{i}.attention_post_norm": ".h.{i}.ln_1", "blocks.{i}.feedforward_post_norm": ".h.{i}.ln_2",
}  # fmt: skip
HUGGING_FACE = Family(
    "openai-gpt", KEYS, gpt2.transposed(NAMES), gpt2.SHAPE | {"norm_placement": "post"},
    heads=gpt2.heads("OpenAIGPT", "LMHeadModel"), prefix="transformer", unused=(*gpt2.UNUSED, r"position_ids"),
)  # fmt: skip
