"""Tiny random encoder-decoders of the reference library.

Those with STRONG layers write sequences that end now and then: with weaker ones a tied head says again and again what it
was told last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hornbook.checkpoint import load
from hornbook.checkpoint.loading import Checkpoint
from hornbook.model.parameters import parameters

VOCAB = 29
EOS, PAD = 1, 0
STRONG = {"strength": 4.0}


@cache
def _made(model: str, seed: int, said: str) -> nn.Module:
    import transformers

    cls = getattr(transformers, model)
    changes = eval(said)
    apart, layers = changes.pop("apart", False), changes.pop("strength", 1.0)
    reference = cls(cls.config_class(**changes, attn_implementation="eager"))
    if apart:  # a head of its own, which transformers' T5 has only where a file brings one
        reference.lm_head.weight = nn.Parameter(reference.lm_head.weight.detach().clone())
    generator = torch.Generator().manual_seed(seed)
    biases = [item for item in reference.named_buffers() if item[0] == "final_logits_bias"]
    for name, weight in [*reference.named_parameters(), *biases]:
        about = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        strength = 1.5 if "embed" in name or "shared" in name else layers
        spread = 0.3 if weight.ndim == 1 else strength * weight.shape[-1] ** -0.5
        values = about + spread * torch.randn(weight.shape, generator=generator)
        weight.data = values.bfloat16().float()  # as trained weights come
    for name, module in reference.named_modules():
        if name.endswith("embed_positions"):
            module.weight.data = module.create_weight()
    if hasattr(reference, "final_logits_bias"):
        reference.final_logits_bias[0, EOS] += 1.0
    elif hasattr(reference, "shared"):
        reference.shared.weight.data[EOS] *= 4.0  # now likely, now unlikely
    return reference.eval().requires_grad_(False)


def marian(seed: int = 0, **changes: Any) -> nn.Module:
    """MarianMTModel, encoder and decoder of different sizes."""
    said = {
        "vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 56, "encoder_attention_heads": 4, "decoder_attention_heads": 2, "scale_embedding": True,
        "max_position_embeddings": 64, "activation_function": "swish", "pad_token_id": PAD, "eos_token_id": EOS,
        "decoder_start_token_id": PAD, "forced_eos_token_id": None,
    }  # fmt: skip
    return _made("MarianMTModel", seed, repr(said | changes))


def t5(seed: int = 0, model: str = "T5ForConditionalGeneration", **changes: Any) -> nn.Module:
    """T5 1.0, encoder and decoder of different depth; ``apart``: the head has weights of its own, as in 1.1."""
    said = {
        "vocab_size": VOCAB, "d_model": 32, "d_kv": 12, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 2,
        "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
        "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD,
    }  # fmt: skip
    return _made(model, seed, repr(said | changes))


def llama(seed: int = 0, **changes: Any) -> nn.Module:
    """A decoder alone."""
    said = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": PAD,
        "eos_token_id": EOS, "bos_token_id": 2,
    }  # fmt: skip
    return _made("LlamaForCausalLM", seed, repr(said | changes))


T5_1_1 = {"apart": True, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def loaded(reference: nn.Module, folder: Path) -> Checkpoint:
    """Saved by transformers, loaded by hornbook."""
    reference.save_pretrained(folder)
    checkpoint = load(folder, device="cpu")
    checkpoint.model.requires_grad_(False)
    shapes = {name: tuple(weight.shape) for name, weight in checkpoint.model.named_parameters()}
    assert list(parameters(checkpoint.config).items()) == list(shapes.items()), "what is known without the modules"
    return checkpoint


def ragged(side: str, counts: Sequence[int], seed: int = 5) -> tuple[Tensor, Tensor]:
    """Ids and mask of rows with so many real tokens, padded on one side."""
    length, lengths = max(counts), torch.tensor(counts)[:, None]
    ids = torch.randint(2, VOCAB, (len(counts), length), generator=torch.Generator().manual_seed(seed))
    place = torch.arange(length)
    mask = place < lengths if side == "right" else place >= length - lengths
    return ids.masked_fill(~mask, PAD), mask


def sources(side: str = "right", seed: int = 5) -> tuple[Tensor, Tensor]:
    """Four texts to be read, the last of one token."""
    return ragged(side, (11, 7, 4, 1), seed)


def write_tokenizer(folder: Path) -> None:
    """One word an id: "w3 w4" is 3, 4 and the end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    names = ["<pad>", "</s>", "<unk>", *(f"▁w{id}" for id in range(3, VOCAB))]
    backend = Tokenizer(models.Unigram([(name, -float(id)) for id, name in enumerate(names)], unk_id=2))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens(names[:3])
    backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", EOS)])
    backend.save(str(folder / "tokenizer.json"))
    said = {
        "tokenizer_class": "T5Tokenizer",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


SEARCH = {
    "num_beams": 3, "length_penalty": 0.6, "early_stopping": True, "max_length": 9, "bad_words_ids": [[16]],
    "decoder_start_token_id": PAD, "eos_token_id": EOS, "pad_token_id": PAD,
}  # fmt: skip


def write_folder(folder: Path, **changes: Any) -> Path:
    """A whole T5 with a tokenizer, and a generation_config.json that says SEARCH."""
    t5(**STRONG, **changes).save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps(SEARCH))
    return folder
