"""A vocabulary over bytes, made from the texts that are learnt: it says any text, and ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hornbook.errors import UsageError
from hornbook.text.tokenizer import Tokenizer
from hornbook.train.vocabulary import SMALLEST, byte_pairs

TEXTS = ["the cat sat on the mat", "猫はマットの上に座った", "猫坐在垫子上。 ", " naïve\t👩‍👩‍👧 </s> \u0000é"]


def test_a_vocabulary_over_bytes_says_any_text_and_ends_it(tmp_path: Path) -> None:
    tokenizer = byte_pairs(TEXTS[:1] * 3, 300)
    assert tokenizer.pad_id == tokenizer.vocab_size - 1 <= 299
    assert tokenizer.count("the the cat") < len("the the cat"), "pairs of bytes were merged"
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids[-1] == tokenizer.eos_id not in ids[:-1], "the end that a text spells out is text"
        assert tokenizer.decode(ids) == text
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert (again.eos_id, again.pad_id, again.stop_ids) == (tokenizer.eos_id, tokenizer.pad_id, tokenizer.stop_ids)
    with pytest.raises(UsageError, match=f"of {SMALLEST - 1} tokens"):
        byte_pairs(TEXTS, SMALLEST - 1)
