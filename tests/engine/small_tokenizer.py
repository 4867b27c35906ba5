"""A byte-level BPE of some 300 tokens, among them some that only reach into Chinese characters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from hornbook.text.tokenizer import Tokenizer

TEXTS = ['{"name": "value", "age": [1, 2]}', "今天天气很好，我们去公园吧。", "true false null the value of the name"]


def small_tokenizer(folder: Path, marks: Sequence[str] = ()) -> Tokenizer:
    """``marks``: more control tokens."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>", "<|pad|>", *marks], initial_alphabet=alphabet
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>", "pad_token": "<|pad|>"}')
    return Tokenizer.from_folder(folder)
