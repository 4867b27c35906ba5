"""A tokenizer made from the texts that a model is to learn: byte-pair encoding over bytes (arXiv 1508.07909, and GPT-2).

Bytes are the alphabet, so that no text of any language is without tokens. Source and target share one vocabulary, as in
arXiv 1706.03762, section 5.1.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from hornbook.errors import UsageError
from hornbook.text.parts import Parts, surround
from hornbook.text.tokenizer import Tokenizer

END, UNKNOWN, PADDING = "</s>", "<unk>", "<pad>"
SMALLEST = 256 + 3


def byte_pairs(texts: Iterable[str], size: int) -> Tokenizer:
    """A vocabulary of at most ``size`` tokens, which ends every text with </s>; fewer where the texts hold no more pairs.

    A pair seen once is not merged; <pad> is the last token, as in Marian's vocabularies. Raises UsageError where ``size`` does not even hold the bytes.
    """
    if size < SMALLEST:
        raise UsageError(
            f"a vocabulary of {size} tokens does not hold the 256 bytes and 3 marks", f"Ask for {SMALLEST} or more."
        )
    backend = Backend(models.BPE(unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        min_frequency=2,
        show_progress=False,
        special_tokens=[END, UNKNOWN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([PADDING])
    around = surround(backend, None, END)
    assert around is not None
    backend.post_processor = around
    marks = {"eos": 0, "unk": 1, "pad": backend.get_vocab_size() - 1}
    ends = frozenset({marks["eos"]})
    return Tokenizer(Parts(backend, "byte-level", marks, ends, literal=frozenset(marks.values())))
