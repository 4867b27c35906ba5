"""BERT and the sentence encoders made of it, MiniLM among them: post-LayerNorm, learned positions, token types.

Source: arXiv 1810.04805. GGUF has the encoder, with or without a head that scores a whole text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, choose, read_key
from hornbook.checkpoint.rules import Behind, Map, Table, TensorSource, override, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import Classifier, ModelConfig

SIZES = (
    Key("vocab_size", "vocab_size", int),
    Key("hidden_size", "width", int),
    Key("intermediate_size", "feedforward_width", int),
    Key("num_hidden_layers", "layers", int),
    Key("num_attention_heads", "heads", int),
    Key("type_vocab_size", "token_types", int, 2),
    Key("layer_norm_eps", "norm_epsilon", float, 1e-12),
    Key("hidden_dropout_prob", "dropout", float, 0.1),
    Key("attention_probs_dropout_prob", "attention_dropout", float, 0.1),
)
KEYS = (*SIZES, Key("max_position_embeddings", "context_length", int, 512))
SHAPE: dict[str, Any] = {
    "causal": False,
    "positions": "learned",
    "embedding_norm": True,
    "norm": "layer",
    "norm_placement": "post",
    "qkv_bias": True,
    "attention_output_bias": True,
    "gated": False,
    "feedforward_bias": True,
    "tied_head": True,
}
BARE: dict[str, Any] = {
    "language_head": False,
    "head_transform": False,
    "head_bias": False,
    "next_sentence": False,
    "classifier": None,
}
MASKED = BARE | {"language_head": True, "head_transform": True, "head_bias": True}
ENCODER = table(
    {
        "embed.tokens": ".embeddings.word_embeddings",
        "embed.positions": ".embeddings.position_embeddings",
        "embed.types": ".embeddings.token_type_embeddings",
        "embed.norm": ".embeddings.LayerNorm",
        "blocks.{i}.attention.query": ".encoder.layer.{i}.attention.self.query",
        "blocks.{i}.attention.key": ".encoder.layer.{i}.attention.self.key",
        "blocks.{i}.attention.value": ".encoder.layer.{i}.attention.self.value",
        "blocks.{i}.attention.output": ".encoder.layer.{i}.attention.output.dense",
        "blocks.{i}.attention_post_norm": ".encoder.layer.{i}.attention.output.LayerNorm",
        "blocks.{i}.feedforward.up": ".encoder.layer.{i}.intermediate.dense",
        "blocks.{i}.feedforward.down": ".encoder.layer.{i}.output.dense",
        "blocks.{i}.feedforward_post_norm": ".encoder.layer.{i}.output.LayerNorm",
        "pooler.dense": ".pooler.dense",
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
        "head.bias": "cls.predictions.bias",
        "next_sentence": "cls.seq_relationship",
        "classifier.linear": "classifier",
    }
)
IN_GGUF = override(
    ggml.DECODER,
    *table(
        {
            "embed.norm": "token_embd_norm",
            "embed.types": "token_types",
            "blocks.{i}.attention_post_norm": "blk.{i}.attn_output_norm",
            "blocks.{i}.feedforward_post_norm": "blk.{i}.layer_output_norm",
            "pooler.dense": "cls",
            "classifier.linear": "cls.output",
        }
    ),
    Map(("embed.positions",), ("position_embd",), lambda config: Behind(config.position_offset)),
)
RANK = 4  # llama.cpp's pooling that scores a text, as a reranker does


def heads(stem: str) -> dict[str, dict[str, Any]]:
    """The classes that transformers has for an encoder. The bare one's pooler is there or not, as its tensors say."""
    return {
        f"{stem}Model": BARE,
        f"{stem}ForMaskedLM": MASKED | {"pooler": False},
        f"{stem}ForSequenceClassification": BARE | {"pooler": True, "classifier": Classifier("sequence", ())},
        f"{stem}ForTokenClassification": BARE | {"pooler": False, "classifier": Classifier("tokens", ())},
        f"{stem}ForQuestionAnswering": BARE | {"pooler": False, "classifier": Classifier("span", ())},
    }


def pretraining_heads(stem: str) -> dict[str, dict[str, Any]]:
    return {f"{stem}ForPreTraining": MASKED | {"pooler": True, "next_sentence": True}}


