"""Which tokens are hidden (arXiv 1810.04805), by their numbers."""

from __future__ import annotations

import pytest
import torch

from hornbook.train.batch import IGNORED
from hornbook.train.masking import Masking

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


def test_words_are_hidden_whole_and_no_more_tokens_than_otherwise() -> None:
    draw = torch.Generator().manual_seed(2)
    ids = torch.randint(4, 1000, (300, 42), generator=draw)
    ids[:, 0], ids[:, -1] = CLS, SEP
    words = torch.rand(ids.shape, generator=draw) < 0.5
    words[:, :2] = words[:, -1] = True
    words[0] = False  # one word of forty tokens
    words[0, 1] = True
    _, labels = Masking(1000, MASK, [CLS, SEP, PAD])(ids, draw, words=words)
    chosen = labels != IGNORED
    number = words.long().cumsum(1)
    for row in range(1, 300):
        taken = set(number[row][chosen[row]].tolist())
        assert chosen[row].tolist() == [int(n) in taken for n in number[row]], "all of a word or nothing"
    assert chosen[0].sum() == 40 and not chosen[:, [0, -1]].any()
    counts = chosen[1:].sum(1)
    assert counts.min() >= 1 and counts.float().mean() > 5.5 and counts.median() == 6, "round(0.15 * 40)"
