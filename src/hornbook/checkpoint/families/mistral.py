"""Mistral: Llama's shape, and layers that look back over a window (arXiv 2310.06825); later models have none.

In GGUF it is a "llama", which llama.cpp runs without any window: a windowed Mistral cannot be said there.
"""

from __future__ import annotations

from hornbook.checkpoint import hugging_face
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import Implied, Key, Part

# Without the key it has 8 key heads, and with a null in it one for each head.
KV_HEADS: tuple[Part, ...] = (
    Key("num_key_value_heads", "kv_heads", int, 8, null=True),
    Implied("kv_heads", lambda fields: fields["heads"] if fields["kv_heads"] is None else fields["kv_heads"]),
)
HUGGING_FACE = Family(
    "mistral", (*hugging_face.decoder(131_072), *KV_HEADS, hugging_face.Window(usual=4096)), hugging_face.DECODER,
    heads=hugging_face.decoder_heads("Mistral"), prefix="model", unused=hugging_face.UNUSED, twin="llama",
)  # fmt: skip
