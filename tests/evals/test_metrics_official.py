"""The measures of SQuAD 2.0, CMRC 2018 and WikiTableQuestions on odd answers.

The numbers beside the cases are those of the official scripts (evaluate-v2.0.py, cmrc2018_evaluate.py, evaluator.py), which no
installed package has; each can be worked out by hand.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from nltk.tokenize import TreebankWordTokenizer

from hornbook.evals.metrics import chinese, denotation, squad
from hornbook.evals.metrics.exact import exact_match, same_number

# ---------------------------------------------------------------------------------------------------------- SQuAD


@pytest.mark.parametrize(
    ("text", "golds", "exact", "f1"),
    [
        ("", [], 1, 1),  # silence is right where there is no answer
        ("Paris", [], 0, 0),
        ("the", [], 1, 1),  # articles alone are silence
        ("...!", [], 1, 1),  # so is punctuation alone
        ("", ["Paris"], 0, 0),
        ("the", ["a"], 1, 1),  # a right answer of which nothing is left is none
        ("Paris", ["the", "Paris"], 1, 1),  # and does not count beside a real one
        ("", ["the", "Paris"], 0, 0),
        ("The Paris!", ["paris"], 1, 1),
        ("in Paris", ["Paris", "the city of Paris"], 0, 2 / 3),
        ("Paris Paris", ["Paris"], 0, 2 / 3),  # a word counts as often as it stands in both
        ("Café", ["Cafe"], 0, 0),  # accents are letters
        ("U.S.", ["us"], 1, 1),
        ("“Paris”", ["Paris"], 0, 0),  # quotes beyond ASCII are letters too
        ("well-known", ["well known"], 0, 0),
        ("北京", ["北京"], 1, 1),
        ("北京市", ["北京"], 0, 0),  # without spaces, a word is the whole
        ("a\u00a0cat\tsat", ["cat sat"], 1, 1),
        ("42", ["42.0"], 0, 0),
        ("theatre", ["atre"], 0, 0),  # an article is a word of its own
    ],
)
def test_squad_of_one_answer(text: str, golds: Sequence[str], exact: float, f1: float) -> None:
    assert squad.exact(text, golds) == exact
    assert squad.f1(text, golds) == pytest.approx(f1, abs=1e-12)


ANSWERED = [  # text, right answers, how likely silence is
    ("Paris", ["Paris"], 0.1),
    ("in Rome", ["Rome"], 0.5),
    ("Oslo", [], 0.9),
    ("", [], 0.5),
    ("Bern", [], 0.2),
    ("", ["Wien"], 0.8),
    ("Riga", ["Riga", "Rīga"], 0.95),
]


def columns(answered: Sequence[tuple[str, Sequence[str], float]]) -> dict[str, np.ndarray]:
    grades = [squad.grade(*one) for one in answered]
    return {name: np.array([grade[name] for grade in grades]) for name in grades[0]}


def test_squad_of_a_set_of_answers() -> None:
    filled = columns(ANSWERED)
    values = {
        metric.name: float(metric.value(filled)) if metric.total else float(np.nanmean(filled[metric.name]))
        for metric in squad.METRICS
    }
    assert values == pytest.approx(
        {
            "exact": 3 / 7, "f1": (3 + 2 / 3) / 7, "HasAns_exact": 2 / 4, "HasAns_f1": (2 + 2 / 3) / 4,
            "NoAns_exact": 1 / 3, "NoAns_f1": 1 / 3,
            # All silent: 3 right. Paris (0.1) makes 4; every threshold above loses Bern, and wins back too little.
            "best_exact": 4 / 7, "best_exact_threshold": 0.1, "best_f1": 4 / 7, "best_f1_threshold": 0.1,
        }
    )  # fmt: skip


def official_best(scores: Sequence[float], answered: Sequence[tuple[str, Sequence[str], float]]) -> tuple[float, float]:
    """The search for a threshold as the paper describes it: each candidate in turn, and the score that it would give."""
    candidates = [0.0 - 1e-9, *(silence for _, _, silence in answered)]
    totals = {}
    for threshold in candidates:
        kept = [(s, a) for s, a in zip(scores, answered, strict=True) if a[2] <= threshold]
        silent = [a for a in answered if a[2] > threshold]
        totals[threshold] = sum(s for s, _ in kept) + sum(not golds for _, golds, _ in silent)
    best = max(totals.values())
    return best / len(answered), max(0.0, min(one for one, total in totals.items() if total > best - 1e-9))


def test_the_best_threshold_is_found_among_all() -> None:
    chance = random.Random(4)
    for _ in range(50):
        answered = [
            (chance.choice(["", "x", "x y", "z"]), chance.choice([[], [], ["x"], ["x y", "y"]]), chance.random())
            for _ in range(12)
        ]
        filled = columns(answered)
        for name in ("exact", "f1"):
            scores = [squad.grade(*one)[name] for one in answered]
            best, threshold = official_best(scores, answered)
            assert float(squad.best(name)(filled)) == pytest.approx(best)
            if name == "exact":  # sums of thirds are equal but for the last bit, which decides between thresholds
                assert float(squad.threshold(name)(filled)) == threshold


def test_between_answers_of_one_silence_the_order_of_the_data_decides() -> None:
    right, wrong = ("Paris", ["Paris"], 0.5), ("Oslo", [], 0.5)
    assert float(squad.best("exact")(columns([right, wrong]))) == 1.0  # as evaluate-v2.0.py, which cuts between the two
    assert float(squad.best("exact")(columns([wrong, right]))) == 0.5


def test_thresholds_of_many_resamples_are_computed_at_once() -> None:
    filled = columns(ANSWERED)
    picked = np.random.default_rng(0).integers(0, len(ANSWERED), (20, len(ANSWERED)))
    for metric in squad.METRICS:
        if metric.total:
            together = metric.value({name: column[picked] for name, column in filled.items()})
            alone = [float(metric.value({name: column[one] for name, column in filled.items()})) for one in picked]
            assert together.tolist() == alone


# ----------------------------------------------------------------------------------------------------------- CMRC


@pytest.mark.parametrize(
    ("text", "golds", "exact", "f1"),
    [
        ("踢爆", ["踢爆"], 1, 1),
        ("踢爆。", ["踢爆"], 1, 1),  # Chinese punctuation is nothing
        ("《踢爆》", ["踢爆"], 1, 1),
        ("", ["踢爆"], 0, 0),
        ("即为踢爆", ["踢爆"], 0, 2 * 2 / 6),
        ("爆踢", ["踢爆"], 0, 2 * 1 / 4),  # a common run, not common characters
        ("二零零二年的北京", ["北京", "二零零二年"], 0, 2 * 5 / 13),  # the best of several
        ("4分钟", ["4 分钟"], 0, 1),  # spaces count for the one and not for the other
        ("打败了Serena Williams", ["serena williams"], 0, 2 * 2 / 7),  # a word is one piece, capitals aside
        ("2003年", ["2002年"], 0, 2 * 1 / 4),
        ("-", ["："], 1, 0),  # of punctuation alone nothing is left: the same, and without a common run
        ("テスト", ["テスト"], 1, 1),  # kana are no Chinese characters: one word
        ("テスト", ["テス"], 0, 0),
        ("a,b", ["a, b"], 0, 1),
    ],
)
def test_cmrc_of_one_answer(text: str, golds: Sequence[str], exact: float, f1: float) -> None:
    assert chinese.exact(text, golds) == exact
    assert chinese.f1(text, golds) == pytest.approx(f1, abs=1e-12)


def test_words_between_chinese_are_cut_as_the_treebank_cuts_them() -> None:
    reference = TreebankWordTokenizer()
    parts = ["hello", "don't", "it's", "3.14", "1,000", "5%", "$10", "(a)", "[b]", '"q"', "u.s.", "end.", "...", "a,b", ",476",
             "o'neil", "we'll", "&", "i'm", ";", "é", "テスト", "a@b.c", "x;y", "<t>", "what?!", "''", "km²"]  # fmt: skip
    chance = random.Random(1)
    for _ in range(500):
        text = chance.choice(["", " "]).join(chance.choice(parts) for _ in range(chance.randint(1, 4)))
        assert chinese.segments(text) == reference.tokenize(text), text


# --------------------------------------------------------------------------------------------------- denotations


@pytest.mark.parametrize(
    ("text", "golds", "right"),
    [
        ("Wolfe Tones", ["Wolfe Tones"], True),
        ("wolfe  tones.", ["Wolfe Tones"], True),
        ("Wolfe Tones (Meath)[2]†", ["Wolfe Tones"], True),
        ("“Café”", ['"Cafe"'], True),
        ("1942–45", ["1942-45"], True),
        ("", ["Wolfe Tones"], False),
        ("5", ["5.0"], True),
        ("5.0000001", ["5"], True),
        ("5.1", ["5"], False),
        ("1694", ["1,694"], False),  # a right answer is a number only where the data says so
        ("1694", ["1,694\t1694.0"], True),
        ("1,694", ["1,694\t1694.0"], True),
        ("1,694", ["1694"], False),
        ("inf", ["nan"], False),
        ("1_000", ["1000"], False),
        ("2001-05-05", ["May 5, 2001\t2001-05-05"], True),
        ("2001-5-5", ["May 5, 2001\t2001-05-05"], True),
        ("xx-05-05", ["May 5, 2001\t2001-05-05"], False),
        ("2001-05-xx", ["May 2001\t2001-05-xx"], True),
        ("2001-xx-xx", ["2001"], True),  # a year alone is a number
        ("2001-13-05", ["2001-13-05"], True),  # no date, the same text
        ("a|b", ["b", "a"], True),
        ("a|b|A", ["b", "a"], True),  # a set
        ("a", ["b", "a"], False),
        ("a|b|c", ["b", "a"], False),
        ("a, b", ["b", "a"], False),
        ("1|1.0", ["1"], True),
        ("北京", ["北京"], True),
    ],
)
def test_denotations(text: str, golds: Sequence[str], right: bool) -> None:
    assert denotation.same(text, golds) == float(right)


@pytest.mark.parametrize(
    ("text", "canon"),
    [
        ("492,111", "492111"), ("1,234.5", "1234.5"), ("12,34", ""), ("17 years", "17"), ("3 Doors", ""), ("three", "3"),
        ("January 26, 1995", "1995-1-26"), ("26 Jan. 1995", "1995-1-26"), ("May 5", "xx-5-5"), ("May 1995", "1995-5-xx"),
        ("1st of Sept 2001", "2001-9-1"), ("May 32", ""), ("Brazil", ""), ("2004", ""), ("", ""),
    ],
)  # fmt: skip
def test_numbers_and_dates_that_the_data_does_not_tell(text: str, canon: str) -> None:
    assert denotation.canonical(text) == canon


# ------------------------------------------------------------------------------------------------------- the rest


def test_exact_match_without_options_is_letter_by_letter() -> None:
    same = exact_match()
    assert same("a", ["b", "a"]) == 1.0
    assert same("a ", ["a"]) == same("A", ["a"]) == same("", []) == 0.0
    assert exact_match(case=False, punctuation=False)("A.b!", ["aB"]) == 1.0
    assert exact_match(case=False, punctuation=False)("北京。", ["北京"]) == 0.0  # ASCII's alone


@pytest.mark.parametrize(("text", "right"), [("1,200.", True), ("$1200", True), ("1200.00", True), ("1 200", True), ("12", False),
                                             ("", False), ("[invalid]", False), ("nan", False), ("1.2e3", True)])  # fmt: skip
def test_numbers_are_compared_as_numbers(text: str, right: bool) -> None:
    assert same_number(text, ["1200"]) == float(right)
    assert not same_number("nan", ["nan"])


def test_a_question_without_an_answer_has_no_part_in_the_score_of_the_others() -> None:
    grade = squad.grade("", [], 0.5)
    assert math.isnan(grade["HasAns_f1"]) and grade["NoAns_f1"] == 1.0
