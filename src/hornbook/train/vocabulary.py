"""A tokenizer made from the texts that a model is to learn: byte-pair encoding over bytes, with a translator's marks.

Bytes are the alphabet, so that no text of any language is without tokens. Source and target share one vocabulary, as in
arXiv 1706.03762, section 5.1.
"""

from __future__ import annotations

from collections.abc import Iterable

from hornbook.errors import UsageError
from hornbook.text.tokenizer import Tokenizer
from hornbook.text.train_tokenizer import train

SMALLEST = 256 + 3


def byte_pairs(texts: Iterable[str], size: int) -> Tokenizer:
    """A vocabulary of at most ``size`` tokens, which ends every text with </s>; fewer where the texts hold no more pairs.

    A pair seen once is not merged; <pad> is the last token, as in Marian's vocabularies. Raises UsageError where ``size`` does not even hold the bytes.
    """
    if size < SMALLEST:
        raise UsageError(
            f"a vocabulary of {size} tokens does not hold the 256 bytes and 3 marks", f"Ask for {SMALLEST} or more."
        )
    return train(texts, kind="bpe", size=size, roles="marian")
