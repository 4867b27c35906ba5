"""A model with random weights and its tokenizer, of the size and form that a recipe says.

data --kind, size--> tokenizer, kept in RUN/tokenizer         architecture, vocabulary --family--> Transformer
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hornbook.errors import UsageError
from hornbook.recipes.config import Recipe
from hornbook.recipes.job import Place
from hornbook.recipes.kinds import Architecture, New

if TYPE_CHECKING:
    from hornbook.checkpoint.family import Family
    from hornbook.model.config import ModelConfig
    from hornbook.model.transformer import Transformer
    from hornbook.text.tokenizer import Tokenizer

FamilyName = Literal["llama", "gpt2", "bert", "t5"]


class Preset(NamedTuple):
    layers: int
    width: int
    heads: int


PRESETS = {
    "tiny": Preset(2, 64, 2),
    "nano": Preset(4, 128, 4),
    "small": Preset(6, 384, 6),
    "base": Preset(12, 768, 12),
}
TOKENIZERS: dict[str, Literal["bpe", "wordpiece", "unigram"]] = {
    "llama": "bpe",
    "gpt2": "bpe",
    "bert": "wordpiece",
    "t5": "unigram",
}


def config_of(family: FamilyName, shape: Architecture, context: int, vocabulary: int) -> ModelConfig:
    """What the recipe's architecture is in numbers. Raises UsageError for a width that the heads do not divide."""
    from hornbook.model.config import LayerKind, ModelConfig, Relative, Rotary

    preset = PRESETS[shape.preset]
    layers, width, heads = shape.layers or preset.layers, shape.width or preset.width, shape.heads or preset.heads
    if width % heads or (family == "llama" and width // heads % 2):
        raise UsageError(
            f"a width of {width} cannot be divided among {heads} heads", f"Take a multiple of {2 * heads}."
        )
    if shape.kv_heads is not None and (family != "llama" or heads % shape.kv_heads):
        raise UsageError(f"{heads} heads of a {family} cannot share {shape.kv_heads} kv_heads", "Leave kv_heads out.")
    gated = family == "llama"
    inner = shape.feedforward or (-(-8 * width // (3 * 16)) * 16 if gated else 4 * width)
    common: dict[str, Any] = {
        **{"vocab_size": vocabulary, "layers": layers, "width": width, "heads": heads, "head_width": width // heads},
        **{"kv_heads": shape.kv_heads or heads, "feedforward_width": inner, "context_length": context},
        **{"dropout": shape.dropout, "tied_head": True},
    }
    if family == "llama":  # dropout is no part of that form
        return ModelConfig(**common | {"dropout": 0.0, "pattern": (LayerKind(rotary=Rotary()),)})
    plain = {"norm": "layer", "gated": False, "feedforward_bias": True, "positions": "learned"}
    biased = plain | {"qkv_bias": True, "attention_output_bias": True}
    if family == "gpt2":
        return ModelConfig(**common | biased | {"activation": "gelu_tanh"})
    if family == "bert":
        masked = {"causal": False, "embedding_norm": True, "norm_placement": "post", "norm_epsilon": 1e-12}
        heads_of = {"head_transform": True, "head_bias": True, "token_types": 2, "activation": "gelu"}
        return ModelConfig(**common | biased | masked | heads_of)
    t5 = common | {
        "gated": False,
        "activation": "relu",
        "query_scale": 1.0,
        "relative": Relative(),
        "norm_epsilon": 1e-6,
    }
    encoder = ModelConfig(**t5 | {"causal": False, "language_head": False, "tied_head": False})
    return ModelConfig(**t5 | {"encoder": encoder, "shared_tokens": True, "logit_scale": width**-0.5})


def build(config: ModelConfig, seed: int, device: str) -> Transformer:
    """Weights as `hornbook.train.initialise` draws them."""
    import torch

    from hornbook.checkpoint.loading import pick_device
    from hornbook.model.transformer import Transformer
    from hornbook.train.initialise import initialise

    model = Transformer(config)
    initialise(model, generator=torch.Generator().manual_seed(seed))
    return model.to(pick_device(device))


def family_of(name: FamilyName) -> Family:
    from hornbook.checkpoint import families

    return families.HUGGING_FACE[name]


def tokenizer_for(recipe: New, family: FamilyName, place: Place) -> Tokenizer:
    """The one that the recipe takes, or that is trained on its data once and then found in the run's folder."""
    from hornbook.recipes.sets import Reader
    from hornbook.text import train_tokenizer

    said = recipe.tokenizer
    if said.model is not None:
        return taken(said.model, place)
    kind = said.kind or TOKENIZERS[family]
    reader = Reader(recipe)
    place.say(f"  a {kind} tokenizer of at most {said.size:,} tokens is trained on the data, once")
    return kept(
        recipe,
        place,
        [kind, str(said.size), family],
        lambda: train_tokenizer.train(_texts(reader), kind=kind, size=said.size, roles=family),
    )


def kept(recipe: Recipe, place: Place, said: list[str], make: Callable[[], Tokenizer]) -> Tokenizer:
    """The run's tokenizer, made where its folder has none for this data and what was ``said``."""
    from hornbook.data.read import files
    from hornbook.data.table import fingerprint
    from hornbook.recipes.sets import Reader
    from hornbook.text.tokenizer import Tokenizer

    folder = place.folder / "tokenizer"
    paths = [path for source in Reader(recipe).train for path in files(source)]
    made_of = fingerprint(paths, json.dumps([*said, recipe.data.model_dump(mode="json"), recipe.training.seed]))
    if _made_of(folder) != made_of:
        folder.mkdir(parents=True, exist_ok=True)
        make().save(folder)
        (folder / "made-of").write_text(made_of, "utf-8")
    return Tokenizer.from_folder(folder)


def taken(name: str, place: Place) -> Tokenizer:
    """The tokenizer of a model that there is."""
    from hornbook.checkpoint.gguf import GGUF
    from hornbook.checkpoint.store import Store
    from hornbook.text.tokenizer import Tokenizer

    path = Store(place.settings).ensure(name).path
    if path.is_dir():
        return Tokenizer.from_folder(path)
    with GGUF.open(path) as file:
        return Tokenizer.from_gguf(file.metadata)


def _made_of(folder: Path) -> str:
    try:
        return (folder / "made-of").read_text("utf-8")
    except OSError:
        return ""


def _texts(reader: Any) -> Iterator[str]:
    """All that is learnt from, as texts."""
    from hornbook.data.example import Conversation, Labelled, Pair, Text

    for example in reader.learnt():
        match example:
            case Text(text=text):
                yield text
            case Pair(source=source, target=target):
                yield source
                yield target
            case Labelled(text=text, second=second):
                yield text
                if second is not None:
                    yield second
            case Conversation(messages=messages):
                yield from (message.content for message in messages)
