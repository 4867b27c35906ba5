"""BERT and the sentence encoders made of it, MiniLM among them: post-LayerNorm, learned positions, token types.

Source: arXiv 1810.04805. GGUF has the encoder, with or without a head that scores a whole text. RoBERTa and ALBERT are
read as changes of this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint import ggml, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import MULTI_HEAD, Also, Key, Only, Part, Rows, Words, choose, read_key
from hornbook.checkpoint.rules import Behind, Map, Table, TensorSource, layer, override, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import Classifier, ModelConfig


def keys(dropout: float = 0.1, activation: str = "gelu", words: Words = hugging_face.ACTIVATION) -> tuple[Part, ...]:
    """What all that descend from BERT say; given are the values of a file that does not."""
    return (
        Key("vocab_size", "vocab_size", int), Key("max_position_embeddings", "context_length", int, 512),
        Key("hidden_size", "width", int), Key("intermediate_size", "feedforward_width", int),
        Key("num_hidden_layers", "layers", int), Key("num_attention_heads", "heads", int), *MULTI_HEAD,
        Key("type_vocab_size", "token_types", int, 2), Key("layer_norm_eps", "norm_epsilon", float, 1e-12),
        Key("hidden_act", "activation", words, activation), Key("hidden_dropout_prob", "dropout", float, dropout),
        Key("attention_probs_dropout_prob", "attention_dropout", float, dropout),
        Only("position_embedding_type", "absolute", "has other positions than a table of them"),
        Only("is_decoder", False, "is a decoder"), Only("add_cross_attention", False, "looks at an encoder's states"),
        Only("pruned_heads", {}, "is not whole: some of its attention heads were pruned"),
    )  # fmt: skip


SHAPE: dict[str, Any] = {
    "causal": False, "positions": "learned", "embedding_norm": True, "norm": "layer", "norm_placement": "post",
    "qkv_bias": True, "attention_output_bias": True, "gated": False, "feedforward_bias": True, "tied_head": True,
}  # fmt: skip
NAMES = {
    "embed.tokens": ".embeddings.word_embeddings", "embed.positions": ".embeddings.position_embeddings",
    "embed.types": ".embeddings.token_type_embeddings", "embed.norm": ".embeddings.LayerNorm",
    **layer(".encoder.layer.{i}.", {
        "attention.query": "attention.self.query", "attention.key": "attention.self.key",
        "attention.value": "attention.self.value", "attention.output": "attention.output.dense",
        "attention_post_norm": "attention.output.LayerNorm", "feedforward.up": "intermediate.dense",
        "feedforward.down": "output.dense", "feedforward_post_norm": "output.LayerNorm",
    }),
    "pooler.dense": ".pooler.dense", "head.dense": "cls.predictions.transform.dense",
    "head.norm": "cls.predictions.transform.LayerNorm", "head.bias": "cls.predictions.bias",
    "next_sentence": "cls.seq_relationship", "classifier.linear": "classifier",
}  # fmt: skip


def maps(config: ModelConfig, names: Mapping[str, str] = NAMES) -> Table:
    """``names``, the classifier by the one that it has where it marks a span."""
    span = config.classifier is not None and config.classifier.over == "span"
    return table({**names, "classifier.linear": "qa_outputs"} if span else names)


# ----------------------------------------------------------------------------------------------------------- heads

BARE: dict[str, Any] = {
    "language_head": False, "head_transform": False, "head_bias": False, "next_sentence": False, "classifier": None,
}  # fmt: skip
MASKED = BARE | {"language_head": True, "head_transform": True, "head_bias": True}
PAIRED = {"pooler": True, "next_sentence": True}


def heads(stem: str) -> dict[str, dict[str, Any]]:
    """The classes that transformers has for an encoder. The bare one's pooler is there or not, as its tensors say."""
    return {
        f"{stem}Model": BARE,
        f"{stem}ForMaskedLM": MASKED | {"pooler": False},
        f"{stem}ForSequenceClassification": BARE | {"pooler": True, "classifier": Classifier("sequence", ())},
        f"{stem}ForTokenClassification": BARE | {"pooler": False, "classifier": Classifier("tokens", ())},
        f"{stem}ForQuestionAnswering": BARE | {"pooler": False, "classifier": Classifier("span", ())},
    }


