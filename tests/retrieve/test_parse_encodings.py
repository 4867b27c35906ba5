"""Texts in the encodings that documents are met in come back as they were written."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

import pytest

from hornbook.retrieve.parse import parse, parse_bytes

GERMAN = (
    "Die Prüfung der Straßenbahn fällt heute aus, weil über Nacht größere Schäden an den Gleisen entstanden sind.\n"
)
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた事だけは記憶している。\n"
CHINESE = (
    "北京是中华人民共和国的首都,也是全国的政治、文化中心。这座城市有三千多年的历史,每年有许多人来这里参观故宫和长城。\n"
)
TAIWAN = (
    "臺北市是臺灣的首都,也是政治、文化和經濟的中心。這座城市每年吸引許多來自世界各地的旅客,參觀故宮博物院和各種夜市。\n"
)
KOREAN = (
    "서울은 대한민국의 수도이며 가장 큰 도시이다. 한강을 사이에 두고 남북으로 펼쳐져 있으며 많은 사람들이 살고 있다.\n"
)
RUSSIAN = "Москва является столицей России и крупнейшим городом страны. Каждый год сюда приезжают миллионы туристов.\n"
EVERY = {"de": GERMAN, "ja": JAPANESE, "zh": CHINESE, "tw": TAIWAN, "ko": KOREAN, "ru": RUSSIAN}


@pytest.mark.parametrize("language", EVERY)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_of_every_width_with_a_mark(encoding: str, language: str) -> None:
    assert parse_bytes(EVERY[language].encode(encoding), "a.txt").text == EVERY[language].strip()


def test_big_endian_with_a_mark() -> None:
    for mark, encoding in ((codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_BE, "utf-32-be")):
        assert parse_bytes(mark + CHINESE.encode(encoding), "a.txt").text == CHINESE.strip()


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_unicode_without_a_mark(encoding: str) -> None:
    assert parse_bytes(GERMAN.encode(encoding), "a.txt").text == GERMAN.strip()


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *[(GERMAN, "cp1252"), (JAPANESE, "cp932"), (JAPANESE, "euc_jp"), (JAPANESE, "iso2022_jp")],
        *[(CHINESE, "gb18030"), (TAIWAN, "big5"), (KOREAN, "euc_kr"), (RUSSIAN, "koi8_r"), (RUSSIAN, "cp1251")],
    ],
)
def test_an_encoding_that_nobody_names_is_found(text: str, encoding: str) -> None:
    assert parse_bytes((text * 3).encode(encoding), "a.txt").text == (text * 3).strip()


@pytest.mark.parametrize("encoding", ["shift_jis", "euc_jp", "gb18030", "big5", "euc_kr", "koi8_r"])
def test_a_page_is_read_in_the_encoding_it_declares(encoding: str) -> None:
    word = {"koi8_r": "Москва", "euc_kr": "서울", "gb18030": "北京", "big5": "臺北"}.get(encoding, "東京")
    page = f"<meta charset={encoding}><p>{word}</p>".encode(encoding)
    assert parse_bytes(page, "a.html").text == word
    record = f'<?xml version="1.0" encoding="{encoding}"?><a>{word}</a>'.encode(encoding)
    assert word in parse_bytes(record, "a.xml").text


def test_a_wrong_declaration_is_not_believed() -> None:
    for declared in ("shift_jis", "no-such-encoding", "hex"):
        assert parse_bytes(f"<meta charset={declared}><p>Größe 北京</p>".encode(), "a.html").text == "Größe 北京"


def test_line_ends_and_composed_letters_give_one_text_and_exact_spans() -> None:
    document = parse_bytes(unicodedata.normalize("NFD", "é\r\n\r\nü\rö\n").encode(), "a.txt")
    assert document.text == "é\n\nü\nö"
    assert [document.text[p.start : p.end] for p in document.pieces] == ["é", "ü\nö"]


def test_a_japanese_sheet_of_real_life(shared: Path) -> None:
    path = shared / "docs/markitdown/test_mskanji.csv"
    first = path.read_bytes().decode("cp932").split()[0].split(",")[0]
    assert first in parse(path).text
