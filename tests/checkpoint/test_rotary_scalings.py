"""Every rotary scaling that a config.json may say: transformers' own frequencies and temperature, and whole models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from family_parity import SMALL, Case, check_cached, check_gguf, check_parity, check_rewritten, check_saved

from hornbook.checkpoint import ggml
from hornbook.checkpoint.hugging_face import read_rotary, write_rotary
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.model.config import LayerKind, ModelConfig, Rotary, RotaryScaling
from hornbook.model.positions import frequencies

CONTEXT, WIDTH = 64, 24
ORIGINAL = {"original_max_position_embeddings": 16}
FACTORS = {"short_factor": [1.0 + 0.1 * i for i in range(12)], "long_factor": [2.0 + 0.7 * i for i in range(12)]}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}
YARN = {"rope_type": "yarn", "factor": 4.0, **ORIGINAL}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.5},
    "yarn": YARN,
    "yarn of a long context": YARN | {"factor": 32.0, "original_max_position_embeddings": 4096},
    "yarn, between other turns": YARN | {"beta_fast": 2.0, "beta_slow": 0.5},
    "yarn, a temperature of its own": YARN | {"attention_factor": 0.83},
    "yarn, two scales": YARN | {"mscale": 0.707, "mscale_all_dim": 1.2},
    "yarn, equal scales": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
    "yarn that shrinks": YARN | {"factor": 0.5},
    "llama 3": LLAMA3,
    "llama 3, published": LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 8192},
    "longrope": {"rope_type": "longrope", **FACTORS, **ORIGINAL},
    "longrope, a factor of its own": {"rope_type": "longrope", "factor": 9.0, **FACTORS, **ORIGINAL},
    "longrope, a temperature of its own": {"rope_type": "longrope", "attention_factor": 1.5, **FACTORS, **ORIGINAL},
}


def reference(said: dict[str, Any], length: int) -> tuple[torch.Tensor, float]:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=4 * WIDTH, num_attention_heads=4, max_position_embeddings=CONTEXT, rope_parameters=dict(said)
    )
    if said["rope_type"] == "default":
        return LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    return ROPE_INIT_FUNCTIONS[said["rope_type"]](config, "cpu", seq_len=length)


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
@pytest.mark.parametrize("name", ["default", *SCALINGS])
def test_frequencies_and_temperature_are_those_of_transformers(name: str, base: float) -> None:
    said = SCALINGS.get(name, {"rope_type": "default"}) | {"rope_theta": base}
    rotary = read_rotary({"rope_parameters": said, "max_position_embeddings": CONTEXT}, 1.0)
    for length in (1, 16, 17, CONTEXT, CONTEXT + 1, 5 * CONTEXT):
        expected, magnitude = reference(said, length)
        torch.testing.assert_close(frequencies(rotary, WIDTH, length), expected, rtol=2e-6, atol=0)
        assert (rotary.scaling.magnitude if rotary.scaling else 1.0) == pytest.approx(magnitude, rel=1e-9)


@pytest.mark.parametrize("name", SCALINGS)
def test_what_is_written_is_read_again(name: str) -> None:
    outside = {"max_position_embeddings": CONTEXT}
    rotary = read_rotary({"rope_parameters": SCALINGS[name] | {"rope_theta": 5000.0}, **outside}, 1.0)
    assert read_rotary(write_rotary(rotary) | outside, 1.0) == rotary
    assert read_rotary({"rope_scaling": SCALINGS[name], "rope_theta": 5000.0, **outside}, 1.0) == rotary, "the old keys"


@pytest.mark.parametrize(
    "said",
    [
        {"rope_theta": 5e5},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 3e4}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}, "rope_scaling": SCALINGS["linear"]},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 3e4}, "rope_scaling": SCALINGS["linear"]},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 3e4}, "rope_scaling": {}},
        {"rope_theta": 5e5, "rope_parameters": YARN, "rope_scaling": None},
    ],
)
def test_keys_beside_rope_parameters_count_as_in_transformers(said: dict[str, Any]) -> None:
    from transformers import LlamaConfig

    outside = {"max_position_embeddings": CONTEXT}
    theirs = LlamaConfig.from_dict(json.loads(json.dumps(said)) | outside).rope_parameters
    assert read_rotary(said | outside, 10_000.0) == read_rotary({"rope_parameters": theirs, **outside}, 1.0)


def test_what_is_not_known_or_not_there_is_named() -> None:
    def read(**said: Any) -> Rotary:
        return read_rotary({"rope_parameters": said}, 1.0)

    with pytest.raises(UnsupportedModel, match="'mrope' is not known"):
        read(rope_type="mrope")
    with pytest.raises(UnsupportedModel, match="truncate"):
        read(**YARN, truncate=False)
    with pytest.raises(UnsupportedModel, match="turn differently .*full_attention, sliding_attention"):
        read(full_attention=YARN, sliding_attention={"rope_type": "default"})
    with pytest.raises(ModelFileError, match="rope_scaling is 'linear', not an object"):
        read_rotary({"rope_scaling": "linear"}, 1.0)
    with pytest.raises(ModelFileError, match="has no factor"):
        read(rope_type="linear")
    with pytest.raises(ModelFileError, match="12 rotary factors for 16 frequencies"):
        frequencies(read(rope_type="longrope", **FACTORS, **ORIGINAL), 32)


def layered(*scalings: RotaryScaling | None) -> ModelConfig:
    sizes = {"vocab_size": 97, "layers": 4, "width": 48, "heads": 6, "kv_heads": 2, "head_width": 8}
    kinds = tuple(LayerKind(rotary=Rotary(1e4, scaling)) for scaling in scalings)
    return ModelConfig(**sizes, feedforward_width=80, context_length=64, pattern=kinds)


def test_gguf_says_the_factors_of_whichever_layers_have_them() -> None:
    near, far = (RotaryScaling("llama3", factor, 16, slow=1.0, fast=4.0) for factor in (4.0, 8.0))
    for scalings in ((None, far), (far, None), (None, far, far)):
        said = ggml.sayable(layered(*scalings))
        found = [kind.rotary.scaling for kind in said.pattern if kind.rotary]
        (factors,) = {scaling.factors for scaling in found if scaling}
        assert [scaling is None for scaling in found] == [scaling is None for scaling in scalings]
        assert ggml.rotary_factors(said) == {"rope_freqs.weight": factors} and max(factors) == 8.0
    assert ggml.rotary_factors(layered(None)) == {}
    with pytest.raises(ValueError, match="different rotary factors"):
        ggml.rotary_factors(ggml.sayable(layered(near, far)))


@pytest.mark.parametrize(
    ("said", "freqs", "kind"),
    [
        ({}, False, "none"),
        ({"type": "none", "factor": 4.0}, False, "none"),
        ({"type": "linear", "factor": 4.0}, False, "linear"),
        ({"type": "yarn", "factor": 4.0}, True, "factors"),
    ],
)
def test_a_temperature_of_a_scaling_that_has_none_is_refused(said: dict[str, Any], freqs: bool, kind: str) -> None:
    raw = {"llama.context_length": 64, **{f"llama.rope.scaling.{key}": value for key, value in said.items()}}
    source = Shapes({"rope_freqs.weight": torch.tensor([1.0, 1.0, 2.0, 3.0])} if freqs else {})
    plain = ggml.read_rotary(raw | {"llama.rope.scaling.attn_factor": 1.0}, source, "llama", 8)
    assert plain == ggml.read_rotary(raw, source, "llama", 8)
    with pytest.raises(UnsupportedModel, match=f"is {kind}, and yet llama.rope.scaling.attn_factor is 0.5"):
        ggml.read_rotary(raw | {"llama.rope.scaling.attn_factor": 0.5}, source, "llama", 8)


# The texts have 37 and 47 tokens: far beyond the context of 16.
WHOLE = [
    Case(f"llama, {name}", "LlamaForCausalLM", SMALL | more, in_gguf=in_gguf)
    for name, in_gguf, more in (
        ("linear", True, {"rope_parameters": SCALINGS["linear"] | {"rope_theta": 1e4}}),
        (
            "dynamic",
            False,
            {"rope_parameters": SCALINGS["dynamic"] | {"rope_theta": 1e4}, "max_position_embeddings": 16},
        ),
        ("yarn", True, {"rope_parameters": YARN | {"rope_theta": 1e4}}),
        ("yarn, two scales", True, {"rope_parameters": SCALINGS["yarn, two scales"] | {"rope_theta": 1e4}}),
        ("llama 3", True, {"rope_parameters": LLAMA3 | {"rope_theta": 1e4}}),
        (
            "longrope",
            False,
            {
                "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **ORIGINAL}
                | {name: factors[:4] for name, factors in FACTORS.items()}
            },
        ),
    )
]


@pytest.mark.parametrize("case", WHOLE, ids=str)
def test_a_stretched_llama_is_that_of_transformers(case: Case, tmp_path: Path) -> None:
    check_parity(case, tmp_path / "parity")
    check_saved(case, tmp_path / "saved")
    check_rewritten(case, tmp_path / "rewritten")
    check_cached(case, tmp_path / "cached")  # last: transformers keeps the frequencies of the longest text that it saw


@pytest.mark.parametrize("case", [case for case in WHOLE if case.in_gguf], ids=str)
def test_a_stretched_llama_is_that_of_llama_cpp(case: Case, tmp_path: Path) -> None:
    # Of a Llama 3 with another context than the published ones, GGUF says the factors, which config.json cannot.
    check_gguf(case, tmp_path, and_back="llama 3" not in case.name)
