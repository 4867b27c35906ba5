"""A context is stretched as the papers say, where it can be, and what was stretched is saved so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stories import model_of, tokenizer_of

from hornbook.checkpoint import load, save
from hornbook.checkpoint.families import HUGGING_FACE
from hornbook.checkpoint.saving import save_model
from hornbook.checkpoint.stretch import stretched
from hornbook.errors import UnsupportedModel, UsageError
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.positions import frequencies
from hornbook.model.transformer import Transformer

SMALL = ModelConfig(
    vocab_size=5, layers=1, width=64, heads=1, kv_heads=1, head_width=64, feedforward_width=8, context_length=2048,
    pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip
FIRST_WORDS = [403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337]


def test_the_small_trained_model_says_what_it_is_known_to_say(shared: Path) -> None:
    folder = shared / "models" / "stories260K"
    model, tokenizer = model_of(folder), tokenizer_of(folder)
    ids = [1]
    for _ in range(20):
        ids.append(int(model(torch.tensor([ids]), logits="last").logits.argmax()))
    assert ids[1:] == FIRST_WORDS
    assert tokenizer.decode(ids).strip().startswith("Once upon a time, there was a little girl named Lily.")


@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn"])
def test_a_stretched_model_turns_a_place_as_the_model_turns_an_earlier_one(kind: str) -> None:
    """By four, the slowest pair stands at place 4 n where it stood at n; the fastest, but for "linear", is as it was."""
    config = stretched(SMALL, f"{kind}:4")
    assert config.context_length == 4 * SMALL.context_length
    before, after = (frequencies(c.pattern[0].rotary, 64) for c in (SMALL, config) if c.pattern[0].rotary)
    assert after[-1].item() == pytest.approx(before[-1].item() / 4, rel=1e-5)
    assert after[0].item() == (0.25 if kind == "linear" else 1.0)


def test_layers_that_see_a_window_are_left_as_they_are() -> None:
    near, far = LayerKind(8, Rotary(100.0)), LayerKind(None, Rotary(1000.0))
    found = stretched(replace(SMALL, layers=4, pattern=(near, far)), "linear:2").pattern
    assert found[0] == near and found[1] != far


def test_a_folder_is_loaded_stretched_and_says_so_when_it_is_saved(tiny_llm_path: Path, tmp_path: Path) -> None:
    opened = load(tiny_llm_path, device="cpu", stretch="yarn:4")
    assert opened.config.context_length == 1024
    save(opened, tmp_path / "m")
    assert load(tmp_path / "m", device="cpu").config == opened.config
    with pytest.raises(UnsupportedModel, match="scaled already"):
        load(tmp_path / "m", device="cpu", stretch="linear:2")


@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn"])
def test_what_was_stretched_opens_so_here_and_in_transformers(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = replace(SMALL, layers=2, width=32, heads=2, head_width=16, context_length=16)
    model = Transformer(stretched(base, f"{kind}:4")).eval()
    save_model(model, tmp_path, family=HUGGING_FACE["llama"])
    ids = torch.randint(5, (1, 60))
    said, again = model(ids).logits, load(tmp_path, device="cpu").model
    assert again.config == model.config and again.config.context_length == 64
    torch.testing.assert_close(again(ids).logits, said, rtol=0, atol=0)
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, said, rtol=1e-5, atol=1e-5)
    untouched = Transformer(base).eval()
    untouched.load_state_dict(model.state_dict())
    assert not torch.allclose(untouched(ids).logits, said, atol=1e-3)


@pytest.mark.parametrize(
    "said", ["", "yarn", "yarn:", "yarn:1", "yarn:x", "yarn:nan", "rope:4", "linear:-2", "ntk:inf"]
)
def test_what_is_no_way_to_stretch_is_refused(said: str) -> None:
    with pytest.raises(UsageError, match="is not a way to stretch"):
        stretched(SMALL, said)
    with pytest.raises(UnsupportedModel, match="no rotary positions"):
        stretched(replace(SMALL, pattern=(LayerKind(),)), "yarn:4")


def test_an_adapter_says_how_its_base_was_stretched(tiny_llm_path: Path, tmp_path: Path) -> None:
    from hornbook import adapt
    from hornbook.checkpoint.lora import stretch_for

    model = load(tiny_llm_path, device="cpu", stretch="yarn:4").model
    adapt.LoRA(rank=2).attach(model).save(tmp_path)
    assert stretch_for(tmp_path) == stretch_for(tmp_path, "yarn:4") == "yarn:4"
    with pytest.raises(UsageError, match="stretched by yarn:4, and linear:2 is asked for"):
        stretch_for(tmp_path, "linear:2")
    with pytest.raises(UsageError, match="stretched by yarn:4, and this one is not"):
        adapt.load(load(tiny_llm_path, device="cpu").model, tmp_path)
    again = load(tiny_llm_path, device="cpu", stretch=stretch_for(tmp_path)).model
    assert adapt.load(again, tmp_path).name == "default"
