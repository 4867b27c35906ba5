"""Mixtures of experts on the native executor: the Transformer's numbers in every family that has them, from files of floats
and of blocks, and the same bits whoever else is in the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_tokenizer import small_tokenizer
from test_native import Texts, config, expected, ids, made

import hornbook
from hornbook.checkpoint import export, load
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.gguf_writer import OutTensor, write
from hornbook.checkpoint.packed import held, open_packed
from hornbook.engine.lower import lower
from hornbook.engine.native import NativeExecutor
from hornbook.errors import UsageError
from hornbook.kernels import library
from hornbook.model.config import Experts, LayerKind, Rotary
from hornbook.model.transformer import Transformer
from hornbook.settings import Settings
from hornbook.types import SamplingParams

CLOSE = 1e-5
SPARSE = LayerKind(None, Rotary(), sparse=True)


@pytest.fixture(autouse=True)
def kernels() -> None:
    if library.library(Settings()) is None:
        pytest.skip(f"no native kernels: {library.why_not(Settings())}")


def relative(found: np.ndarray[Any, Any], wanted: torch.Tensor) -> float:
    return ((torch.from_numpy(found) - wanted).abs().max() / wanted.abs().max()).item()


# ------------------------------------------------------------------------------------------------ what no family has

VARIANTS: dict[str, dict[str, Any]] = {
    "one of six, shares as they are": {"experts": Experts(6, 1, 16, False)},
    "all of seven, odd widths": {"experts": Experts(7, 7, 33)},
    "many, every other layer dense": {"experts": Experts(64, 8, 24), "pattern": (SPARSE, LayerKind(None, Rotary()))},
    "shared, not weighted": {"experts": Experts(4, 2, 16, True, 40)},
    "shared, weighted, biases": {"experts": Experts(4, 2, 16, False, 40, True), "feedforward_bias": True},
    "shared, without a gate of its own": {"experts": Experts(4, 2, 16, True, 40), "gated": False, "activation": "gelu"},
    "shared blocks, after the sum": {"experts": Experts(5, 2, 16), "layer_groups": 1, "norm_placement": "post"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_the_transformer(name: str) -> None:
    model, executor = made(config(**{"pattern": (SPARSE,)} | VARIANTS[name]))
    text = ids(60)
    reading = Texts(executor, text)
    found = np.concatenate([reading.step(count)[0] for count in (23, 1, 1, 16, 19)])
    assert relative(found, expected(model, text)) < CLOSE
    assert executor.scratch_bytes(64, 1) > executor.scratch_bytes(1, 1)


# ------------------------------------------------------------------------------------------------------ the same bits


KEPT = {
    "floats": lambda name: None,
    "Q8_0": lambda name: None if "router" in name else "Q8_0",
    "Q4_0, the router too": lambda name: "Q4_0",
    "gate in blocks, up in floats": lambda name: "Q8_0" if name.endswith("gate") else None,
    "down in blocks": lambda name: "Q4_0" if name.endswith("down") else None,
}


@pytest.mark.parametrize("name", KEPT)
def test_prefill_decode_company_and_threads_change_no_bit(name: str) -> None:
    sparse = config(width=64, experts=Experts(9, 3, 32, False, 32, True), pattern=(SPARSE,))
    torch.manual_seed(4)
    weights = {
        own: held(own, weight.detach().numpy(), quantize=KEPT[name](own))
        for own, weight in Transformer(sparse).named_parameters()
    }
    executor = NativeExecutor(lower(sparse), weights, 32)
    texts = [ids(count, seed=count) for count in (40, 33, 1, 58)]
    alone = [Texts(executor, text).step(len(text))[0] for text in texts]
    kernels = library.library(Settings())
    assert kernels is not None and np.isfinite(alone[0]).all()
    try:
        for threads in (1, 3):
            kernels.hb_set_threads(threads)
            ragged, rng = Texts(executor, *texts), np.random.default_rng(1)
            parts: list[list[Any]] = [[] for _ in texts]
            while ragged.done != [len(text) for text in texts]:
                counts = rng.integers(0, 9, 4).clip(ragged.done == [0] * 4).tolist()
                for part, logits in zip(parts, ragged.step(*counts), strict=True):
                    part.append(logits)
            for part, whole in zip(parts, alone, strict=True):
                np.testing.assert_array_equal(np.concatenate(part), whole)
    finally:
        kernels.hb_set_threads(Settings().threads)


# ----------------------------------------------------------------------------------------------------- files of families

SAID = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": None,
}  # fmt: skip
QWEN = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen2Moe": QWEN | {"shared_expert_intermediate_size": 64},
    "Qwen3Moe": QWEN | {"norm_topk_prob": True},
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(request.param, tmp_path_factory.mktemp(request.param))


def published(name: str, path: Path) -> Path:
    """In bfloat16, each expert in tensors of its own, as these families are published."""
    import transformers

    said = SAID | FAMILIES[name] | {"vocab_size": small_tokenizer(path).vocab_size}
    torch.manual_seed(6)
    model = getattr(transformers, f"{name}ForCausalLM")
    model(model.config_class(**said)).to(torch.bfloat16).save_pretrained(path)
    return path


def test_a_folder_of_bfloat16_stays_so(folder: Path) -> None:
    checkpoint = load(folder, device="cpu", dtype="float32")
    with open_packed(folder) as packed:
        assert {packed.weights[f"blocks.1.feedforward.{name}"].type for name in ("gate", "up", "down")} == {"BF16"}
        executor = NativeExecutor(lower(packed.config), packed.weights, 8)
    size = (folder / "model.safetensors").stat().st_size
    assert executor.weight_bytes < 1.1 * size
    text = ids(50)
    (found,) = Texts(executor, text).step(50)
    assert relative(found, expected(checkpoint.model.requires_grad_(False), text)) < CLOSE


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0"])
def test_a_quantised_file_keeps_what_it_says(folder: Path, type: str, tmp_path: Path) -> None:
    """Against float32 over the very same weights: only activations are rounded, to eight bits a number."""
    path = tmp_path / "mixture.gguf"
    checkpoint = load(folder, device="cpu", dtype="float32")
    export(checkpoint, path, to="gguf", quantise=type, max_kl=99.0, min_top1=0.0)
    again = load(path, device="cpu", dtype="float32").model.requires_grad_(False)
    with open_packed(path) as packed:
        assert packed.weights["blocks.0.feedforward.up"].type == type
        executor = NativeExecutor(lower(packed.config), packed.weights, 8)
    text = ids(90, vocab=again.config.vocab_size)
    reading = Texts(executor, text)
    found = np.concatenate([reading.step(count)[0] for count in (60, 1, 29)])
    np.testing.assert_array_equal(found, Texts(executor, text).step(90)[0])
    wanted = expected(again, text)
    errors = (torch.from_numpy(found) - wanted).norm(dim=-1) / wanted.norm(dim=-1)  # of each token
    print(f"\n{type}: errors of tokens, in percent: {[round(100 * e, 1) for e in errors.sort().values[::10].tolist()]}")
    # A dense model of these sizes and random weights errs by 3%. Where two experts' scores are all but equal, rounding may
    # choose the other.
    assert errors.median() < 0.05 and (errors < 0.1).float().mean() > 0.9


def test_experts_each_in_a_tensor_of_its_own_as_in_the_first_gguf_files(tmp_path: Path) -> None:
    """Quantised, they go the same way as the stack, bit for bit."""
    stacked, apart = tmp_path / "stacked.gguf", tmp_path / "apart.gguf"
    checkpoint = load(published("Mixtral", tmp_path), device="cpu", dtype="float32")
    export(checkpoint, stacked, to="gguf", quantise="Q4_0", max_kl=99.0, min_top1=0.0)
    with GGUF.open(stacked) as file:
        tensors = []
        for name, info in file.tensors.items():
            experts = [(name, file.raw(name))]
            if "_exps" in name:
                parts = np.split(file.raw(name), info.shape[0])
                experts = [(name.replace("_exps", f".{e}"), part) for e, part in enumerate(parts)]
            shape = info.shape[-2:]
            tensors += [OutTensor(own, shape, info.type, lambda raw=raw: raw) for own, raw in experts]
        write(apart, file.metadata, tensors)
    text, found = ids(40), []
    for path in (stacked, apart):
        with open_packed(path) as packed:
            executor = NativeExecutor(lower(packed.config), packed.weights, 8)
        found.append(Texts(executor, text).step(40)[0])
    np.testing.assert_array_equal(found[0], found[1])


def test_a_mixture_is_loaded_natively_and_writes_the_same_in_company(folder: Path) -> None:
    with hornbook.load(str(folder), device="cpu") as llm:
        assert llm.runs_on.startswith("native")
        greedy = SamplingParams(temperature=0.0, max_tokens=12)
        alone = llm.generate("the name of", greedy)[0].text
        together = llm.generate(["今天天气", "the name of", "true"], greedy)
        assert together[1].text == alone


# ------------------------------------------------------------------------------------------------------------- errors


def test_adapters_do_not_reach_experts() -> None:
    _, executor = made(config(experts=Experts(4, 2, 16, True, 40), pattern=(SPARSE,)))
    low, up = np.ones((2, 48), np.float32), np.ones((4, 2), np.float32)
    for name in ("router.weight", "gate", "shared.down.weight"):
        with pytest.raises(UsageError, match="holds experts, which adapters do not reach"):
            executor.add_adapter({f"blocks.1.feedforward.{name}": (low, up, 1.0)})
