"""The support score: what a source says, it supports; one changed word, number, name or "not", and it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hornbook.rag.support import THRESHOLD, support

BARRIER = "The abdominopelvic cavity is divided into two, but there is no physical barrier between the two."
AIRPORT = "The airport lies within Eglin Air Force Base, near Destin and Fort Walton Beach in Florida."
TRIAL = "In 2014, 120 patients received the drug in Boston and their blood pressure decreased significantly."
KANGAROO = "尤金袋鼠很细小，约只有8公斤重，适合饲养，最初是于一六二八年发现的。"


@pytest.mark.parametrize(
    ("sentence", "source"),
    [
        (TRIAL, TRIAL),
        ("The study found that in 2014 120 patients received the drug in Boston.", TRIAL),
        ("The blood pressure of the patients decreased.", TRIAL),
        ("There is no physical barrier between the two.", BARRIER),
        ("The airport lies near Destin and Fort Walton Beach.", AIRPORT),
        ("Twelve nights passed in the camp of the army.", "12 nights passed in the camp of the army."),
        ("尤金袋鼠很细小，约只有8公斤重。", KANGAROO),
        ("尤金袋鼠最初是于1628年发现的。", KANGAROO),
        ("Yes, there is a physical barrier between the two.", "There is a physical barrier between the two."),
    ],
)  # fmt: skip
def test_what_the_source_says_is_supported(sentence: str, source: str) -> None:
    assert support(sentence, [source]) >= THRESHOLD


@pytest.mark.parametrize(
    ("sentence", "source"),
    [
        ("In 2015, 120 patients received the drug in Boston.", TRIAL),
        ("In 2014, 120 patients received the drug in Chicago.", TRIAL),
        ("Their blood pressure increased significantly.", TRIAL),
        ("Their blood pressure decreased insignificantly.", TRIAL),
        ("120 patients did not receive the drug in Boston.", TRIAL),
        ("There is a physical barrier between the two.", BARRIER),
        ("The two are divided by a physical barrier, but there is no physical barrier between the two.", BARRIER),
        ("The airport lies within Destin and Fort Walton Beach.", AIRPORT),
        ("No, there is a physical barrier between the two.", "There is a physical barrier between the two."),
        ("The document does not mention the drug in Boston.", TRIAL),
        ("The airport was built with a loan from the state of Florida.", AIRPORT),
        ("尤金袋鼠约有9公斤重，适合饲养。", KANGAROO),
        ("尤金袋鼠不适合饲养。", KANGAROO),
        ("尤金袋鼠最初是于一七二八年发现的。", KANGAROO),
        ("Yes.", TRIAL),
        ("", TRIAL),
    ],
)
def test_what_the_source_does_not_say_is_not(sentence: str, source: str) -> None:
    assert support(sentence, [source]) < THRESHOLD


def test_a_name_may_come_from_what_the_source_stands_under() -> None:
    source = ["It was bottled by the Coca-Cola Company from 1995 on."]
    sentence = "Root beer by Barq was bottled by the Coca-Cola Company from 1995 on."
    assert support(sentence, source) == 0
    assert support("It was bottled by the Coca-Cola Company, says Barq.", source, context="Barq") >= THRESHOLD


def test_words_in_another_order_say_less() -> None:
    source = ["The committee of Alpha accepted the proposal and the director of Beta rejected the budget."]
    swapped = "The director of Beta accepted the proposal and the committee of Alpha rejected the budget."
    assert support(swapped, source) < support(source[0], source) == 1.0


def test_the_score_stays_between_zero_and_one_for_any_text() -> None:
    for text in ("\x00", "[1]" * 50, "no " * 500, "一" * 300, "1,000.5 % of 3", "ﬁ ½ ² Ⅳ", "𝔘𝔫𝔦"):
        assert 0.0 <= support(text, [text]) <= 1.0
        assert support("The plain sentence of five words.", [text]) == 0.0


@pytest.mark.parametrize("language", ["en", "zh"])
def test_sentences_of_real_documents_altered_and_not(support_benchmark: Any, shared: Path, language: str) -> None:
    def share(changes: tuple[Any, ...]) -> float:
        counts = [support_benchmark.accepted("report", language, change, THRESHOLD, limit=120) for change in changes]
        return sum(accepted for accepted, _ in counts) / sum(tried for _, tried in counts)

    assert share((support_benchmark.unchanged,)) >= 0.98
    assert share(support_benchmark.TRUE) >= 0.90
    assert share(support_benchmark.FALSE) <= 0.06
    assert share((support_benchmark.negated,)) <= 0.03
