"""A model is loaded whole or not at all: what is missing, strange, contradictory or NaN is named, with the numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_models import CPU, Held, file_tensors, held, ours, save_gguf, tiny_bert, tiny_gemma, tiny_llama
from safetensors.torch import load_file, save_file

from hornbook.checkpoint import families
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.loading import build, load, pick_device, pick_dtype
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import HornbookError, ModelFileError, ModelNotFound, UnsupportedModel, UsageError

LLAMA, LLAMA_GGUF = families.HUGGING_FACE["llama"], families.GGUF["llama"]


def save_llama(path: Path, **changes: Any) -> Path:
    """A tiny Llama as a GGUF file whose metadata says ``changes`` in place of the truth."""
    model = ours(tiny_llama(), LLAMA)
    tensors = file_tensors(model, LLAMA_GGUF)
    metadata = {"general.architecture": "llama", **LLAMA_GGUF.write_config(model.config, Shapes(tensors))}
    return save_gguf(path, metadata | changes, tensors)


@pytest.fixture
def llama() -> tuple[Any, dict[str, torch.Tensor]]:
    reference = tiny_llama()
    source = held(reference)
    return LLAMA.read_config(reference.config.to_dict(), source), dict(source.tensors)


def test_a_missing_tensor_is_named(llama: Any) -> None:
    config, tensors = llama
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ModelFileError, match=r"the model has no layers.1.mlp.up_proj.weight"):
        build(config, LLAMA, Held(tensors), torch.float32, CPU)


def test_an_unused_tensor_is_named(llama: Any) -> None:
    config, tensors = llama
    tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
    with pytest.raises(UnsupportedModel, match=r"does not use: model.layers.0.self_attn.q_norm.weight"):
        build(config, LLAMA, Held(tensors), torch.float32, CPU)


def test_a_shape_against_the_configuration_is_named_with_both(llama: Any) -> None:
    config, tensors = llama
    tensors["model.layers.2.self_attn.k_proj.weight"] = torch.ones(48, 48)
    with pytest.raises(ModelFileError, match=r"k_proj.weight has the shape \[48, 48\], .* says \[16, 48\]"):
        build(config, LLAMA, Held(tensors), torch.float32, CPU)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_named_and_counted(llama: Any, bad: float) -> None:
    config, tensors = llama
    tensors["model.layers.2.mlp.down_proj.weight"][3, 4:6] = bad
    with pytest.raises(ModelFileError, match=r"down_proj.weight has 2 of 3,840 weights"):
        build(config, LLAMA, Held(tensors), torch.float32, CPU)


def test_tensors_that_hold_nothing_of_ours_are_passed_over(llama: Any) -> None:
    config, tensors = llama
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    build(config, LLAMA, Held(tensors), torch.float32, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_weight_has_the_dtype_asked_for(llama: Any, dtype: torch.dtype) -> None:
    config, tensors = llama
    model = build(config, LLAMA, Held(tensors), dtype, CPU)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert not any(weight.is_meta for weight in (*model.parameters(), *model.buffers()))
    logits = model(torch.tensor([[1, 2, 3]])).logits
    exact = build(config, LLAMA, Held(tensors), torch.float32, CPU)(torch.tensor([[1, 2, 3]])).logits
    assert (logits - exact).abs().max() < {torch.float32: 1e-6}.get(dtype, 0.1) * exact.abs().max()


def test_device_and_dtype_by_name() -> None:
    assert pick_device("cpu") == CPU and pick_dtype("auto", CPU) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype(torch.float16, CPU) == torch.float16
    for wrong in ("float8", "int8", torch.int64):
        with pytest.raises(UsageError, match="is not a dtype for a model"):
            pick_dtype(wrong, CPU)
    with pytest.raises(UsageError, match="'gpu9' is not a device"):
        pick_device("gpu9")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no device cuda"):
            pick_device("cuda")


# ---------------------------------------------------------------------------------------------------------- files


def test_a_gguf_of_an_unknown_architecture_lists_the_known(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "m.gguf", {"general.architecture": "llama4"}, {"x": torch.ones(32)})
    with pytest.raises(UnsupportedModel, match=r"'llama4' is not known\nKnown: (\w+, )*llama, "):
        load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", 4_000_000_000, "the model has 4,000,000,000 layers"),
        ("llama.block_count", 4, "the model has no blk.3"),
        ("llama.block_count", 2, "does not use: blk.2"),
        ("llama.attention.head_count_kv", 4, "6 attention heads cannot share 4"),
        ("llama.attention.head_count", 0, "heads is 0"),
        ("llama.feed_forward_length", 81, r"ffn_gate.weight has the shape \[80, 48\], .* says \[81, 48\]"),
        ("llama.embedding_length", "wide", "'wide', which is not of type int"),
    ],
)
def test_gguf_metadata_that_contradicts_the_tensors(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = save_llama(tmp_path / "m.gguf", **{key: value})
    with pytest.raises((ModelFileError, UnsupportedModel), match=message):
        load(path)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gemma, tiny_bert])
@pytest.mark.parametrize("spoilt", ["num_hidden_layers", "hidden_size", "intermediate_size"])
def test_a_folder_whose_config_lacks_a_size(tmp_path: Path, make: Any, spoilt: str) -> None:
    reference = make()
    said = reference.config.to_dict()
    del said[spoilt]
    (tmp_path / "config.json").write_text(json.dumps(said))
    save_file(dict(held(reference).tensors), tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=f"has no {spoilt}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, ModelNotFound, "has no config.json"),
        ("{", ModelFileError, "config.json cannot be read"),
        ("[]", ModelFileError, "not hold a JSON object"),
        ('{"model_type": "bart"}', UnsupportedModel, "'bart' is not known\nKnown: "),
        ('{"quantization_config": {"quant_method": "awq"}}', UnsupportedModel, r"quantised \(awq\)"),
        ('{"quantization_config": {}}', UnsupportedModel, "are quantised"),
        ('{"quantization_config": null, "model_type": "bart"}', UnsupportedModel, "'bart' is not known"),
    ],
)
def test_a_folder_that_is_no_model(tmp_path: Path, text: str | None, error: type[Exception], message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(error, match=message):
        load(tmp_path)


SPOILT = (None, "x", -1, 0, 0.0, 1e308, 10**30, 7, [], [[]], {}, {"rope_type": 3}, {"full_attention": 1}, True)
MODELS = ("BertForMaskedLM", "LlamaForCausalLM", "MixtralForCausalLM", "Phi3ForCausalLM", "GemmaForCausalLM")
MODELS += ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM")


@pytest.mark.parametrize("name", MODELS)
def test_no_value_of_a_configuration_ends_in_anything_but_a_model_or_a_named_error(name: str, tmp_path: Path) -> None:
    reference, said = tiny(name, tmp_path)
    family = families.HUGGING_FACE[said["model_type"]]
    refused = 0
    for key, good in said.items():
        for bad in SPOILT:
            try:
                config = family.read_config(said | {key: bad}, reference)
                build(config, family, reference, torch.float32, CPU)
            except HornbookError as error:
                assert error.what and error.remedy
                refused += 1
            except Exception as error:
                raise AssertionError(f"{key} = {bad!r} in place of {good!r}") from error
    assert refused > 80


def tiny(name: str, folder: Path) -> tuple[Held, dict[str, Any]]:
    """The tensors and the configuration that transformers saves for a random model of two layers."""
    import transformers

    cls = getattr(transformers, name)
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"moe_intermediate_size": 4, "shared_expert_intermediate_size": 4, "vocab_size": 8, "pad_token_id": 0}
    counts = {
        "num_experts": 2,
        "num_local_experts": 2,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    cls(cls.config_class(**sizes, **counts)).save_pretrained(folder)
    said = json.loads((folder / "config.json").read_text())
    return Held(load_file(folder / "model.safetensors")), said


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no file or folder"):
        load(tmp_path / "absent.gguf")


def test_a_file_may_be_closed_once_the_model_is_built(tmp_path: Path) -> None:
    """No weight is a view of the map, which would read a file that is gone."""
    model, path = ours(tiny_llama(), LLAMA), save_llama(tmp_path / "m.gguf")
    with GGUF.open(path) as file:
        again = build(model.config, LLAMA_GGUF, file, torch.float32, CPU)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), again.state_dict().values(), strict=True))
    assert torch.equal(again.state_dict()["blocks.0.feedforward.up.weight"], model.blocks[0].feedforward.up.weight)
