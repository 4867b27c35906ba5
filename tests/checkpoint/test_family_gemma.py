"""Gemma 1, 2 and 3: the numbers of transformers and of llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from family_parity import (
    SMALL,
    Case,
    answer_of,
    batch,
    loaded,
    read_by_transformers,
    reference_of,
    relative,
)
from reference_models import randomise
from safetensors.torch import load_file, save_file

from hornbook.checkpoint import families, load, save
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.model.config import ModelConfig

SAID = SMALL | {"num_key_value_heads": 2, "head_dim": 12, "pad_token_id": 0}
WINDOWS = SAID | {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8, "num_hidden_layers": 4}
SCALED = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
TYPES = [f"{kind}_attention" for kind in ("full", "sliding", "sliding", "full", "sliding", "full", "full")]


def gemma(name: str, generation: int, in_gguf: bool = True, **changes: object) -> Case:
    said = {1: SAID, 2: WINDOWS, 3: WINDOWS | {"num_hidden_layers": 8}}[generation]
    model = f"Gemma{generation if generation > 1 else ''}ForCausalLM"
    return Case(f"gemma {generation}, {name}", model, said | changes, in_gguf=in_gguf)


CASES = [
    gemma("grouped", 1),
    gemma("multi-query, own head, biases", 1, in_gguf=False, num_key_value_heads=1, tie_word_embeddings=False,
          attention_bias=True),
    gemma("grouped", 2),
    gemma("scores by another width", 2, in_gguf=False, query_pre_attn_scalar=12, num_key_value_heads=6),
    gemma("tighter caps, layers of its own", 2, in_gguf=False, attn_logit_softcapping=2.0, final_logit_softcapping=5.0,
          layer_types=TYPES[:4]),
    gemma("no caps", 2, in_gguf=False, attn_logit_softcapping=None, final_logit_softcapping=None),
    gemma("grouped", 3),
    gemma("one key head, soft-capped logits", 3, num_key_value_heads=1, final_logit_softcapping=5.0),
    gemma("layers of its own", 3, in_gguf=False, num_hidden_layers=7, layer_types=TYPES),
    gemma("scaled global layers, own head", 3, tie_word_embeddings=False, rope_parameters=SCALED),
]  # fmt: skip


def test_scores_by_a_width_that_gguf_cannot_say_are_not_written(tmp_path: Path) -> None:
    checkpoint = loaded(CASES[3], tmp_path)
    with pytest.raises(UnsupportedModel, match=r"as gemma2, which has no words for its query_scale \(0.28"):
        families.GGUF["gemma2"].write_config(checkpoint.config, Shapes({"token_embd.weight": torch.empty(97, 48)}))


@pytest.mark.parametrize(
    ("case", "changes", "said"),
    [
        (0, {"use_bidirectional_attention": True}, "reads in both directions"),
        (6, {"use_bidirectional_attention": True}, "reads in both directions"),
        (6, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        (6, {"hidden_activation": "swiglu"}, "activation"),
        (6, {"layer_types": ["full_attention"] * 7}, "layer_types has 7 entries .* for 8 layers"),
        (2, {"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(case: int, changes: dict[str, object], said: str) -> None:
    raw = reference_of(CASES[case]).config.to_dict() | changes
    with pytest.raises((UnsupportedModel, ModelFileError), match=said):
        families.HUGGING_FACE[raw["model_type"]].read_config(raw, Shapes({}))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"hidden_act": "gelu"}, "gelu_tanh"),  # the first files: the form by tanh is meant
        ({"hidden_act": "gelu", "hidden_activation": None}, "gelu_tanh"),
        ({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}, "gelu_tanh"),
        ({}, "gelu_tanh"),
        ({"hidden_act": "relu"}, "relu"),
    ],
)
def test_gemma_1_says_gelu_and_means_its_form_by_tanh(said: dict[str, object], meant: str) -> None:
    raw = reference_of(CASES[0]).config.to_dict()
    del raw["hidden_act"]
    assert families.HUGGING_FACE["gemma"].read_config(raw | said, Shapes({})).activation == meant


def test_the_keys_of_the_first_gemma_3_files_say_the_same(tmp_path: Path) -> None:
    checkpoint = loaded(CASES[6], tmp_path)
    raw = {k: v for k, v in checkpoint.metadata.items() if k not in ("rope_parameters", "layer_types")}
    older = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None, "sliding_window_pattern": 6}
    assert checkpoint.family.read_config(raw | older, Shapes({})) == checkpoint.config


@pytest.mark.parametrize("none", [0, 0.0, None])
@pytest.mark.parametrize("case", [2, 6])
def test_a_soft_cap_of_nothing_is_none(case: int, none: float | None) -> None:
    caps = {"attn_logit_softcapping": none, "final_logit_softcapping": none}
    raw = reference_of(CASES[case]).config.to_dict() | caps
    family = families.HUGGING_FACE[raw["model_type"]]
    config = family.read_config(raw, Shapes({}))
    assert config.attention_softcap is None and config.logit_softcap is None
    assert family.read_config(raw | family.write_config(config, Shapes({})), Shapes({})) == config


OUTER = {"rope_theta": 7e5, "rope_local_base_freq": 9e3}
DEFAULT = {"rope_type": "default"}
LINEAR = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    "said",
    [
        {},
        OUTER | {"rope_scaling": LINEAR},
        OUTER | {"rope_parameters": {"full_attention": DEFAULT, "sliding_attention": DEFAULT}},
        OUTER | {"rope_parameters": SCALED},
        OUTER | {"rope_parameters": {"full_attention": DEFAULT}, "rope_scaling": LINEAR},
        {"rope_parameters": SCALED, "rope_scaling": {"factor": 4.0}},
        {"rope_parameters": {"sliding_attention": LINEAR}, "rope_theta": 7e5},
    ],
)
def test_keys_beside_the_rope_parameters_of_gemma_3_count_as_in_transformers(said: dict[str, object]) -> None:
    from transformers import Gemma3TextConfig

    family = families.HUGGING_FACE["gemma3_text"]
    theirs = Gemma3TextConfig.from_dict(WINDOWS | {"num_hidden_layers": 8} | json.loads(json.dumps(said))).to_dict()
    raw = {key: value for key, value in theirs.items() if key != "rope_parameters"}
    assert family.read_config(raw | said, Shapes({})) == family.read_config(theirs, Shapes({}))


SEEING = WINDOWS | {"num_hidden_layers": 7, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 8}
SAID_OF_THE_TEXT = ("hidden_size", "intermediate_size", "num_hidden_layers", "sliding_window", "model_type")
SAID_OF_THE_TEXT += ("vocab_size", "query_pre_attn_scalar")


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_of_a_gemma_that_sees_the_text_part_is_loaded(prefix: str, tmp_path: Path) -> None:
    """As published: sizes that are the usual ones are left out, and tensors have one of two spellings."""
    from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration

    config = Gemma3Config(
        text_config=dict(SEEING), vision_config=VISION, mm_tokens_per_image=4, attn_implementation="eager"
    )
    reference = randomise(Gemma3ForConditionalGeneration(config))
    reference.save_pretrained(tmp_path / "theirs")
    raw = json.loads((tmp_path / "theirs/config.json").read_text())
    raw["text_config"] = {key: raw["text_config"][key] for key in SAID_OF_THE_TEXT}
    (tmp_path / "theirs/config.json").write_text(json.dumps(raw))
    weights = load_file(tmp_path / "theirs/model.safetensors")
    weights = {
        name.replace("language_model.model.", prefix)
        if "language" in name
        else name
        if prefix.startswith("language")
        else f"model.{name}": tensor
        for name, tensor in weights.items()
    }
    save_file(weights, tmp_path / "theirs/model.safetensors", {"format": "pt"})

    checkpoint = load(tmp_path / "theirs", device="cpu")
    ids, mask = batch(97)
    found = checkpoint.model(ids, mask=mask).logits[mask]
    expected = answer_of(reference.model.language_model, ids, mask).last_hidden_state @ reference.lm_head.weight.T
    assert relative(found, expected[mask]) < 1e-5
    save(checkpoint, tmp_path / "ours")
    back = read_by_transformers(Gemma3ForCausalLM(reference.config.text_config), tmp_path / "ours")
    assert relative(answer_of(back, ids, mask).logits[mask], expected[mask]) < 1e-6


def test_a_gemma_that_sees_and_does_not_describe_its_text_part_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gemma3", "text_config": 3}')
    with pytest.raises(ModelFileError, match="config.json has no text_config"):
        load(tmp_path)


def of_gguf(arch: str, layers: int = 3, **said: object) -> ModelConfig:
    sizes = {"embedding_length": 48, "feed_forward_length": 80, "context_length": 256, "attention.head_count": 6}
    sizes |= {"attention.key_length": 12, "attention.value_length": 12, "attention.sliding_window": 5}
    raw: dict[str, object] = {f"{arch}.{key}": value for key, value in (sizes | {"block_count": layers}).items()}
    raw |= {f"{arch}.attention.layer_norm_rms_epsilon": 1e-6}
    raw |= {f"{arch}.{key}": value for key, value in said.items()}
    return families.GGUF[arch].read_config(raw, Shapes({"token_embd.weight": torch.empty(97, 48)}))


@pytest.mark.parametrize(("arch", "layers", "largest"), [("gemma2", 26, 46), ("gemma3", 34, 62)])
def test_the_largest_gemmas_scale_scores_by_width_per_head_which_gguf_leaves_unsaid(
    arch: str, layers: int, largest: int
) -> None:
    for count, width in ((layers, 12), (largest, 48 / 6)):
        config = of_gguf(arch, count)
        assert config.query_scale == width**-0.5
        assert [config.kind(i).window for i in range(6)] == ([5, None] * 3 if arch == "gemma2" else [5] * 5 + [None])
    assert of_gguf(arch, final_logit_softcapping=0.0, attn_logit_softcapping=0.0).logit_softcap is None


PATTERN = "attention.sliding_window_pattern"


@pytest.mark.parametrize("said", [[False, True, True], np.array([False, True, True])])
def test_gguf_may_say_of_each_layer_whether_it_is_local(said: object) -> None:
    config = of_gguf("gemma3", **{PATTERN: said})
    assert [config.kind(i).window for i in range(3)] == [None, 5, 5]
    assert [of_gguf("gemma3", **{PATTERN: 2}).kind(i).window for i in range(3)] == [5, None, 5]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ([True, False], "has 2 entries, 2 of them true or false, for 3 layers"),
        (np.array([1, 0, 1], dtype=np.int32), "has 3 entries, 0 of them true or false, for 3 layers"),
        ([True, "no", None], "has 3 entries, 1 of them true or false, for 3 layers"),
        (True, "has 0 entries"),
        (0, "sliding_window_pattern is 0"),
        (-6, "sliding_window_pattern is -6"),
    ],
)
def test_a_pattern_of_windows_that_does_not_fit_the_layers_is_refused_with_both_numbers(
    said: object, named: str
) -> None:
    with pytest.raises(ModelFileError, match=named):
        of_gguf("gemma3", **{PATTERN: said})