def read(
    raw: Mapping[str, Any], source: TensorSource, fields: Fields, *,
    head: str = "cls.predictions.", pooler: str = "pooler.dense.weight",
) -> Fields:  # fmt: skip
    """What the tensors say: a masked language model saved without its head is a bare one. ``head``: how the names of a
    language head begin; ``pooler``: how the name of a pooler's weight ends."""
    headless = fields["language_head"] and not any(name.startswith(head) for name in source.tensors)
    if fields["language_head"] and not headless and not read_key(raw, "tie_word_embeddings", bool, True):
        raise UnsupportedModel(
            "the language head has a table of its own (tie_word_embeddings is false)",
            "Take a model whose head is tied.",
        )
    if headless or "pooler" not in fields:
        return (BARE if headless else {}) | {"pooler": any(name.endswith(pooler) for name in source.tensors)}
    return {}


def twin(config: ModelConfig) -> str | None:
    """GGUF has the encoder and a head over a whole text, nothing of what pre-trains it or speaks of each token."""
    other = config.classifier is not None and config.classifier.over != "sequence"
    return None if config.language_head or config.next_sentence or other else "bert"


# The first releases call a norm's weight and bias gamma and beta.
GAMMA = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
HUGGING_FACE = Family(
    "bert", keys(), maps, SHAPE, read,
    heads=heads("Bert") | {"BertForPreTraining": MASKED | PAIRED, "BertForNextSentencePrediction": BARE | PAIRED},
    prefix="bert", unused=(r"embeddings\.position_ids", r"pooler\..*", r"cls\..*"), aliases=GAMMA, twin=twin,
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------------ GGUF

RANK = 4  # llama.cpp's pooling that scores a text, as a reranker does
KEYS_GGUF: tuple[Part, ...] = (
    *ggml.sizes("bert", ggml.LAYER),
    Rows("token_types.weight", "token_types"),
    Also("tokenizer.ggml.token_type_count", "token_types"),
)
NAMES_GGUF = {
    "embed.norm": "token_embd_norm", "embed.types": "token_types", "pooler.dense": "cls",
    "classifier.linear": "cls.output", "blocks.{i}.attention_post_norm": "blk.{i}.attn_output_norm",
    "blocks.{i}.feedforward_post_norm": "blk.{i}.layer_output_norm",
}  # fmt: skip
POSITIONS = Map(("embed.positions",), ("position_embd",), lambda config: Behind(config.position_offset))


def read_gguf(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    if (pooling := read_key(raw, "bert.pooling_type", int, 0)) != RANK:
        return {"pooling": choose(ggml.POOLING, pooling, "the pooling (bert.pooling_type)")}
    count = Rows("cls.output.weight", "labels").read(raw, source, fields)["labels"]
    unnamed = [f"LABEL_{i}" for i in range(count)]
    labels = raw.get("bert.classifier.output_labels") or unnamed
    pooler, bias = "cls.weight" in source.tensors, "cls.output.bias" in source.tensors
    head = Classifier("sequence", tuple(map(str, labels)), bias, "pooler" if pooler else "first")
    return {"pooler": pooler, "classifier": head}


def write_gguf(config: ModelConfig) -> dict[str, Any]:
    pooling = next(number for number, how in ggml.POOLING.items() if how == config.pooling)
    labels = () if config.classifier is None else config.classifier.labels
    said = {"bert.classifier.output_labels": list(labels)} if labels else {}
    return {"bert.attention.causal": False, "bert.pooling_type": RANK if labels else pooling, **said}


GGUF = Family(
    "bert", KEYS_GGUF, override(ggml.DECODER, *table(NAMES_GGUF), POSITIONS), SHAPE | BARE | {"activation": "gelu"},
    read_gguf, write_gguf, twin="bert",
)  # fmt: skip
