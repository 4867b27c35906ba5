"""The same words are found whatever their dress; near duplicates as often as the published curve says."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hornbook.data.duplicates import Exact, MinHash, clusters, exact_key, similarity
from hornbook.errors import UsageError

LETTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 900)]


def document(chance: random.Random, words: int = 200) -> list[str]:
    return [f"w{chance.randrange(5000)}" for _ in range(words)]


def changed(words: list[str], chance: random.Random, count: int) -> list[str]:
    made = list(words)
    for place in chance.sample(range(len(made)), count):
        made[place] = f"x{chance.randrange(10**6)}"
    return made


def jaccard(minhash: MinHash, one: str, other: str) -> float:
    a, b = set(minhash.shingles(one).tolist()), set(minhash.shingles(other).tolist())
    return len(a & b) / len(a | b)


def test_exact_duplicates_share_their_words_not_their_dress() -> None:
    exact = Exact()
    texts = [
        "Hello, World!",
        "hello  world",
        "ＨＥＬＬＯ,\n\nworld!",
        "hello worlds",
        "你好，世界",
        "你好,世界",
        "3+4",
        "3-4",
        "",
    ]
    assert [exact.first(exact_key(text), i) for i, text in enumerate(texts)] == [
        None,
        None,
        0,
        *[None] * 2,
        4,
        *[None] * 3,
    ]


def test_the_estimate_is_that_of_jaccard_within_its_error() -> None:
    chance, minhash = random.Random(3), MinHash(hashes=256)
    for count in (2, 8, 20):
        one = document(chance)
        a, b = " ".join(one), " ".join(changed(one, chance, count))
        true = jaccard(minhash, a, b)
        error = (true * (1 - true) / 256) ** 0.5
        assert float(similarity(minhash.signature(a), minhash.signature(b))) == pytest.approx(true, abs=4 * error)


def test_candidates_follow_the_published_curve() -> None:
    """How often random signatures that agree with probability s share a band, against 1 - (1 - s^R)^B."""
    minhash, random_ = MinHash(), np.random.default_rng(0)
    bands, rows = minhash.bands
    for s in (0.5, 0.7, 0.8, 0.9):
        agree = random_.random((4000, bands, rows)) < s
        found = float(agree.all(2).any(1).mean())
        assert found == pytest.approx(minhash.probability(s), abs=0.03)
    assert minhash.probability(0.5) < 0.2 and minhash.probability(0.9) > 0.98
    assert bands * rows <= 128


def test_planted_near_duplicates_are_found_and_nothing_else() -> None:
    chance, minhash = random.Random(11), MinHash()
    originals = [document(chance) for _ in range(150)]
    planted = [changed(originals[i], chance, 2) for i in range(100)]  # similarity about 0.9
    apart = [changed(originals[100 + i], chance, 25) for i in range(50)]  # about 0.3
    texts = [" ".join(words) for words in (*originals, *planted, *apart)]
    found = clusters(np.stack([minhash.signature(text) for text in texts]), minhash)
    assert (found[:150] == np.arange(150)).all(), "originals are unlike each other"
    assert (found[150:250] == np.arange(100)).mean() >= 0.98, "recall"
    assert (found[250:] == np.arange(250, 300)).mean() >= 0.98, "precision"


def test_chinese_near_duplicates_are_found_by_characters() -> None:
    chance, minhash = random.Random(2), MinHash()
    one = [chance.choice(LETTERS) for _ in range(400)]
    two = list(one)
    two[200] = "龘"
    other = [chance.choice(LETTERS) for _ in range(400)]
    found = clusters(np.stack([minhash.signature("".join(text)) for text in (other, one, two)]), minhash)
    assert found.tolist() == [0, 1, 1]


def test_a_chain_is_one_cluster_and_its_first_stays_also_in_a_great_bucket() -> None:
    chance, minhash = random.Random(5), MinHash(threshold=0.7)
    words, chain = document(chance), []
    for _ in range(12):
        chain.append(" ".join(words))
        words = changed(words, chance, 2)
    signatures = np.stack([minhash.signature(text) for text in chain])
    assert float(similarity(signatures[0], signatures[-1])) < 0.5
    assert clusters(signatures, minhash).tolist() == [0] * 12
    many = np.repeat(signatures[:1], 500, axis=0)
    assert clusters(many, minhash).tolist() == [0] * 500
    assert clusters(many[:0], minhash).tolist() == []


def test_signatures_are_the_same_in_every_run_and_short_texts_have_one() -> None:
    minhash = MinHash(hashes=16)
    assert minhash.signature("the cat sat on the mat").tolist() == SIGNATURE
    assert (minhash.signature("Two  CATS!") == minhash.signature("two cats!")).all()
    assert (minhash.signature("3+4") != minhash.signature("3-4")).any()
    assert (MinHash(hashes=16, seed=1).signature("a b c") != minhash.signature("a b c")).any()


def test_what_finds_nothing_is_refused() -> None:
    for wrong in ({"threshold": 0.0}, {"threshold": 1.2}, {"hashes": 4}, {"shingle": 0}):
        with pytest.raises(UsageError):
            MinHash(**wrong)  # type: ignore[arg-type]


# Made once by this code on x86-64: that it stays is what lets a run be resumed and repeated elsewhere.
SIGNATURE = [
    3884527037,
    161396689,
    3275191279,
    3958033193,
    261792729,
    1409616337,
    1108608556,
    4058163459,
    677166712,
    1345008817,
    90315348,
    1568793383,
    223580603,
    1149913212,
    1451235865,
    4075360684,
]
