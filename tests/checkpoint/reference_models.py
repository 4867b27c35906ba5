"""Tiny random models of the reference library, and model files written by the reference writers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hornbook.checkpoint.family import Family
from hornbook.checkpoint.loading import build
from hornbook.checkpoint.rules import expand
from hornbook.model.transformer import Transformer

CPU = torch.device("cpu")


class Held(NamedTuple):
    """Tensors in memory, read as a file's are."""

    tensors: Mapping[str, Tensor]

    def torch(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        return self.tensors[name].to(dtype, copy=True)

    def tensor(self, name: str) -> np.ndarray[Any, Any]:
        return self.tensors[name].float().numpy()


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that leave no part without effect: norms are not 1, biases are not 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        about = 1.0 if "norm" in name.lower() and parameter.mean() > 0.5 else 0.0
        spread = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
        values = about + spread * torch.randn(parameter.shape, generator=generator)
        parameter.data = values.bfloat16().float()  # as trained weights come
    return model.eval().requires_grad_(False)


def tiny_llama(**changes: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    said = {
        "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "pad_token_id": None,
    }  # fmt: skip
    return randomise(LlamaForCausalLM(LlamaConfig(**said | changes, attn_implementation="eager")))


def tiny_gemma(**changes: Any) -> nn.Module:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    said = {
        "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 8,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
        "sliding_window": 5, "query_pre_attn_scalar": 12, "pad_token_id": 0,
    }  # fmt: skip
    return randomise(Gemma3ForCausalLM(Gemma3TextConfig(**said | changes, attn_implementation="eager")))


def tiny_bert(**changes: Any) -> nn.Module:
    from transformers import BertConfig, BertModel

    said = {
        "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
        "num_attention_heads": 6, "max_position_embeddings": 64,
    }  # fmt: skip
    return randomise(BertModel(BertConfig(**said | changes, attn_implementation="eager")))


def held(reference: nn.Module) -> Held:
    """A reference model's tensors, without the second name of a tied head."""
    tied = getattr(reference.config, "tie_word_embeddings", False)
    return Held({k: v for k, v in reference.state_dict().items() if not (tied and k == "lm_head.weight")})


def ours(reference: nn.Module, family: Family, **asked: Any) -> Transformer:
    """The same model, read from the reference's own configuration and tensors."""
    source = held(reference)
    config = family.read_config(reference.config.to_dict(), source)
    return build(config, family, source, asked.get("dtype", torch.float32), CPU).requires_grad_(False)


def file_tensors(model: Transformer, family: Family) -> dict[str, Tensor]:
    """What a file of that family's format holds for our model: the rules, read backwards."""
    weights = model.state_dict()
    return {
        name: tensor
        for rule in expand(family.table(model.config), model.config, weights)
        for name, tensor in zip(rule.theirs, rule.transform.theirs(tuple(weights[n] for n in rule.ours)), strict=True)
    }


def save_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Written by the gguf package."""
    from gguf import GGUFWriter

    metadata = dict(metadata)
    writer = GGUFWriter(path, metadata.pop("general.architecture"))
    for key, value in metadata.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        (add.get(type(value)) or writer.add_array)(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
