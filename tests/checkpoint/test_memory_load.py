"""Loading streams: a process that loads a model never holds much more than the model, whatever the file is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from measured_memory import child

from hornbook.checkpoint.exporting import write_gguf
from hornbook.checkpoint.families import llama
from hornbook.checkpoint.loading import Checkpoint, load
from hornbook.checkpoint.saving import save, save_model
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer
from hornbook.text.tokenizer import Tokenizer

LIMIT = 1.15  # times the weights
LARGE = ModelConfig(
    vocab_size=16_000, layers=12, width=640, heads=10, kv_heads=5, head_width=64, feedforward_width=1792,
    context_length=512, tied_head=True, pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured through /proc")
def test_a_model_is_in_memory_once(tiny_llm_path: Path, tmp_path: Path) -> None:
    """A Llama of 67 million random weights: a folder in shards of 60 MB, and files as they are made for llama.cpp."""
    torch.manual_seed(1)
    model, tokenizer = Transformer(LARGE), Tokenizer.from_folder(tiny_llm_path)
    made = Checkpoint(model, LARGE, llama.HUGGING_FACE, tmp_path / "made", {}, {}, (tokenizer, None))
    jobs = []
    for stored, asked in (("float32", "float32"), ("bfloat16", "float32")):
        path = tmp_path / stored
        save_model(model, path, family=llama.HUGGING_FACE, dtype=stored, shard_bytes=60_000_000)
        assert len(list(path.glob("*.safetensors"))) > 1
        jobs.append({"job": "load", "model": str(path), "dtype": asked})
    for mix in ("F16", "Q8_0"):
        write_gguf(made, tmp_path / f"{mix}.gguf", mix)
        jobs.append({"job": "load", "model": str(tmp_path / f"{mix}.gguf"), "dtype": "float32"})
    for job, found in zip(jobs, child(*jobs), strict=True):
        assert found["measured"] <= LIMIT * found["predicted"], (job, found)


@pytest.mark.models
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured through /proc")
def test_a_real_model_is_in_memory_once(smollm2_path: Path) -> None:
    """Its tokenizer included. A model as small as MiniLM says less: in a process that others press, tens of megabytes come and go."""
    (found,) = child({"job": "load", "model": str(smollm2_path), "dtype": "float32"})
    assert found["measured"] <= LIMIT * found["predicted"], found


def test_a_model_can_be_saved_over_the_folder_that_it_came_from(tiny_llm_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_llm_path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    first = load(folder, dtype="float32", device="cpu")
    before = {name: weight.detach().clone() for name, weight in first.model.named_parameters()}
    save(first, folder)
    (folder / "model.safetensors").write_bytes(bytes(8) + (folder / "model.safetensors").read_bytes()[8:])  # in place
    for name, weight in first.model.named_parameters():
        assert torch.equal(weight, before[name]), name
    save(first, folder)
    for name, weight in load(folder, dtype="float32", device="cpu").model.named_parameters():
        assert torch.equal(weight, before[name]), name
