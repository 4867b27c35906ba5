"""Falcon in all its releases: the numbers of transformers and of llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from family_parity import Case, batch, loaded

from hornbook.checkpoint import load
from hornbook.checkpoint.families import falcon
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import UnsupportedModel

SAID = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8}
SAID |= {"max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
NEW = {"new_decoder_architecture": True, "num_kv_heads": 2}
# Its plain attention adds ALiBi twice, once with the mask and once itself; what it runs by default adds it once.
RW = {"alibi": True, "bias": True, "multi_query": False, "attn_implementation": "sdpa"}


def case(name: str, in_gguf: bool = True, **changes: object) -> Case:
    return Case(f"falcon, {name}", "FalconForCausalLM", SAID | changes, in_gguf=in_gguf)


CASES = [
    case("7B"),
    case("40B", **NEW),
    case("11B, one norm", num_ln_in_parallel_attn=1, ffn_hidden_size=160, tie_word_embeddings=False, **NEW),
    case("a key head each", multi_query=False),
    case("RW, sequential", in_gguf=False, parallel_attn=False, **RW),
    case("RW, parallel", in_gguf=False, activation="relu", **RW),
    case("sequential, rotary", in_gguf=False, parallel_attn=False, rope_parameters={"rope_theta": 500.0}),
]


@pytest.mark.parametrize(("number", "kind"), [(0, "RefinedWebModel"), (1, "RefinedWeb")])
def test_configurations_of_before_transformers_are_read(number: int, kind: str, tmp_path: Path) -> None:
    now = loaded(CASES[number], tmp_path)
    raw = {key: SAID[key] for key in ("vocab_size", "hidden_size")} | {"model_type": kind, "n_head": 8, "n_layer": 3}
    raw |= {"architectures": ["RWForCausalLM"], "alibi": False, "bias": False, "parallel_attn": True}
    raw |= {"n_head_kv": 2} if kind == "RefinedWeb" else {"multi_query": True}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    ids, _ = batch(97)
    with torch.no_grad():
        assert torch.equal(load(tmp_path, device="cpu").model(ids).logits, now.model(ids).logits)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn 2"),
        (NEW | {"num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn 3"),
        (NEW | {"parallel_attn": False}, "without parallel_attn"),
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm"),
    ],
)
def test_what_no_release_is_is_refused_by_name(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        falcon.HUGGING_FACE.read_config(SAID | changes, Shapes({}))
