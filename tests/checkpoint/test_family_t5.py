"""T5 1.0, 1.1 and mT5: the numbers of transformers and of llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from family_parity import CLOSE, relative
from reference_llama_cpp import llama_cpp
from reference_models import file_tensors, save_gguf
from safetensors.torch import load_file, save_file
from seq2seq_parity import assert_weights, check_cached, check_parity, check_saved
from torch import nn

from hornbook.checkpoint import families, load
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.loading import build
from hornbook.checkpoint.saving import Shapes, save_model
from hornbook.errors import UnsupportedModel
from hornbook.model.config import Relative
from hornbook.model.positions import bucket
from seq2seq_models import T5_1_1, VOCAB, loaded, ragged, t5

MT5 = {"model": "MT5ForConditionalGeneration", "feed_forward_proj": "gated-gelu"}
CASES: dict[str, dict[str, Any]] = {
    "1.0": {"num_layers": 2, "num_decoder_layers": 4},
    "1.1, tied": T5_1_1 | {"apart": False},
    "mT5, tied": MT5,
    "gelu": {"feed_forward_proj": "gelu", "relative_attention_num_buckets": 6, "relative_attention_max_distance": 9},
}
APART = {"1.1": T5_1_1, "mT5": MT5 | {"apart": True}}
every = pytest.mark.parametrize("changes", (CASES | APART).values(), ids=CASES | APART)


@every
def test_states_and_logits_are_those_of_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    check_parity(t5(**changes), tmp_path)


@every
def test_forty_cached_steps_equal_one_pass(changes: dict[str, Any], tmp_path: Path) -> None:
    check_cached(t5(**changes), tmp_path)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_what_is_saved_is_read_by_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    check_saved(t5(**changes), tmp_path)


@pytest.mark.parametrize("changes", APART.values(), ids=APART)
def test_a_head_of_its_own_is_saved_too(changes: dict[str, Any], tmp_path: Path) -> None:
    """transformers warns of every such head, its own files' included, and then reads it."""
    check_saved(t5(**changes), tmp_path, warning="both are present in the checkpoints with different values")


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20), (32, 64), (6, 9), (64, 1000)])
def test_buckets_are_those_of_transformers(buckets: int, distance: int, both_ways: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    places = torch.arange(-3000, 3001)
    expected = T5Attention._relative_position_bucket(places, both_ways, buckets, distance)
    assert torch.equal(bucket(places, Relative(buckets, distance), causal=not both_ways), expected)


def test_an_old_file_that_holds_copies_is_read(tmp_path: Path) -> None:
    expected = loaded(t5(), tmp_path).model
    tensors = load_file(tmp_path / "model.safetensors")
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = tensors["shared.weight"].clone()
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 4)
    save_file(tensors, tmp_path / "model.safetensors")
    rewrite(tmp_path, architectures=["T5WithLMHeadModel"], tie_word_embeddings=None, scale_decoder_outputs=None)
    again = load(tmp_path, device="cpu")
    assert_weights(again.model, expected)
    assert again.config == expected.config
    tensors["encoder.embed_tokens.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match="encoder.embed_tokens.weight is not a copy of shared.weight"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize("kept", [["decoder"], ["encoder"], ["encoder", "decoder"]], ids="+".join)
def test_the_table_may_stand_under_any_of_its_names(kept: list[str], tmp_path: Path) -> None:
    expected = loaded(t5(), tmp_path).model
    tensors = load_file(tmp_path / "model.safetensors")
    table = tensors.pop("shared.weight")
    tensors |= {f"{part}.embed_tokens.weight": table.clone() for part in kept}
    save_file(tensors, tmp_path / "model.safetensors")
    assert_weights(load(tmp_path, device="cpu").model, expected)


def rewrite(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in (raw | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "umt5"}, "umt5"),
        ({"dense_act_fn": "silu"}, "dense_act_fn"),
        ({"feed_forward_proj": "mish", "dense_act_fn": "mish"}, "mish"),
        ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    loaded(t5(), tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(UnsupportedModel, match=message):
        load(tmp_path, device="cpu")


# ------------------------------------------------------------------------------------------------------------- GGUF

IN_GGUF = {"relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "d_model": 64, "d_ff": 96}
IN_GGUF |= {"d_kv": 16}
GGUFS: dict[str, dict[str, Any]] = {
    "1.0": IN_GGUF | {"num_layers": 2, "num_decoder_layers": 4},
    "1.1": IN_GGUF | T5_1_1,
    "mT5": IN_GGUF | MT5 | {"apart": True},
}


def as_gguf(reference: nn.Module, folder: Path) -> tuple[Path, Any]:
    checkpoint = loaded(reference, folder / "theirs")
    family = families.GGUF["t5"]
    assert checkpoint.family.twin_of(checkpoint.config) == "t5"
    tensors = file_tensors(checkpoint.model, family)
    said = family.write_config(checkpoint.config, Shapes(tensors))
    said |= {"general.architecture": "t5", "tokenizer.ggml.model": "no_vocab"}
    return save_gguf(folder / "tiny.gguf", said, tensors), checkpoint


@pytest.mark.parametrize("changes", GGUFS.values(), ids=GGUFS)
def test_what_is_written_as_gguf_is_read_again(changes: dict[str, Any], tmp_path: Path) -> None:
    from gguf.constants import MODEL_ARCH, MODEL_TENSORS, TENSOR_NAMES

    path, checkpoint = as_gguf(t5(**changes), tmp_path)
    family = families.GGUF["t5"]
    known = {TENSOR_NAMES[tensor].replace("{bid}", "N") for tensor in MODEL_TENSORS[MODEL_ARCH.T5]}
    with GGUF.open(path) as file:
        config = family.read_config(file.metadata, file)
        again = build(config, family, file, torch.float32, torch.device("cpu"))
        for name in file.tensors:
            stem = ".".join("N" if part.isdigit() else part for part in name.removesuffix(".weight").split("."))
            assert stem in known, name
    assert_weights(again, checkpoint.model)
    assert config.encoder is not None and config.layers == checkpoint.config.layers
    save_model(again, tmp_path / "back", family=families.HUGGING_FACE["t5"])
    back = load(tmp_path / "back", device="cpu")
    assert_weights(back.model, again)
    source, target = ragged("right", (9,))[0], ragged("right", (12,), seed=6)[0]
    for model in (back.model, checkpoint.model):
        scores = model(target, memory=model.encode(source)).logits
        assert relative(scores, again(target, memory=again.encode(source)).logits) < CLOSE  # its epsilon is rounded


@pytest.mark.parametrize("name", GGUFS)
def test_llama_cpp_answers_alike(name: str, tmp_path: Path) -> None:
    """It reads no decoder that is deeper than its encoder, and does not scale the scores of T5 1.0."""
    path, checkpoint = as_gguf(t5(**GGUFS[name] | {"num_layers": 3, "num_decoder_layers": 2}), tmp_path)
    source, target = ragged("right", (13,))[0], ragged("right", (9,), seed=6)[0]
    (theirs,) = llama_cpp(path, [target[0].tolist()], VOCAB, source=source[0].tolist())
    model = checkpoint.model
    ours = model(target, memory=model.encode(source)).logits[0] / checkpoint.config.logit_scale
    error = relative(ours, theirs)
    print(f"\nGGUF t5, {name}: llama.cpp within {error:.1e}")
    assert error < 2e-2  # it multiplies in half precision
    assert (ours.argmax(-1) == theirs.argmax(-1)).float().mean() > 0.9


def test_gguf_has_no_words_for_another_distance(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="relative"):
        as_gguf(t5(), tmp_path)
