from __future__ import annotations

import numpy as np
import pytest

from hornbook.retrieve import sparse
from hornbook.retrieve.analyze import terms
from hornbook.retrieve.sparse import Postings, SegmentLengths, bm25, concatenate, invert


def words(text: str) -> set[str]:
    return set(terms(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("wings", "wing"),
        ("Running", "RUNS"),
        ("café", "cafe"),
        ("Wing's", "wings"),
        ("ＡＢＣ１２", "abc12"),
        ("1,000", "1000"),
        ("maxLift", "max lift"),
        ("max_lift", "lift"),
        ("HTTPServer", "server"),
        ("Straße", "strasse"),
        ("МОСКВА", "москва"),
        ("電池", "電池は"),
        ("한국어", "한국어를"),
        ("使用Python编程", "python"),
    ],
)
def test_two_ways_to_write_a_word_meet(one: str, other: str) -> None:
    assert words(one) & words(other)


def test_chinese_and_japanese_are_single_characters_and_pairs() -> None:
    assert terms("电池组") == ["电", "池", "组", "电池", "池组"]


def test_identifiers_and_numbers_count_whole() -> None:
    assert {"max_lift", "max", "lift"} <= words("max_lift")
    assert words("H2O") == {"h2o"}
    assert words("version 2.13.0 costs 3.14") >= {"2.13.0", "3.14"}
    assert not words("the of what is it's") and not words("?! … —")
    assert max(map(len, terms("A" * 5000 + " " + "ab1" * 5000))) <= 64


def one_segment(passages: list[list[str]]) -> tuple[SegmentLengths, dict[str, dict[int, Postings]]]:
    lengths, postings = invert(passages)
    segment = SegmentLengths(1, lengths.astype(np.float32), np.ones(len(passages), bool))
    return segment, {term: {1: lists} for term, lists in postings}


def random_passages(n: int, seed: int = 0) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[f"w{w}" for w in random.zipf(1.3, random.integers(1, 60)) if w < 400] for _ in range(n)]


def test_scores_are_those_of_bm25s_on_the_same_terms() -> None:
    bm25s = pytest.importorskip("bm25s")
    passages = [p or ["empty"] for p in random_passages(300)]
    reference = bm25s.BM25(method="lucene", k1=sparse.K1, b=sparse.B)
    reference.index(passages, show_progress=False)
    segment, postings = one_segment(passages)
    for query in (["w1"], ["w2", "w7", "w90"], ["w3", "w3", "w399"], ["nowhere"], ["w5", "nowhere"]):
        known = [w for w in query if w in postings]
        expected = reference.get_scores(known) if known else np.zeros(300)
        scores, _ = bm25(query, [segment], postings)
        np.testing.assert_allclose(scores[0], expected, rtol=1e-5, atol=1e-6)


def test_what_is_deleted_or_split_among_segments_changes_no_score() -> None:
    passages = random_passages(200)
    keep = np.random.default_rng(1).random(200) < 0.6
    fresh, fresh_postings = one_segment([p for p, kept in zip(passages, keep, strict=True) if kept])
    query = ["w1", "w4", "w20"]
    expected, most = bm25(query, [fresh], fresh_postings)
    parts, postings = [], {}
    for id, (start, end) in enumerate([(0, 50), (50, 51), (51, 200)]):
        lengths, lists = invert(passages[start:end])
        parts.append(SegmentLengths(id, lengths.astype(np.float32), keep[start:end]))
        for term, entry in lists:
            postings.setdefault(term, {})[id] = entry
    scores, attainable = bm25(query, parts, postings)
    np.testing.assert_allclose(np.concatenate(scores)[keep], expected[0], rtol=1e-5)
    assert not np.concatenate(scores)[~keep].any()
    assert attainable == pytest.approx(most) and attainable > expected[0].max()


def test_merged_postings_are_those_of_the_merged_passages() -> None:
    passages = random_passages(120)
    keep = np.random.default_rng(4).random(120) < 0.7
    place = np.random.default_rng(5).permutation(int(keep.sum()))  # a merge may reorder the rows
    new_row, lists, at = {}, [], 0
    for id, (start, end) in enumerate([(0, 40), (40, 41), (41, 120)]):
        alive = keep[start:end]
        new_row[id] = np.full(end - start, -1)
        new_row[id][alive] = place[at : at + alive.sum()]
        at += alive.sum()
        _, postings = invert(passages[start:end])
        lists += [(term, id, rows.tobytes(), counts.tobytes()) for term, (rows, counts) in postings]
    lists.sort()
    live = [p for p, kept in zip(passages, keep, strict=True) if kept]
    ordered = [live[old] for old in np.argsort(place)]
    expected = [(term, rows.tolist(), counts.tolist()) for term, (rows, counts) in invert(ordered)[1]]
    merged = [(term, rows.tolist(), counts.tolist()) for term, (rows, counts) in concatenate(lists, new_row)]
    assert merged == expected


def test_a_count_beyond_a_byte_saturates() -> None:
    _, postings = one_segment([["a"] * 1000, ["b"]])
    assert postings["a"][1].counts.tolist() == [255]
