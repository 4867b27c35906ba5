"""Parts of a configuration: what each reads, refuses by name, and writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hornbook.checkpoint.families import HUGGING_FACE
from hornbook.checkpoint.fields import MULTI_HEAD, Has, Implied, Key, Only, Part, Rows, Twice, Words, read_json
from hornbook.checkpoint.hugging_face import ACTIVATION, OLD_ACTIVATION, Window, Windows
from hornbook.checkpoint.parts import Encoder, Inner, Switch
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import HornbookError, ModelFileError, UnsupportedModel
from hornbook.model.config import LayerKind, ModelConfig, Relative

SIZES = {"vocab_size": 97, "layers": 4, "width": 48, "heads": 6, "kv_heads": 2, "head_width": 8}
SIZES |= {"feedforward_width": 80, "context_length": 64}
SOURCE = Shapes({"table": torch.empty(97, 48, device="meta")})


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**SIZES | changes)


def read(part: Part, raw: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return part.read(raw, SOURCE, SIZES | {"activation": "silu"} | fields)


OLDER = Key("num_hidden_layers", "layers", int, 32, older="n_layer")
NULL = Key("cap", "logit_softcap", float, 30.0, null=True)
DERIVED = Key("kv", "kv_heads", int, lambda fields: fields["heads"])
SCALED = Switch("scaled", "embedding_scale", lambda fields: float(fields["width"]), False)
BUCKETS = Inner("relative", Relative, (Key("buckets", "buckets", int), Implied("distance", lambda fields: 128)))
UNSCALED = Key("scaled", "query_scale", Words({True: None, False: 1.0}), True)


@pytest.mark.parametrize(
    ("part", "raw", "found"),
    [
        (OLDER, {"num_hidden_layers": 3, "n_layer": 5}, {"layers": 3}),
        (OLDER, {"num_hidden_layers": None, "n_layer": 5}, {"layers": 5}),
        (OLDER, {}, {"layers": 32}),
        (NULL, {"cap": None}, {"logit_softcap": None}),
        (NULL, {"cap": 5}, {"logit_softcap": 5.0}),
        (NULL, {}, {"logit_softcap": 30.0}),
        (DERIVED, {"kv": None}, {"kv_heads": 6}),
        (UNSCALED, {"scaled": False}, {"query_scale": 1.0}),
        (UNSCALED, {}, {"query_scale": None}),
        (Key("act", "activation", ACTIVATION, "silu"), {"act": "swish"}, {"activation": "silu"}),
        (Only("norms", False, "has norms"), {"norms": None}, {}),
        (Twice("second", "width"), {"second": 48}, {}),
        (Twice("second", "width"), {}, {}),
        (Twice("act", "activation", ACTIVATION), {"act": "swish"}, {}),
        (SCALED, {"scaled": True}, {"embedding_scale": 48.0}),
        (SCALED, {}, {"embedding_scale": 1.0}),
        (BUCKETS, {"buckets": 8}, {"relative": Relative(8, 128)}),
        (Rows("table", "vocab_size"), {}, {"vocab_size": 97}),
        (Has("table", "tied_head", there=False, absent=True), {}, {"tied_head": False}),
        (Has("output", "tied_head", there=False, absent=True), {}, {"tied_head": True}),
        (MULTI_HEAD[0], {}, {"kv_heads": 6}),
        (MULTI_HEAD[1], {}, {"head_width": 8}),
    ],
)
def test_what_a_part_reads(part: Part, raw: dict[str, Any], found: dict[str, Any]) -> None:
    assert read(part, raw) == found


@pytest.mark.parametrize(
    ("part", "raw", "error", "said"),
    [
        (Key("width", "width", int), {}, ModelFileError, "has no width"),
        (OLDER, {"n_layer": "x"}, ModelFileError, "n_layer of the model's configuration is 'x'"),
        (UNSCALED, {"scaled": "yes"}, ModelFileError, "not of type bool"),
        (Key("act", "activation", ACTIVATION), {"act": "mish"}, UnsupportedModel, r"activation \(act\) 'mish'"),
        (Only("norms", False, "has norms"), {"norms": True}, UnsupportedModel, r"has norms \(norms is True\)"),
        (Twice("second", "width"), {"second": 64}, UnsupportedModel, "width is 48, but its second 64"),
        (Twice("act", "activation", ACTIVATION), {"act": "relu"}, UnsupportedModel, "is silu, but its act relu"),
        (Encoder((OLDER,)), {"n_layer": 0}, ModelFileError, "layers is 0"),
        (Rows("output", "vocab_size"), {}, ModelFileError, "no tensor output"),
    ],
)
def test_what_a_part_refuses(part: Part, raw: dict[str, Any], error: type[HornbookError], said: str) -> None:
    with pytest.raises(error, match=said):
        read(part, raw)


def test_the_first_word_of_several_is_written() -> None:
    tanh = config(activation="gelu_tanh")
    assert Key("act", "activation", ACTIVATION).write(tanh) == {"act": "gelu_pytorch_tanh"}
    assert Key("act", "activation", OLD_ACTIVATION).write(tanh) == {"act": "gelu_new"}
    with pytest.raises(ValueError, match="no word for gelu_tanh"):
        Key("act", "activation", Words({"relu": "relu"})).write(tanh)


def test_an_encoder_is_like_its_decoder_but_for_what_is_said_of_it() -> None:
    part = Encoder((Key("encoder_layers", "layers", int),))
    found = read(part, {"encoder_layers": 2}, tied_head=True, logit_scale=0.5, norm="layer")["encoder"]
    assert found == config(layers=2, causal=False, language_head=False, norm="layer")
    assert part.write(config(encoder=found)) == {"encoder_layers": 2}
    for lacking in (part, BUCKETS):
        with pytest.raises(ValueError, match="it has no (encoder|relative)"):
            lacking.write(config())


TURNS = Windows(16, lambda i, raw: i % 2 == 0, switch="on")
NEAR, FAR = LayerKind(16), LayerKind()


@pytest.mark.parametrize(
    ("part", "raw", "pattern"),
    [
        (Window(16), {}, (NEAR,)),
        (Window(16), {"sliding_window": None}, (FAR,)),
        (TURNS, {"on": True}, (NEAR, FAR, NEAR, FAR)),
        (TURNS, {"on": True, "layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, (FAR, FAR, FAR, NEAR)),
        (TURNS, {"sliding_window": 8}, (FAR,) * 4),
    ],
)
def test_a_window_is_read_into_the_layers_that_have_it(
    part: Part, raw: dict[str, Any], pattern: tuple[LayerKind, ...]
) -> None:
    found = read(part, raw, pattern=(FAR,))["pattern"]
    assert found == pattern
    written = config(pattern=found)
    again = read(part, part.write(written), pattern=(FAR,))["pattern"]
    assert config(pattern=again) == written


def test_layers_that_differ_are_refused_where_all_have_one_window() -> None:
    types = ["full_attention", "sliding_attention"] * 2
    with pytest.raises(UnsupportedModel, match=r"layers of this model differ \(layer_types\)"):
        read(Window(16), {"layer_types": types}, pattern=(FAR,))


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 3, "id2label": {}}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "地名", "0": "人名"}}, ("人名", "地名")),
        ({"id2label": {0: "B", 1: "I"}, "num_labels": None}, ("B", "I")),
    ],
)
def test_labels_are_read_in_the_order_of_their_numbers(said: dict[str, Any], labels: tuple[str, ...]) -> None:
    assert label_names(said) == labels


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"num_labels": 0}, r"has 0 labels \(num_labels\)"),
        ({"num_labels": 1 << 40}, "has 1,099,511,627,776 labels"),
        ({"num_labels": "3"}, "num_labels .* is '3'"),
        ({"num_labels": 3.0}, "num_labels .* is 3.0"),
        ({"id2label": ["a", "b"]}, "id2label is .*, not an object"),
        ({"id2label": {"0": "a", "2": "b"}}, "no label for 1 of its 2"),
        ({"id2label": {"a": "0", "b": "1"}}, "no label for 0 of its 2"),
        ({"id2label": {"0": "a", "1": None}}, "the label None for 1 of its 2"),
        ({"id2label": {"0": 7}}, "the label 7 for 0 of its 1"),
    ],
)
def test_labels_that_are_no_texts_or_not_numbered_from_nothing_are_refused(said: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFileError, match=named):
        label_names(said)


def label_names(said: dict[str, Any]) -> tuple[str, ...]:
    sizes = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
    raw = sizes | {"num_attention_heads": 6, "architectures": ["LlamaForSequenceClassification"]} | said
    head = HUGGING_FACE["llama"].read_config(raw, SOURCE).classifier
    assert head is not None
    return head.labels


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, '{"a": 1', "[]", "\ud800"])
def test_a_file_that_is_no_object_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelFileError, match=r"config\.json (cannot be read|does not hold a JSON object)"):
        read_json(tmp_path / "config.json", dict)
