"""Mixtral: a Mistral whose every feed-forward is a mixture; a router picks two experts of eight for each token.

Source: arXiv 2401.04088. In GGUF it is a "llama" with experts (see llama.py), all of a layer's in one tensor or, in the
first files, each in its own.
"""

from __future__ import annotations

from hornbook.checkpoint import hugging_face
from hornbook.checkpoint.families import mistral
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import Implied, Key
from hornbook.checkpoint.rules import Map, override

EXPERTS = (
    Key("num_local_experts", "count", int, 8),
    Key("num_experts_per_tok", "top", int, 2),
    Implied("width", lambda fields: fields["feedforward_width"]),
)
KEYS = (
    *hugging_face.decoder(131_072, 1e-5), *mistral.KV_HEADS,
    hugging_face.Window(usual=None), hugging_face.Mixture(EXPERTS),
)  # fmt: skip
MIXTURE = ".layers.{i}.block_sparse_moe"
MAPS = override(
    hugging_face.DECODER,
    Map(("blocks.{i}.feedforward.router",), (f"{MIXTURE}.gate",)),
    *hugging_face.experts(f"{MIXTURE}.experts.{{e}}.", gate="w1", up="w3", down="w2"),
)
HUGGING_FACE = Family(
    "mixtral", KEYS, MAPS, heads=hugging_face.decoder_heads("Mixtral"), prefix="model", unused=hugging_face.UNUSED,
    twin="llama",
)  # fmt: skip