def spans(maps: Table, config: ModelConfig) -> Table:
    """``maps``, the classifier by the name that it has where it marks a span."""
    if config.classifier is None or config.classifier.over != "span":
        return maps
    return override(maps, Map(("classifier.linear",), ("qa_outputs",)))


def read_encoder(
    raw: Mapping[str, Any], source: TensorSource, fields: Fields, *, head: str, pooler: str, activation: str = "gelu"
) -> Fields:
    """What is alike in all that descend from BERT. ``head``: how the names of their language head begin, ``pooler``: how
    the name of their pooler's weight ends. A masked language model saved without its head is a bare one.
    """
    for key, usual in (("position_embedding_type", "absolute"), ("is_decoder", False), ("add_cross_attention", False)):
        if raw.get(key, usual) not in (usual, None):
            raise UnsupportedModel(f"{key} is {raw[key]!r:.60}", f"Take an encoder where it is {usual!r}.")
    if raw.get("pruned_heads"):
        raise UnsupportedModel("attention heads were pruned (pruned_heads)", "Take the model with all of its heads.")
    found: Fields = {
        "kv_heads": fields["heads"],
        "head_width": hugging_face.read_head_width(fields),
        "activation": hugging_face.read_activation(raw, "hidden_act", activation),
    }
    bare = "pooler" not in fields
    if fields["language_head"] and not any(name.startswith(head) for name in source.tensors):
        found |= BARE
        bare = True
    elif fields["language_head"] and not read_key(raw, "tie_word_embeddings", bool, True):
        raise UnsupportedModel(
            "the language head has a table of its own (tie_word_embeddings is false)",
            "Take a model whose head is tied.",
        )
    if bare:
        found["pooler"] = any(name.endswith(pooler) for name in source.tensors)
    return found


def write_encoder(config: ModelConfig) -> dict[str, Any]:
    return {"hidden_act": hugging_face.write_activation(config.activation)}


# ------------------------------------------------------------------------------------------------------------ BERT


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    return read_encoder(raw, source, fields, head="cls.predictions.", pooler="pooler.dense.weight")


def read_gguf(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    pooling = read_key(raw, "bert.pooling_type", int, 0)
    found = ggml.read_sizes(raw, source, fields, "bert")
    found |= {"token_types": ggml.rows(source, "token_types.weight"), "activation": "gelu"}
    if pooling != RANK:
        return found | {"pooling": choose(ggml.POOLING, pooling, "the pooling (bert.pooling_type)")}
    unnamed = [f"LABEL_{i}" for i in range(ggml.rows(source, "cls.output.weight"))]
    labels = raw.get("bert.classifier.output_labels") or unnamed
    pooler, bias = "cls.weight" in source.tensors, "cls.output.bias" in source.tensors
    head = Classifier("sequence", tuple(map(str, labels)), bias, "pooler" if pooler else "first")
    return found | {"pooler": pooler, "classifier": head}


def write_gguf(config: ModelConfig) -> dict[str, Any]:
    pooling = next(number for number, how in ggml.POOLING.items() if how == config.pooling)
    labels = () if config.classifier is None else config.classifier.labels
    return {
        **ggml.write_sizes(config, "bert"),
        "bert.attention.causal": False,
        "bert.pooling_type": RANK if labels else pooling,
        "tokenizer.ggml.token_type_count": config.token_types,
        **({"bert.classifier.output_labels": list(labels)} if labels else {}),
    }


def twin(config: ModelConfig) -> str | None:
    """GGUF has the encoder and a head over a whole text, nothing of what pre-trains it or speaks of each token."""
    other = config.classifier is not None and config.classifier.over != "sequence"
    return None if config.language_head or config.next_sentence or other else "bert"


# The first releases call a norm's weight and bias gamma and beta.
GAMMA = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
HUGGING_FACE = Family(
    "bert",
    KEYS,
    lambda config: spans(ENCODER, config),
    SHAPE,
    read=read,
    write=write_encoder,
    heads=heads("Bert")
    | pretraining_heads("Bert")
    | {"BertForNextSentencePrediction": BARE | {"pooler": True, "next_sentence": True}},
    prefix="bert",
    unused=(r"embeddings\.position_ids", r"pooler\..*", r"cls\..*"),
    aliases=GAMMA,
    twin=twin,
)
GGUF = Family(
    "bert", ggml.keys("bert", ggml.LAYER), IN_GGUF, SHAPE | BARE, read=read_gguf, write=write_gguf, twin="bert"
)
