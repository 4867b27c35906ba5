"""PDF: lines a person can cite, in the order they are read, in whatever direction and script they are set."""

from __future__ import annotations

from pathlib import Path

import pytest

from hornbook.errors import ParseError
from hornbook.retrieve.parse import layout, parse, parse_bytes
from hornbook.types import Document


@pytest.fixture(scope="module")
def docs(shared: Path) -> Path:
    return shared / "docs"


def pdf(*pages: list[tuple[float, float, float, str]]) -> bytes:
    """A PDF in Helvetica; each text stands at (x, y) in a size, in points from the lower left of a page of 600 x 800."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for texts in pages:
        content = "".join(f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET\n" for x, y, size, text in texts)
        kids.append(f"{len(objects) + 1} 0 R")
        resources = "<< /Font << /F1 3 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources {resources} "
            f"/Contents {len(objects) + 2} 0 R >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}endstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return (out + f"xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}").encode("latin-1")


def spans(*lines: str, size: float = 10.0, left: float = 50.0) -> list[layout.Span]:
    """Each line as one span, a full-width character one em wide, other characters half of one."""
    made = []
    for at, text in enumerate(lines):
        width = sum(size if ord(sign) > 0x2E7F else size / 2 for sign in text)
        base = 700.0 - 1.3 * size * at
        made.append(layout.Span(text, left, left + width, base, base + 0.8 * size, size, origin=(left, base)))
    return made


def paragraphs(made: list[layout.Span]) -> list[str]:
    lines = layout.reading_order(made)
    return [layout.join(block.lines, layout.whole_words(lines)) for block in layout.blocks(lines)]


def lines_of(document: Document) -> list[str]:
    return document.text.split("\n")


def test_a_receipt_gives_lines_that_can_be_cited(docs: Path) -> None:
    document = parse(docs / "markitdown/RECEIPT-2024-TXN-98765_retail_purchase.pdf")
    for line in ("SUBTOTAL $863.91", "Sales Tax (8.5%) $66.23", "TOTAL $821.14", "ACC-8834 2 @ $79.99", "Auth: 847392"):
        assert line in lines_of(document)
    assert document.title == "TECHMART ELECTRONICS"
    assert not any("TOTAL" in piece.section for piece in document.pieces)  # the sum is no heading of what follows


def test_a_form_keeps_the_cells_of_its_rows_and_its_pages(docs: Path) -> None:
    document = parse(docs / "markitdown/REPAIR-2022-INV-001_multipage.pdf")
    assert "Insured name | Gabriel Diaz | Year | 2022" in lines_of(document)
    assert "GRAND TOTAL | 5,738" in lines_of(document)
    second = document.text.index("Bruce Wayne")
    assert next(p.page for p in document.pieces if p.start <= second < p.end) == 2
    assert max(p.page or 0 for p in document.pieces) == 3


def test_a_paper_flows_over_its_lines(docs: Path) -> None:
    document = parse(docs / "markitdown/test.pdf")
    assert document.pieces[0].kind == "heading" and document.title == "1 Introduction"
    assert "Large language models (LLMs) are becoming a crucial building block in developing powerful agents" in (
        document.text
    )


def test_a_page_turned_by_a_quarter_reads_straight(docs: Path) -> None:
    document = parse(docs / "unstructured/rotated-page-90.pdf")
    assert lines_of(document)[::2] == ["Hello World Test Text", "Second line of text here", "Rotated page fixture"]


def test_chinese_text_is_read(docs: Path) -> None:
    assert parse(docs / "zh/ocr_test.pdf").text == "我是文字"


def test_a_font_of_one_point_that_a_matrix_enlarges_has_one_size(docs: Path) -> None:
    document = parse(docs / "unstructured/pdf/embedded-link.pdf")
    assert lines_of(document)[-1] == (
        "2. Now, what would happen if the embedded url is across two lines with broken list item group capturing?"
    )
    assert not [piece for piece in document.pieces if piece.kind == "heading"]


def test_a_scan_says_that_it_has_no_text(docs: Path) -> None:
    for name in ("markitdown/MEDRPT-2024-PAT-3847_medical_report_scan.pdf", "unstructured/pdf/loremipsum-flat.pdf"):
        with pytest.raises(ParseError, match="no text found \\(scanned\\?\\)"):
            parse(docs / name)


def test_two_columns_are_read_one_after_the_other() -> None:
    left = [f"left column line {n} tells of rivers and" for n in range(12)]
    right = [f"right column line {n} tells of hills and" for n in range(12)]
    texts: list[tuple[float, float, float, str]] = [(50, 760, 20, "A Title over Both of the Columns")]
    for at, (one, other) in enumerate(zip(left, right, strict=True)):
        texts += [(50, 720 - 14 * at, 10, one), (320, 720 - 14 * at, 10, other)]
    document = parse_bytes(pdf(texts), "columns.pdf")
    assert document.pieces[0].kind == "heading" and document.title == "A Title over Both of the Columns"
    flowing = document.text.replace("\n", " ")
    places = [flowing.index(line) for line in left + right]
    assert places == sorted(places)


def test_pages_are_numbered_from_one_and_headings_hold_over_them() -> None:
    first = [(50.0, 700.0, 18.0, "Chapter One"), (50.0, 660.0, 10.0, "It begins here with some words of plain text.")]
    second = [(50.0, 700.0, 10.0, "It goes on here with many more words of plain text.")]
    document = parse_bytes(pdf(first, second), "two.pdf")
    assert [(p.page, p.section) for p in document.pieces] == [
        (1, "Chapter One"),
        (1, "Chapter One"),
        (2, "Chapter One"),
    ]


def test_lines_of_chinese_and_japanese_join_without_a_space() -> None:
    assert paragraphs(spans("这是一个很长的句子它在这里", "换行然后继续写下去。")) == [
        "这是一个很长的句子它在这里换行然后继续写下去。"
    ]
    assert paragraphs(spans("これはとても長い文章なので", "次の行に続いています。")) == [
        "これはとても長い文章なので次の行に続いています。"
    ]


def test_lines_of_english_join_with_a_space() -> None:
    assert paragraphs(spans("the line is full and goes on", "to the next")) == [
        "the line is full and goes on to the next"
    ]


@pytest.mark.parametrize(
    ("end", "start", "known", "whole"),
    [
        ("the infor-", "mation is", "information", "the information is"),
        ("a well-", "known fact", "well-known", "a well-known fact"),
    ],
)
def test_a_word_divided_at_a_line_end_is_mended(end: str, start: str, known: str, whole: str) -> None:
    lines = layout.reading_order(spans(end, start))
    assert layout.join(lines, {known}) == whole
