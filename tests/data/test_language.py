"""Languages are told where a text tells them, and not guessed where it does not."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from hornbook.data.language import identify

TEXTS = {
    "en": "The committee met again on Tuesday to discuss the budget.",
    "de": "Der Ausschuss tagte am Dienstag erneut, um über den Haushalt zu beraten.",
    "fr": "Le comité s'est réuni de nouveau mardi pour discuter du budget.",
    "ru": "Комитет снова собрался во вторник, чтобы обсудить бюджет страны.",
    "ar": "اجتمعت اللجنة مرة أخرى يوم الثلاثاء لمناقشة الميزانية العامة.",
    "hi": "समिति मंगलवार को बजट पर चर्चा करने के लिए फिर से मिली।",
    "zh": "委员会星期二再次开会讨论预算。",
    "ja": "委員会は火曜日に予算について再び話し合った。",
    "ko": "위원회는 화요일에 다시 모였다.",
    "th": "คณะกรรมการประชุมอีกครั้ง",
    "el": "Η επιτροπή συνεδρίασε",
}


@pytest.mark.parametrize("code", TEXTS)
def test_a_sentence_tells_its_language(code: str) -> None:
    assert identify(TEXTS[code]).code == code


@pytest.mark.parametrize(
    "text", ["", "Hello", "OK, yes", "12345 67890 !!", "北京", "asdf qwer zxcv uiop hjkl vbnm", "\n\n"]
)
def test_what_says_too_little_is_unknown(text: str) -> None:
    assert identify(text).code == "unknown"


def test_chinese_that_quotes_a_japanese_name_is_chinese_and_kana_makes_japanese() -> None:
    assert (
        identify("他最喜欢的动画是由吉卜力工作室制作的《となりの》，讲述了两个女孩在乡下的故事，非常感人。").code
        == "zh"
    )
    assert identify("東京都知事選挙の結果").code == "ja"
    assert identify("Python 是一种编程语言").code == "zh"


def test_real_documents_are_told_right(shared: Path) -> None:
    for name, code, least in (
        ("cmrc_trial_contexts_zh", "zh", 1.0),
        ("wagahai_ja", "ja", 0.95),
        ("botchan_en", "en", 0.99),
    ):
        with gzip.open(shared / "lm_text" / f"{name}.txt.gz", "rt", encoding="utf-8") as file:
            lines = [line for line in file if len(re.findall(r"\w", line)) > 40][:200]
        told = [identify(line).code for line in lines]
        assert told.count(code) / len(told) >= least, (name, {other: told.count(other) for other in set(told)})


def test_the_answer_does_not_depend_on_what_was_asked_before() -> None:
    before = {code: identify(text) for code, text in TEXTS.items()}
    assert before == {code: identify(TEXTS[code]) for code in reversed(TEXTS)}
