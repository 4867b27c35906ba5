"""Every real document beside the project: read whole or refused for the right reason, and the same each time."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from hornbook.errors import ParseError
from hornbook.retrieve.parse import FORMATS, parse
from hornbook.types import Document

REFUSED = {
    "MEDRPT-2024-PAT-3847_medical_report_scan.pdf": "no text found (scanned?)",
    "loremipsum-flat.pdf": "no text found (scanned?)",
    "simple.doc": "old Word format",
}


@pytest.fixture(scope="module")
def documents(shared: Path) -> dict[str, Document | ParseError]:
    """Every file of the folder under its path there: a document, or why there is none."""
    folder = shared / "docs"
    found: dict[str, Document | ParseError] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                found[path.relative_to(folder).as_posix()] = parse(path)
            except ParseError as error:
                found[path.relative_to(folder).as_posix()] = error
    return found


@pytest.fixture(scope="module")
def read(documents: dict[str, Document | ParseError]) -> dict[str, Document]:
    return {name: found for name, found in documents.items() if isinstance(found, Document)}


def test_every_file_is_read_or_refused_for_its_reason(documents: dict[str, Document | ParseError]) -> None:
    assert len(documents) >= 70
    refused = {
        name.rpartition("/")[2]: found.what for name, found in documents.items() if isinstance(found, ParseError)
    }
    assert refused.keys() == REFUSED.keys()
    for name, reason in REFUSED.items():
        assert reason in refused[name]


def test_pieces_are_ordered_apart_and_cover_every_visible_character(read: dict[str, Document]) -> None:
    for name, document in read.items():
        end = 0
        for piece in document.pieces:
            assert end <= piece.start < piece.end <= len(document.text), name
            assert not document.text[end : piece.start].strip(), name
            span = document.text[piece.start : piece.end]
            assert span == span.strip(), name
            end = piece.end
        assert document.pieces and end == len(document.text), name


def test_text_is_clean_and_normalised(read: dict[str, Document]) -> None:
    for name, document in read.items():
        signs = {sign for sign in document.text if unicodedata.category(sign) in ("Cc", "Cs", "Co")} - {"\n", "\t"}
        assert not signs, (name, signs)
        assert unicodedata.is_normalized("NFC", document.text), name
        assert "\ufffd" not in document.text, name
        assert "\n\n\n" not in document.text, name


def test_places_are_such_as_a_person_can_go_to(read: dict[str, Document]) -> None:
    for name, document in read.items():
        assert document.title.strip() and "\n" not in document.title, name
        assert document.media_type and document.id, name
        pages = [piece.page for piece in document.pieces if piece.page is not None]
        assert pages == sorted(pages) and all(page >= 1 for page in pages), name
        lines = [piece.line for piece in document.pieces if piece.line is not None]
        assert all(line >= 1 for line in lines), name
        if Path(name).suffix in (".pdf", ".pptx"):
            assert len(pages) == len(document.pieces), name
        if Path(name).suffix in (".md", ".txt", ".rst", ".org", ".csv", ".tsv", ".yaml"):
            assert len(lines) == len(document.pieces) and lines == sorted(lines), name


def test_a_second_reading_gives_the_same(shared: Path, read: dict[str, Document]) -> None:
    for name, document in read.items():
        if len(document.text) < 20_000:
            assert parse(shared / "docs" / name) == document, name


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("RECEIPT-2024-TXN-98765_retail_purchase.pdf", "RECEIPT-2024-TXN-98765_retail_purchase.md"),
        ("REPAIR-2022-INV-001_multipage.pdf", "REPAIR-2022-INV-001_multipage.md"),
        ("test.pdf", "test.md"),
    ],
)
def test_the_words_of_another_converter_are_found(
    shared: Path, read: dict[str, Document], name: str, reference: str
) -> None:
    theirs = (shared / "docs/markitdown/expected_outputs" / reference).read_text("utf-8")
    expected = Counter(re.findall(r"\w+", theirs.lower()))
    ours = Counter(re.findall(r"\w+", read[f"markitdown/{name}"].text.lower()))
    found = (expected & ours).total()
    assert found >= 0.95 * expected.total(), sorted((expected - ours).elements())[:20]
    assert ours.total() <= 1.1 * expected.total()


def test_every_listed_format_has_its_module() -> None:
    from importlib import import_module

    for suffix, format in FORMATS.items():
        assert suffix == suffix.lower() and suffix.startswith(".")
        assert callable(import_module(f"hornbook.retrieve.parse.{format.module}").parse)


def test_the_page_of_formats_names_every_suffix() -> None:
    page = (Path(__file__).parents[2] / "docs" / "documents.md").read_text("utf-8")
    assert {suffix for suffix in FORMATS if f"`{suffix}`" not in page} == set()
