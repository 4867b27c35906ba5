"""Spoiled and hostile documents: each gives a Document or a ParseError, soon, and in little memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from hornbook.errors import ParseError
from hornbook.retrieve.parse import parse_bytes

SEED, CASES = 1, 200
SOUND = {
    ".docx": ["unstructured/page-breaks.docx", "unstructured/hlink-meta.docx", "unstructured/docx-shapes.docx"],
    ".pptx": ["unstructured/simple.pptx", "unstructured/group-shapes-nested.pptx"],
    ".xlsx": ["unstructured/stanley-cups.xlsx", "unstructured/xlsx-subtable-cases.xlsx"],
    ".xls": ["markitdown/test.xls"],
    ".pdf": ["unstructured/pdf/fake-memo.pdf", "unstructured/rotated-page-90.pdf"],
    ".epub": ["markitdown/test.epub"],
    ".odt": ["unstructured/simple.odt"],
    ".ipynb": ["markitdown/test_notebook.ipynb"],
    ".eml": ["unstructured/eml/fake-email-attachment.eml", "unstructured/eml/mime-different-plain-html.eml"],
    ".rtf": ["unstructured/fake-doc.rtf"],
    ".html": ["unstructured/fake-html-cp1252.html", "unstructured/ideas-page.html"],
    ".json": ["unstructured/simple.json"],
    ".csv": ["unstructured/stanley-cups.csv"],
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the child measures itself through /proc")
@pytest.mark.parametrize("suffix", SOUND)
def test_each_of_200_spoiled_files_is_parsed_or_refused_with_a_reason(
    suffix: str, shared: Path, tmp_path: Path
) -> None:
    program = Path(__file__).with_name("mutated_documents.py")
    sound = [str(shared / "docs" / name) for name in SOUND[suffix]]
    command = [sys.executable, str(program), suffix, str(SEED), str(CASES), str(tmp_path), *sound]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120)
    # negative: killed by a signal, 14 (SIGALRM) for a file that took too long, 6 or 11 for a crash inside a library
    assert child.returncode == 0, f"ended with {child.returncode}\n{child.stderr[-3000:]}"
    outcomes = json.loads(child.stdout)
    assert outcomes["parsed"] + outcomes["refused"] == CASES
    assert outcomes["parsed"] and outcomes["refused"], outcomes


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("spaces.txt", b"a" + b" " * 1_000_000 + b"b"),
        ("spaces.eml", b"Subject: a\n\nx\n" + b" " * 500_000 + b"x"),
        ("list.html", (b"<ol><li>x</li>" * 1_000 + b"</ol>" * 1_000) * 10),
        ("table.toml", (b"[a" + b" " * 280 + b"\n") * 5_000),
        ("heading.org", b"* a" + b" " * 20_000 + b"x" + b" " * 20_000 + b"y"),
        ("list.json", b"[" + b",".join(b'"word %d"' % i for i in range(50_000)) + b"]"),
        ("one-line.js", b"function a(b){return b*2};var x=[1,2,3];" * 125_000),
        ("wide.csv", (b",".join(b"c%d" % i for i in range(10_000)) + b"\n") * 10),
        ("links.rtf", b"{\\rtf1 " + b'{\\field{\\*\\fldinst{HYPERLINK "a"}{\\fldrslt {b}}} and ' * 20_000 + b"}"),
        ("parts.eml", b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nhello\n" * 5_000 + b"--b--\n"),
    ],
)
def test_no_text_takes_more_than_linear_time(name: str, data: bytes) -> None:
    start = time.perf_counter()
    assert parse_bytes(data, name).text
    assert time.perf_counter() - start < 15  # a quadratic step takes far longer


@pytest.mark.parametrize("name", ["deep.json", "deep.ipynb"])
def test_deep_nesting_is_refused(name: str) -> None:
    with pytest.raises(ParseError):
        parse_bytes(b"[" * 1_000_000, name)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "http://127.0.0.1:9/x"])
def test_no_entity_is_read_from_outside(address: str) -> None:
    markup = f'<!DOCTYPE r [<!ENTITY x SYSTEM "{address}">]><r>hello &x; there</r>'
    try:
        text = parse_bytes(markup.encode(), "a.xml").text
    except ParseError:
        return
    assert "root:" not in text


def test_entities_do_not_multiply() -> None:
    entities = "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    try:
        text = parse_bytes(f'<!DOCTYPE l [<!ENTITY a "lol">{entities}]><l>hello &j;</l>'.encode(), "a.xml").text
    except ParseError:
        return
    assert len(text) < 1000


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_a_zip_bomb_is_named() -> None:
    with pytest.raises(ParseError, match="zip bomb"):
        parse_bytes(_zip({"word/document.xml": bytes(64 << 20)}), "a.docx")
    with pytest.raises(ParseError, match="zip bomb"):
        parse_bytes(_zip({f"{i}.xml": bytes(15 << 20) for i in range(36)}), "a.docx")


@pytest.mark.parametrize("sheet", ["xl/worksheets/s.xml", "xl/worksheets/s.XML", "elsewhere/s.xml"])
@pytest.mark.parametrize(
    "cell", ['<c r="XFD1048576"/>', '<c s=">" r="XFD1048576"/>', '<row r="1048576"/><c r="XFD1"/>']
)
def test_a_cell_far_away_is_refused_before_room_is_made_for_it(sheet: str, cell: str) -> None:
    with pytest.raises(ParseError, match="a sheet claims"):
        parse_bytes(_zip({sheet: f"<worksheet><sheetData>{cell}</sheetData></worksheet>".encode()}), "a.xlsx")


def test_strings_that_a_workbook_claims_and_has_not_are_refused() -> None:
    with pytest.raises(ParseError, match="claims"):
        parse_bytes(_zip({"xl/sharedStrings.xml": b'<sst uniqueCount="99999999999"/>'}), "a.xlsx")


@pytest.mark.parametrize("suffix", [".docx", ".pptx", ".xlsx", ".xls", ".pdf", ".epub", ".odt", ".rtf", ".ipynb"])
def test_a_wrong_suffix_and_an_empty_file_are_refused(suffix: str) -> None:
    for data in (b"", b" \n", b"x", b"<html>", _zip({"a": b"hello"})):
        if suffix == ".xls" and data in (b"x", b"<html>"):
            continue  # programs export pages and separated text under this name
        with pytest.raises(ParseError):
            parse_bytes(data, f"a{suffix}")
