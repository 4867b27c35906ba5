"""Word, PowerPoint, Excel, OpenDocument and RTF: the words, their order, and the place of each."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from hornbook.retrieve.parse import parse, parse_bytes
from hornbook.types import Document, Piece


@pytest.fixture(scope="module")
def docs(shared: Path) -> Path:
    return shared / "docs"


def words(document: Document, piece: Piece) -> str:
    return document.text[piece.start : piece.end]


def find(document: Document, text: str) -> Piece:
    """The only piece that holds the text."""
    found = [piece for piece in document.pieces if text in words(document, piece)]
    assert len(found) == 1, (text, len(found))
    return found[0]


def saved(document: object, name: str) -> Document:
    """Parse what python-docx or python-pptx would save."""
    file = io.BytesIO()
    document.save(file)  # type: ignore[attr-defined]
    return parse_bytes(file.getvalue(), name)


# ----------------------------------------------------------------------------------------------------------- Word


def test_word_headings_are_the_path_of_what_stands_under_them() -> None:
    import docx

    document = docx.Document()
    document.add_heading("Guide", 1)
    document.add_heading("Install", 2)
    document.add_paragraph("Run pip.")
    document.add_heading("Use", 1)
    document.add_paragraph("one", style="List Bullet")
    found = saved(document, "guide.docx")
    assert find(found, "Run pip.").section == "Guide > Install"
    assert find(found, "one").section == "Use" and find(found, "one").kind == "list"
    assert "- one" in found.text


def test_word_table_keeps_its_cells_and_merged_ones_stand_once() -> None:
    import docx

    document = docx.Document()
    table = document.add_table(2, 2)
    for at, text in enumerate(["a", "b", "c", "d"]):
        table.cell(at // 2, at % 2).text = text
    merged = document.add_table(2, 2)
    merged.cell(0, 0).merge(merged.cell(1, 0)).text = "tall"
    merged.cell(0, 1).text, merged.cell(1, 1).text = "up", "down"
    found = saved(document, "t.docx")
    assert [words(found, p) for p in found.pieces] == ["a | b\nc | d", "tall | up\n| down"]
    assert {p.kind for p in found.pieces} == {"table"}


def test_word_inserted_text_is_read_and_deleted_or_hidden_text_is_not() -> None:
    import docx
    from docx.oxml import OxmlElement

    document = docx.Document()
    paragraph = document.add_paragraph("shown ")
    paragraph.add_run("secret").font.hidden = True
    for tag, text in (("w:ins", "new"), ("w:del", "gone")):
        change = OxmlElement(tag)
        change.append(document.add_paragraph(text)._p.r_lst[0])
        paragraph._p.append(change)
    assert saved(document, "t.docx").text == "shown new"


def test_word_text_box_in_a_cell_is_read_once_though_it_is_kept_twice() -> None:
    import docx
    from lxml import etree

    document = docx.Document()
    cell = document.add_table(1, 2).cell(0, 0)
    document.tables[0].cell(0, 1).text = "beside"
    box = "<w:txbxContent><w:p><w:r><w:t>boxed</w:t></w:r></w:p></w:txbxContent>"
    shape = (
        f'<w:r xmlns:w="{cell._tc.nsmap["w"]}" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f"<mc:AlternateContent><mc:Choice Requires='wps'>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
        "</mc:AlternateContent></w:r>"
    )
    cell.paragraphs[0]._p.append(etree.fromstring(shape))
    assert saved(document, "t.docx").text == "boxed | beside"


def test_word_header_and_footer_are_said_to_be_such(docs: Path) -> None:
    document = parse(docs / "unstructured/docx-hdrftr.docx")
    assert find(document, "First header para").section == "Header"
    assert find(document, "Main document").section == ""
    assert find(document, "para2").section == "Footer"


def test_word_text_boxes_and_comments_are_read_once(docs: Path) -> None:
    shapes = parse(docs / "unstructured/docx-shapes.docx")
    for text in ("<inline-image1>", "<inline-image2>", "<floating-shape>"):
        assert shapes.text.count(text) == 1
    comments = parse(docs / "markitdown/test_with_comment.docx")
    assert find(comments, "This is a test comment. 12df-321a").section == "Comments"


def test_word_page_breaks_count_pages(docs: Path) -> None:
    document = parse(docs / "unstructured/page-breaks.docx")
    assert find(document, "First page, tab here").page == 1
    assert find(document, "<<Text on second page").page == 2
    assert "no-break hyphen here:-" in document.text


def test_word_document_of_a_paper(docs: Path) -> None:
    document = parse(docs / "markitdown/test.docx")
    assert document.title.startswith("AutoGen: Enabling Next-Gen LLM Applications")
    assert document.metadata["author"] == "Adam Fourney"
    assert "13 | 14 | 49e168b7-d2ae-407f-a055-2167576f39a1 | 15 | 16 | 17" in document.text
    assert find(document, "Large language models (LLMs) are becoming").section == "Introduction"


def test_word_chinese_text_and_table(docs: Path) -> None:
    document = parse(docs / "zh/ocr_test.docx")
    assert document.text == "我是文字\n\n我是表格1 | 我是表格2\n我是表格3 | 我是表格4"


def test_word_rows_that_miss_cells_keep_their_columns(docs: Path) -> None:
    assert "a | b\n| c | d" in parse(docs / "unstructured/tables-with-incomplete-rows.docx").text


# ----------------------------------------------------------------------------------------------------- PowerPoint


def test_slides_are_pages_with_their_tables_charts_and_groups(docs: Path) -> None:
    document = parse(docs / "markitdown/test.pptx")
    assert {piece.page for piece in document.pieces} == {1, 2, 3, 4, 5, 6}
    table = find(document, "1b92870d-e3b5-4e65-8153-919f4ff45592")
    assert (table.kind, table.page, table.section) == ("table", 3, "A table to test parsing:")
    assert find(document, "2003 | 2003").page == 4
    assert find(document, "This is a nested shape").page == 5
    assert find(document, "44bf7d06-5e7a-4a40-a2e1-a2e42ef28c8a").page == 2  # a picture's alternative text


def test_shapes_in_groups_in_groups_are_found(docs: Path) -> None:
    assert sorted(parse(docs / "unstructured/group-shapes-nested.pptx").text.split()) == list("ABCDEFGHIJ")


def test_slide_table_notes_and_hidden_slides() -> None:
    import pptx
    from pptx.util import Inches

    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Sales"
    table = slide.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(4), Inches(2)).table
    for at, text in enumerate(["a", "b", "c", "d"]):
        table.cell(at // 2, at % 2).text = text
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    hidden = deck.slides.add_slide(deck.slide_layouts[5])
    hidden.shapes.title.text = "Hidden"
    hidden.element.set("show", "0")
    document = saved(deck, "deck.pptx")
    assert find(document, "a | b\nc | d").kind == "table"
    assert find(document, "Say it slowly.").section == "Sales > Notes"
    assert "Hidden" not in document.text and document.metadata["hidden slides"] == "2"


# ---------------------------------------------------------------------------------------------------------- Excel


def test_cells_know_their_sheet_and_range(docs: Path) -> None:
    document = parse(docs / "unstructured/stanley-cups.xlsx")
    assert [piece.section for piece in document.pieces] == [
        "Stanley Cups!A1",
        "Stanley Cups!A2:C5",
        "Stanley Cups Since 67!A1",
        "Stanley Cups Since 67!A2:C5",
    ]
    assert "Team: Maple Leafs | Location: TOR | Stanley Cups: 13" in document.text


def test_the_old_and_the_new_workbook_say_the_same(docs: Path) -> None:
    old, new = parse(docs / "markitdown/test.xls"), parse(docs / "markitdown/test.xlsx")
    assert old.text == new.text and [p.section for p in old.pieces] == [p.section for p in new.pieces]
    assert "6ff4173b-42a5-4784-9b19-f49caff4d93d" in new.text
    assert "affc7dad-52dc-4b98-9b5d-51e65d8a8ad0" in new.text  # on the second sheet


def test_sheets_with_several_tables_and_signs_beyond_the_basic_plane(docs: Path) -> None:
    places = [piece.section for piece in parse(docs / "unstructured/xlsx-subtable-cases.xlsx").pieces]
    assert "Sheet1!A2:D4" in places and "Sheet1!B35" in places
    emoji = parse(docs / "unstructured/emoji.xlsx")
    assert emoji.text == "🤠😅" and emoji.pieces[0].section == "Sheet1!A2"


def test_the_same_rows_as_workbook_and_as_csv_say_the_same(docs: Path) -> None:
    sheet, lines = parse(docs / "zh/issues_closed.xlsx"), parse(docs / "zh/issues_closed.csv")
    assert "title: 请问：纯cpu可以吗？" in sheet.text and "title: 请问：纯cpu可以吗？" in lines.text
    assert len(sheet.pieces) == len(lines.pieces)


# --------------------------------------------------------------------------------------------- OpenDocument, RTF


def test_open_document_says_what_the_word_document_says(docs: Path) -> None:
    odt, word = parse(docs / "unstructured/simple.odt"), parse(docs / "unstructured/simple.docx")
    assert odt.text == word.text
    assert [p.section for p in odt.pieces] == [p.section for p in word.pieces]
    assert odt.pieces[0].kind == "heading"


def test_rtf_keeps_its_table(docs: Path) -> None:
    document = parse(docs / "unstructured/fake-doc.rtf")
    table = find(document, "Row 2, Cell 2")
    assert table.kind == "table"
    assert words(document, table).split("\n")[1] == "Row 1, Cell 1 | Row 1, Cell 2"


def test_rtf_reads_its_code_page_and_its_unicode() -> None:
    document = parse_bytes(rb"{\rtf1\ansi\ansicpg1252 Caf\'e9 \u20320?\u22909?\par End}", "a.rtf")
    assert "Café 你好" in document.text
