"""BERT's two tasks (arXiv 1810.04805): what is hidden and what follows what, by their numbers; a tiny BERT learns both."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch

from hornbook.errors import DataError
from hornbook.model.config import ModelConfig
from hornbook.model.transformer import Transformer
from hornbook.retrieve.sentences import split
from hornbook.train.batch import IGNORED, Batch, pad
from hornbook.train.initialise import initialise
from hornbook.train.loop import train
from hornbook.train.losses import masked_lm_and_next_sentence
from hornbook.train.masking import Masking
from hornbook.train.sentence_pairs import SentencePair, sentence_pairs
from hornbook.train.vocabulary import byte_pairs

CLS, SEP, MASK, PAD = 0, 1, 2, 3


def test_of_the_chosen_tokens_eight_tenths_are_hidden_one_changed_one_kept() -> None:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 1000, (400, 102), generator=draw)
    ids[:, 0], ids[:, -1] = CLS, SEP
    read, labels = Masking(1000, MASK, [CLS, SEP, PAD])(ids, draw)
    chosen = labels != IGNORED
    assert chosen.sum(1).tolist() == [15] * 400, "of 100 ordinary tokens exactly 15, in every row"
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(read[~chosen], ids[~chosen])
    total = chosen.sum().item()
    hidden = (read[chosen] == MASK).sum().item() / total
    kept = (read[chosen] == ids[chosen]).sum().item() / total
    assert hidden == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / total) ** 0.5)
    assert kept == pytest.approx(0.1 + 0.1 / 996, abs=4 * (0.1 * 0.9 / total) ** 0.5)
    places = chosen.sum(0)[1:-1] / 400
    assert places.min() > 0.07 and places.max() < 0.25, "every place is as likely"


def test_special_tokens_and_padding_are_never_chosen_and_never_put_in() -> None:
    """In a vocabulary where most tokens are special; a row of one word has one label, a row of none has none."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 8, (3000, 9), generator=draw)
    ids[0], ids[1] = torch.tensor([CLS, 5, SEP] + [PAD] * 6), torch.tensor([CLS, SEP] + [PAD] * 7)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[2:, 7:] = False
    read, labels = Masking(8, MASK, [CLS, SEP, PAD])(ids, draw, mask=mask)
    chosen = labels != IGNORED
    assert not (chosen & (ids < 4)).any() and not (chosen & ~mask).any()
    changed = chosen & (read != MASK) & (read != ids)
    assert changed.any() and (read[changed] >= 4).all()
    assert chosen[0].tolist() == [False, True] + [False] * 7 and not chosen[1].any()


def test_half_of_the_pairs_follow_and_none_is_too_long() -> None:
    documents = [[[100 * (d + 1) + 10 * s + i for i in range(3)] for s in range(6)] for d in range(5)]
    pairs = list(islice(sentence_pairs(documents, 16, Random(0), cls=1, sep=2), 2000))
    follows = Counter(pair.follows for pair in pairs)
    assert follows[0] / 2000 == pytest.approx(0.5, abs=4 * 0.5 / 2000**0.5)
    for pair in pairs:
        assert len(pair.ids) == len(pair.types) <= 16
        assert pair.ids[0] == 1 and pair.ids[-1] == 2 and pair.ids.count(2) == 2
        middle = pair.ids.index(2)
        first, second = pair.ids[1:middle], pair.ids[middle + 1 : -1]
        assert pair.types == [0] * (middle + 1) + [1] * (len(second) + 1)
        assert (first[0] // 100 == second[0] // 100) == (pair.follows == 0), "a stranger is of another document"
        if pair.follows == 0:
            assert first[-1] < second[0], "what follows stands behind"
    with pytest.raises(DataError, match="1 of 3 documents have two sentences"):
        next(sentence_pairs([[[1]], [[2], [3]], []], 16, Random(0), cls=1, sep=2))


def test_a_tiny_bert_learns_both_tasks_from_real_text(shared: Path) -> None:
    """English, Japanese and Chinese: after some dozens of steps it tells hidden tokens, and strangers, better."""
    names = ("tinyshakespeare.txt", "botchan_en.txt", "wagahai_ja.txt", "cmrc_trial_contexts_zh.txt")
    texts = [gzip.decompress((shared / "lm_text" / f"{name}.gz").read_bytes()).decode()[:40_000] for name in names]
    tokenizer = byte_pairs(texts, 1000)
    size = tokenizer.vocab_size
    cls, sep, mask = size, size + 1, size + 2
    documents = [
        tokenizer.encode_batch([text[start:end] for start, end in split(text)], add_special=False) for text in texts
    ]
    random, draw = Random(0), torch.Generator().manual_seed(0)
    pairs = sentence_pairs([[s for s in d if s] for d in documents], 48, random, cls=cls, sep=sep)
    masking = Masking(size + 3, mask, [cls, sep, tokenizer.pad_id])

    def batches() -> Iterator[Batch]:
        while True:
            rows: list[SentencePair] = list(islice(pairs, 24))
            ids, real = pad([row.ids for row in rows], 0), pad([[1] * len(row.ids) for row in rows], 0).bool()
            read, labels = masking(ids, draw, mask=real)
            types, follows = pad([row.types for row in rows], 0), torch.tensor([row.follows for row in rows])
            yield Batch(read, labels, real, types, follows)

    config = ModelConfig(
        vocab_size=size + 3, layers=2, width=64, heads=4, kv_heads=4, head_width=16, feedforward_width=128,
        context_length=48, causal=False, positions="learned", token_types=2, embedding_norm=True, norm="layer",
        norm_placement="post", qkv_bias=True, attention_output_bias=True, feedforward_bias=True, gated=False,
        activation="gelu", tied_head=True, head_bias=True, head_transform=True, pooler=True, next_sentence=True,
    )  # fmt: skip
    model = initialise(Transformer(config), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = train(model, batches(), masked_lm_and_next_sentence(), optimizer, steps=120, clip=1.0).steps

    def mean(part: str, taken: slice) -> float:
        values = [step.parts[part] for step in steps[taken]]
        return sum(values) / len(values)

    told, followed = ((mean(part, slice(5)), mean(part, slice(-15, None))) for part in steps[0].parts)
    print(f"\nmasked token {told[0]:.2f} -> {told[1]:.2f}, next sentence {followed[0]:.2f} -> {followed[1]:.2f}")
    assert told[1] < told[0] - 0.6
    assert followed[1] < 0.6 < followed[0], "chance is 0.69"
