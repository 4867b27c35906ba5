"""Every family against transformers at tiny random configurations, float32: logits and states within 1e-5."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_models import file_tensors, ours, save_gguf, tiny_gemma, tiny_llama
from torch import nn

from hornbook.checkpoint import families
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.loading import build
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import LayerKind, Rotary
from hornbook.model.positions import frequencies, order
from hornbook.model.transformer import Transformer

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
LLAMAS = {
    "grouped": {},
    "multi-query": {"num_key_value_heads": 1},
    "multi-head, tied": {"num_key_value_heads": 6, "tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 12},
    "linear scaling": {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}},
    "llama 3 scaling": {"rope_parameters": LLAMA3},
    "another activation": {"hidden_act": "gelu_pytorch_tanh"},
}
GEMMAS = {
    "grouped": {},
    "one key head": {"num_key_value_heads": 1},
    "soft-capped logits": {"final_logit_softcapping": 5.0},  # scores: tests/model; this reference ignores their cap
    "a pattern of its own": {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"] * 2 + ["full_attention"] * 2},
    "scaled global layers, own head": {
        "tie_word_embeddings": False,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
}  # fmt: skip
MODELS = {
    **{f"llama, {name}": (tiny_llama, changes, families.llama) for name, changes in LLAMAS.items()},
    **{f"gemma, {name}": (tiny_gemma, changes, families.gemma) for name, changes in GEMMAS.items()},
}


def batch(length: int = 37, vocab: int = 97) -> tuple[torch.Tensor, torch.Tensor]:
    """Four rows: whole, padded right, padded left, one token."""
    ids = torch.randint(vocab, (4, length), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(4, length, dtype=torch.bool)
    mask[1, 21:], mask[2, :14], mask[3, 1:] = False, False, False
    return ids, mask


def states(reference: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The reference's last states and logits. It is told each token's position, which it would count padding into."""
    body = getattr(reference, "model", reference)
    hidden = body(input_ids=ids, attention_mask=mask.long(), position_ids=order(mask)).last_hidden_state
    if body is reference:
        return hidden, None
    return hidden, reference(input_ids=ids, attention_mask=mask.long(), position_ids=order(mask)).logits


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", MODELS)
def test_parity_with_transformers(name: str) -> None:
    make, changes, family = MODELS[name]
    reference = make(**changes)
    model = ours(reference, family.HUGGING_FACE)
    ids, mask = batch()
    hidden, logits = states(reference, ids, mask)
    out = model(ids, mask=mask, logits="none" if logits is None else "all")
    assert relative(out.hidden[mask], hidden[mask]) < 1e-5
    if logits is not None:
        assert out.logits is not None
        assert relative(out.logits[mask], logits[mask]) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_forty_cached_steps_equal_the_reference_in_one_pass(name: str) -> None:
    make, changes, family = MODELS[name]
    reference = make(**changes)
    model = ours(reference, family.HUGGING_FACE)
    ids, _ = batch(47)
    cache = ContiguousCache(model.config, 4, 47)
    steps = [model(part, cache=cache).logits for part in ids.split([7] + [1] * 40, dim=1)]
    assert relative(torch.cat(steps, dim=1), reference(input_ids=ids).logits) < 1e-5


IN_GGUF = [
    name
    for name in MODELS
    if name.split(", ")[1] not in ("another activation", "llama 3 scaling", "a pattern of its own")
]


@pytest.mark.parametrize("name", IN_GGUF)
def test_the_same_model_through_gguf(name: str, tmp_path: Path) -> None:
    """The gguf package writes what our rules say backwards; reading it gives the same weights, bit for bit."""
    make, changes, family = MODELS[name]
    model = ours(make(**changes), family.HUGGING_FACE)
    if family is families.gemma:  # 8 is a head's width, 12 the divisor of its scores: GGUF cannot say this
        model = with_config(model, query_scale=8**-0.5)
    path = save_gguf(tmp_path / "tiny.gguf", family.GGUF.write_config(model.config), file_tensors(model, family.GGUF))
    with GGUF.open(path) as file:
        config = family.GGUF.read_config(file.metadata, file)
        again = build(config, family.GGUF, file, torch.float32, torch.device("cpu")).requires_grad_(False)
    for key, weight in again.state_dict().items():
        assert torch.equal(weight, model.state_dict()[key]), key
    ids, mask = batch()
    assert relative(again(ids, mask=mask, logits="none").hidden, model(ids, mask=mask, logits="none").hidden) < 1e-6


def test_llama_3_scaling_comes_from_gguf_as_a_tensor(tmp_path: Path) -> None:
    model = ours(tiny_llama(rope_parameters=LLAMA3), families.llama.HUGGING_FACE)
    plain = with_config(model, pattern=(LayerKind(rotary=Rotary(10_000.0)),))
    rotary = model.config.pattern[0].rotary
    assert rotary is not None
    factors = frequencies(Rotary(10_000.0), 8) / frequencies(rotary, 8)
    tensors = file_tensors(model, families.llama.GGUF) | {"rope_freqs.weight": factors}
    path = save_gguf(tmp_path / "tiny.gguf", families.llama.GGUF.write_config(plain.config), tensors)
    with GGUF.open(path) as file:
        config = families.llama.GGUF.read_config(file.metadata, file)
        again = build(config, families.llama.GGUF, file, torch.float32, torch.device("cpu")).requires_grad_(False)
    ids, mask = batch()
    expected = model(ids, mask=mask).hidden
    assert relative(again(ids, mask=mask).hidden, expected) < 1e-5
    assert relative(plain(ids, mask=mask).hidden, expected) > 1e-3, "the scaling has no effect here: a blind test"


def with_config(model: Transformer, **fields: Any) -> Transformer:
    """The same weights under a configuration that differs in fields without weights."""
    other = Transformer(replace(model.config, **fields)).eval().requires_grad_(False)
    other.load_state_dict(model.state_dict())
    return other
