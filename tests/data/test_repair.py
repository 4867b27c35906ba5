"""Texts are put right where storage hurt them, and nowhere else."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hornbook.data.repair import repair

HURT = [
    ("schÃ¶n und gut", "schön und gut", "mojibake"),
    ("It was \u00e2\u20ac\u0153quoted\u00e2\u20ac\u009d", "It was “quoted”", "mojibake"),
    ("日本語の文章です。".encode().decode("latin-1"), "日本語の文章です。", "mojibake"),
    ("\ufeffHello\x00 wor\x07ld\ufffe", "Hello world", "control"),
    ("\x1b[31mred\x1b[0m", "red", "control"),
    ("a\r\nb\rc\u2028d", "a\nb\nc\nd", "line ends"),
    ("cafe\u0301 か\u3099", "café が", "composition"),
    ("a\ud83d\ude00b", "a😀b", "surrogates"),
    ("lone \ud800.", "lone \ufffd.", "surrogates"),
]
SOUND = [
    "plain ASCII,\n\ttabs and lines\n", "“curly” ﬁne ＡＢＣ，全角！", "L&amp;M &lt;b&gt;", "naïve Übergröße, ¿qué?", "中文和日本語と한국어", "नमस्ते दुनिया",
    "👩\u200d👩\u200d👧 family", "مرحبا\u200fبك", "São Paulo, SÃO PAULO", "", "a\u00a0b",
]  # fmt: skip


@pytest.mark.parametrize(("hurt", "right", "name"), HURT)
def test_what_was_hurt_is_put_right_and_named(hurt: str, right: str, name: str) -> None:
    found = repair(hurt)
    assert found.text == right
    assert name in found.changes
    assert repair(right) == (right, ())


@pytest.mark.parametrize("text", SOUND)
def test_what_is_sound_stays_as_it_is(text: str) -> None:
    assert repair(text) == (text, ())


def test_real_texts_of_three_languages_stay(shared: Path) -> None:
    for name in ("wagahai_ja.txt.gz", "cmrc_trial_contexts_zh.txt.gz", "botchan_en.txt.gz"):
        with gzip.open(shared / "lm_text" / name, "rt", encoding="utf-8", newline="") as file:
            text = file.read(60_000).replace("\r\n", "\n").removeprefix("\ufeff")
        found = repair(text)
        assert "mojibake" not in found.changes
        assert abs(len(found.text) - len(text)) <= 20, name
