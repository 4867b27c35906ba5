"""Loading streams: a process that loads a model never holds much more than the model, whatever the file is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hornbook.checkpoint.families import llama
from hornbook.checkpoint.loading import load
from hornbook.checkpoint.saving import save, save_model
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="peak memory is measured with getrusage")

LARGE = ModelConfig(
    vocab_size=16_000, layers=12, width=640, heads=10, kv_heads=5, head_width=64, feedforward_width=1792,
    context_length=512, tied_head=True, pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip


def measured(**job: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "child", json.dumps(job)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A Llama of 67 million random weights in shards of 60 MB, and the dtype that it is stored in."""
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    save_model(Transformer(LARGE), path, family=llama.HUGGING_FACE, dtype=request.param, shard_bytes=60_000_000)
    assert len(list(path.glob("*.safetensors"))) > 1
    return path, request.param


def test_a_sharded_folder_is_in_memory_once(folder: tuple[Path, str]) -> None:
    path, stored = folder
    for dtype in {stored, "float32"}:
        found = measured(job="load", model=str(path), dtype=dtype)
        assert found["measured"] <= 1.15 * found["predicted"] + 10e6, (dtype, found)


def test_a_quantised_file_does_not_stay_in_memory_beside_its_weights(smollm2_path: Path) -> None:
    found = measured(job="load", model=str(smollm2_path), dtype="float32")
    assert found["measured"] <= 1.15 * found["predicted"], found


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
