"""The config.json of published models, word for word where it counts: each makes the published number of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hornbook.checkpoint.families import GGUF, HUGGING_FACE
from hornbook.checkpoint.loading import empty
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import HornbookError

GPT2 = {"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_ctx": 1024}
GPT2 |= {"n_positions": 1024, "vocab_size": 50257, "layer_norm_epsilon": 1e-05}
NEOX = {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "rotary_emb_base": 10000, "rotary_pct": 0.25}
NEOX |= {"tie_word_embeddings": False, "max_position_embeddings": 2048, "layer_norm_eps": 1e-05}
FALCON = {"architectures": ["FalconForCausalLM"], "model_type": "falcon", "alibi": False, "bias": False}
FALCON |= {"parallel_attn": True, "vocab_size": 65024}

PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "openai-gpt": (
        116_534_784,
        {"afn": "gelu", "architectures": ["OpenAIGPTLMHeadModel"], "model_type": "openai-gpt", "n_ctx": 512,
         "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 512, "vocab_size": 40478},
    ),
    "gpt2": (124_439_808, GPT2 | {"n_embd": 768, "n_head": 12, "n_layer": 12}),
    "gpt2-xl": (1_557_611_200, GPT2 | {"n_embd": 1600, "n_head": 25, "n_layer": 48}),
    "gpt-neo-125m": (
        125_198_592,
        {"architectures": ["GPTNeoForCausalLM"], "model_type": "gpt_neo", "attention_types": [[["global", "local"], 6]],
         "hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": None, "window_size": 256,
         "max_position_embeddings": 2048, "vocab_size": 50257},
    ),
    "gpt-j-6b": (
        6_050_882_784,
        {"architectures": ["GPTJForCausalLM"], "model_type": "gptj", "activation_function": "gelu_new", "n_embd": 4096,
         "n_head": 16, "n_inner": None, "n_layer": 28, "n_positions": 2048, "rotary": True, "rotary_dim": 64,
         "tie_word_embeddings": False, "vocab_size": 50400},
    ),
    "pythia-160m": (
        162_322_944,
        NEOX | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
                "hidden_act": "gelu", "use_parallel_residual": True, "vocab_size": 50304},
    ),
    "gpt-neox-20b": (
        20_554_567_680,
        NEOX | {"hidden_size": 6144, "intermediate_size": 24576, "num_attention_heads": 64, "num_hidden_layers": 44,
                "hidden_act": "gelu_fast", "vocab_size": 50432},
    ),
    "phi-2": (
        2_779_683_840,
        {"architectures": ["PhiForCausalLM"], "model_type": "phi", "hidden_act": "gelu_new", "hidden_size": 2560,
         "intermediate_size": 10240, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
         "partial_rotary_factor": 0.4, "rope_theta": 10000.0, "rope_scaling": None, "qk_layernorm": False,
         "tie_word_embeddings": False, "vocab_size": 51200, "resid_pdrop": 0.1},
    ),
    "falcon-7b": (
        6_921_720_704,
        FALCON | {"hidden_size": 4544, "multi_query": True, "new_decoder_architecture": False,
                  "num_attention_heads": 71, "num_hidden_layers": 32},
    ),
    "falcon-40b": (
        41_303_293_952,
        FALCON | {"hidden_size": 8192, "new_decoder_architecture": True, "num_attention_heads": 128,
                  "num_hidden_layers": 60, "num_kv_heads": 8},
    ),
    "falcon-rw-1b": (
        1_311_625_216,
        FALCON | {"alibi": True, "bias": True, "parallel_attn": False, "hidden_size": 2048, "multi_query": False,
                  "new_decoder_architecture": False, "num_attention_heads": 32, "num_hidden_layers": 24,
                  "vocab_size": 50304},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_makes_the_published_number_of_parameters(name: str) -> None:
    parameters, raw = PUBLISHED[name]
    config = HUGGING_FACE[raw["model_type"]].read_config(raw, Shapes({}))
    assert sum(weight.numel() for weight in empty(config).parameters()) == parameters


def test_a_part_of_a_head_turns_as_published() -> None:
    """Pythia and GPT-NeoX a quarter, Phi-2 two fifths, GPT-J 64 of 256; Falcon all."""
    turned = {"pythia-160m": 16, "gpt-neox-20b": 24, "phi-2": 32, "gpt-j-6b": 64, "falcon-7b": 64, "falcon-rw-1b": 0}
    for name, width in turned.items():
        raw = PUBLISHED[name][1]
        config = HUGGING_FACE[raw["model_type"]].read_config(raw, Shapes({}))
        assert config.rotary_width(config.pattern[0].rotary) == width


def test_a_gguf_file_says_of_the_published_models_all_that_they_are() -> None:
    """Also what no key says: GPT-NeoX-20B's form of GELU."""
    for name in ("gpt2-xl", "pythia-160m", "gpt-neox-20b", "phi-2", "falcon-7b", "falcon-40b"):
        raw = PUBLISHED[name][1]
        theirs = HUGGING_FACE[raw["model_type"]]
        config = theirs.read_config(raw, Shapes({}))
        family = GGUF[theirs.twin_of(config) or ""]
        there = ["token_embd.weight"] + ["output.weight"] * (not config.tied_head)
        there += ["blk.0.attn_norm_2.weight"] * (name == "falcon-40b")
        source = Shapes({tensor: torch.empty(config.vocab_size, 1, device="meta") for tensor in there})
        assert family.read_config(family.write_config(config, source), source).activation == config.activation


@pytest.mark.parametrize("name", PUBLISHED)
def test_any_damaged_value_is_a_named_error_or_another_model(name: str) -> None:
    raw = PUBLISHED[name][1]
    refused = 0
    for key in raw:
        for wrong in ("x", "", -1, 0, 0.5, float("inf"), 10**12, [], ["x"], [[["global"], 10**12]], {}, {"x": 1}, True):
            try:
                HUGGING_FACE[raw["model_type"]].read_config(raw | {key: wrong}, Shapes({}))
            except HornbookError:
                refused += 1
    assert refused > len(raw)
