"""GPT-3's shape: GPT-2 with layers by turns dense and locally banded, in which a token sees a window of the last ones.

Source: arXiv 2005.14165, section 2.1, tables 2.1 and D.1; bands: arXiv 1904.10509. Its weights were never published:
the layout is that of GPT-Neo (model_type gpt_neo), which made the shape public, with scores that are not scaled and no
bias on queries, keys and values. GGUF has no such architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import gpt2
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import MULTI_HEAD, Also, Key, Part, choose, read_key
from hornbook.checkpoint.rules import TensorSource, layer, table
from hornbook.errors import ModelFileError
from hornbook.model.config import LayerKind, ModelConfig

KEYS: tuple[Part, ...] = (
    Key("vocab_size", "vocab_size", int), Key("max_position_embeddings", "context_length", int, 2048),
    Key("hidden_size", "width", int), Key("num_layers", "layers", int), Key("num_heads", "heads", int), *MULTI_HEAD,
    gpt2.inner("intermediate_size"), gpt2.ACTIVATION,
    Key("layer_norm_epsilon", "norm_epsilon", float, 1e-5), Key("tie_word_embeddings", "tied_head", bool, True),
    Key("resid_dropout", "dropout", float, 0.0), Also("embed_dropout", "dropout"),
    Key("attention_dropout", "attention_dropout", float, 0.0),
)  # fmt: skip
SHAPE: dict[str, Any] = gpt2.SHAPE | {"qkv_bias": False, "query_scale": 1.0}
NAMES = gpt2.NAMES | layer(".h.{i}.attn.attention.", {
    "query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj",
}, "blocks.{i}.attention.")  # fmt: skip
DENSE, BANDED = "global", "local"

# layers, width, heads. Table 2.1 gives 24 heads of 128 for "1.3b" and a width of 5140 for "13b"; neither agrees with the
# numbers of parameters in table D.1, with which 16 heads and 5120 do.
SIZES = {
    "125m": (12, 768, 12), "350m": (24, 1024, 16), "760m": (24, 1536, 16), "1.3b": (24, 2048, 16),
    "2.7b": (32, 2560, 32), "6.7b": (32, 4096, 32), "13b": (40, 5120, 40), "175b": (96, 12288, 96),
}  # fmt: skip


def sized(size: str, *, vocab_size: int = 50257, context_length: int = 2048, window: int = 256) -> ModelConfig:
    """The configuration of one of the paper's eight sizes, to be trained from scratch and saved as GPT-Neo.

    The paper does not say how wide the bands are: ``window`` is GPT-Neo's. Raises UnsupportedModel for another size.
    """
    layers, width, heads = choose(SIZES, size.lower(), "the size of GPT-3")
    return ModelConfig(
        vocab_size, layers, width, heads, kv_heads=heads, head_width=width // heads, feedforward_width=4 * width,
        context_length=context_length, pattern=(LayerKind(), LayerKind(window)), activation="gelu_tanh", tied_head=True,
        **SHAPE,
    )  # fmt: skip


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    kinds = {DENSE: LayerKind(), BANDED: LayerKind(read_key(raw, "window_size", int, 256))}
    said = raw.get("attention_types") or [[[DENSE, BANDED], 12]]  # [[names, how often in turn], ...]
    names = raw.get("attention_layers")
    # Counted before they are written out: a damaged file may say any number.
    count = len(names) if names else sum(len(turn) * max(times, 0) for turn, times in said)
    if count != fields["layers"]:
        raise ModelFileError(
            f"attention_types or attention_layers is for {count} layers, the model has {fields['layers']}",
            "Fetch the model's config.json again.",
        )
    names = names or [name for turn, times in said for name in list(turn) * times]
    return {"pattern": tuple(choose(kinds, name, "the attention (attention_types)") for name in names)}


def write(config: ModelConfig) -> dict[str, Any]:
    names = [DENSE if config.kind(i).window is None else BANDED for i in range(config.layers)]
    windows = [kind.window for kind in config.pattern if kind.window is not None]
    return {
        "attention_types": [[[name], 1] for name in names],
        "attention_layers": names,
        "window_size": windows[0] if windows else 256,
    }


HUGGING_FACE = Family(
    "gpt_neo", KEYS, table(NAMES), SHAPE, read, write, gpt2.heads("GPTNeo"), prefix="transformer", unused=gpt2.UNUSED
)
