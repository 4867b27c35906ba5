"""Adapters that PEFT wrote: in one batch with others and with none, each answers as PEFT's own model does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hornbook
from hornbook.errors import ModelFileError, ModelNotFound, UnsupportedModel, UsageError
from hornbook.llm import LocalLLM
from hornbook.settings import Settings
from hornbook.types import SamplingParams

peft = pytest.importorskip("peft")

PROMPTS = [[5, 9, 40, 17, 80], [7] * 19, [100, 3, 3, 250, 61, 12, 90, 31]]
GREEDY = SamplingParams(max_tokens=12, ignore_eos=True)
KINDS: dict[str, dict[str, Any]] = {
    "attention": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "all": {"r": 3, "lora_alpha": 9, "target_modules": "all-linear", "use_rslora": True},
    "patterns": {
        "r": 2, "lora_alpha": 4, "target_modules": ["down_proj", "o_proj"],
        "rank_pattern": {"down_proj": 5}, "alpha_pattern": {"layers.1.self_attn.o_proj": 20},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def adapters(tiny_llm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[list[int]]]]:
    """name -> (folder, what PEFT's model answers to each prompt)."""
    from transformers import AutoModelForCausalLM

    made = {}
    for seed, (name, kind) in enumerate(KINDS.items()):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(tiny_llm_path, dtype=torch.float32)
        model = peft.get_peft_model(
            base, peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **kind)
        ).eval()
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        answers = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            for _ in range(GREEDY.max_tokens):
                with torch.no_grad():
                    ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), dim=1)
            answers.append(ids[0, len(prompt) :].tolist())
        made[name] = folder, answers
    return made


@pytest.fixture(scope="module", params=["auto", "float32"], ids=["native where it can", "torch"])
def llm(request: pytest.FixtureRequest, tiny_llm_path: Path) -> Iterator[LocalLLM]:
    exact = Settings.load(cache="float32")  # as PEFT keeps its keys and values
    with hornbook.load(str(tiny_llm_path), device="cpu", dtype=request.param, settings=exact) as llm:
        assert isinstance(llm, LocalLLM)
        yield llm


def test_each_request_of_a_batch_has_its_own_adapter(llm: LocalLLM, adapters: Any) -> None:
    plain = [c.token_ids for c in llm.generate(PROMPTS, GREEDY)]
    for name, (folder, _) in adapters.items():
        llm.add_adapter(name, folder)
    streams = {name: [llm.stream(prompt, GREEDY, adapter=name) for prompt in PROMPTS] for name in adapters}
    bare = [llm.stream(prompt, GREEDY) for prompt in PROMPTS]
    # The first to be read steps for all, so that every step has all adapters in it.
    for name, (_, expected) in adapters.items():
        assert [[token.id for token in stream] for stream in streams[name]] == expected, name
        assert [tuple(answer) for answer in expected] != plain
    assert [tuple(token.id for token in stream) for stream in bare] == plain
    for name in adapters:
        llm.remove_adapter(name)
    with pytest.raises(UsageError, match="attention"):
        llm.generate(PROMPTS, GREEDY, adapter="attention")


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"peft_type": "IA3"}, UnsupportedModel, "IA3"),
        ({"use_dora": True}, UnsupportedModel, "use_dora"),
        ({"bias": "all"}, UnsupportedModel, "bias"),
        ({"alora_invocation_tokens": [5, 6]}, UnsupportedModel, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2], [1, 2]]}, UnsupportedModel, "layer_replication"),
        ({"init_lora_weights": "pissa_niter_16"}, UnsupportedModel, "began with pissa_niter_16"),
    ],
)
def test_more_than_lora_is_refused(
    llm: LocalLLM, adapters: Any, tmp_path: Path, change: dict[str, Any], error: type[Exception], what: str
) -> None:
    shutil.copytree(adapters["attention"][0], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | change), "utf-8")
    with pytest.raises(error, match=what):
        llm.add_adapter("bad", tmp_path)


def test_an_adapter_of_another_base_and_a_damaged_one_are_named(llm: LocalLLM, adapters: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(adapters["attention"][0], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = min(name for name in tensors if "lora_B" in name)
    save_file({name.replace("layers.0", "layers.7"): tensors[name], name.replace("lora_B", "lora_A").replace(
        "layers.0", "layers.7"): tensors[name.replace("lora_B", "lora_A")]}, file)  # fmt: skip
    with pytest.raises(UsageError, match=r"layers\.7.*no such module"):
        llm.add_adapter("bad", tmp_path)
    save_file(tensors | {name: tensors[name][:-1]}, file)
    with pytest.raises(UsageError, match="another base"):
        llm.add_adapter("bad", tmp_path)
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    with pytest.raises(ModelFileError, match="only lora_A"):
        llm.add_adapter("bad", tmp_path)
    file.unlink()
    with pytest.raises(ModelNotFound, match=r"adapter_model\.safetensors"):
        llm.add_adapter("bad", tmp_path)
