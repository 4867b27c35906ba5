"""Pages, books, feeds and mail: what a reader sees of them, once."""

from __future__ import annotations

import io
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from hornbook.errors import ParseError
from hornbook.retrieve.parse import parse, parse_bytes
from hornbook.types import Document


@pytest.fixture(scope="module")
def docs(shared: Path) -> Path:
    return shared / "docs"


def page(body: str) -> Document:
    return parse_bytes(f"<html><body>{body}</body></html>".encode(), "page.html")


def said(document: Document) -> list[tuple[str, str, str]]:
    return [(p.kind, p.section, document.text[p.start : p.end]) for p in document.pieces]


# ----------------------------------------------------------------------------------------------------------- HTML


def test_headings_lists_tables_and_code() -> None:
    document = page(
        "<h1>Guide</h1><p>Read <b>this</b>\n first.</p><h2>Steps</h2><ol><li>one<li>two<ul><li>in</ul></ol>"
        "<table><tr><td>a<td>b<tr><td>c<td>d</table><pre>x = 1\n  y</pre>"
    )
    assert said(document) == [
        ("heading", "Guide", "Guide"),
        ("text", "Guide", "Read this first."),
        ("heading", "Guide > Steps", "Steps"),
        ("list", "Guide > Steps", "1. one"),
        ("list", "Guide > Steps", "2. two"),
        ("list", "Guide > Steps", "- in"),
        ("table", "Guide > Steps", "a | b\nc | d"),
        ("code", "Guide > Steps", "x = 1\n  y"),
    ]


@pytest.mark.parametrize(
    "unseen",
    [
        "<script>gone()</script>",
        "<style>gone {}</style>",
        "<nav>gone</nav>",
        "<!-- gone -->",
        '<p hidden="">gone</p>',
        '<p style="display: none">gone</p>',
        '<div role="navigation">gone</div>',
        "<footer>gone</footer>",
        "<template>gone</template>",
        "<select><option>gone</select>",
        '<img src="gone.png" alt="gone.png">',
    ],
)
def test_what_a_reader_does_not_see_is_left_out(unseen: str) -> None:
    assert page(f"<p>kept</p>{unseen}<p>too</p>").text == "kept\n\ntoo"


def test_main_stands_for_a_page_that_has_one() -> None:
    document = page("<div>Menu of the site</div><main><p>" + "The article itself. " * 5 + "</p></main>")
    assert "Menu" not in document.text


def test_a_deep_page_is_read_whole_or_refused() -> None:
    assert page("<div>" * 1500 + "deep" + "</div>" * 1500 + "after").text == "deep\n\nafter"
    with pytest.raises(ParseError, match="nested"):
        page("<div>" * 10_000 + "deep" + "</div>" * 10_000 + "after")


def test_an_article_of_an_encyclopedia(docs: Path) -> None:
    document = parse(docs / "markitdown/test_wikipedia.html")
    assert document.title == "Microsoft - Wikipedia"
    assert "Microsoft was founded by Bill Gates and Paul Allen" in document.text
    assert "Jump to content" not in document.text
    assert any(piece.kind == "table" for piece in document.pieces)
    assert any(piece.section.endswith("History > 1972–1985: Founding") for piece in document.pieces)


def test_a_blog_without_its_menus(docs: Path) -> None:
    document = parse(docs / "markitdown/test_blog.html")
    assert document.title.startswith("Does Model and Inference Parameter Matter in LLM Applications?")
    assert document.metadata["date"].startswith("2023-04-21")
    assert "an example notebook to run these experiments" in document.text.lower()
    assert "Skip to main content" not in document.text


def test_the_declared_encoding_is_believed(docs: Path) -> None:
    assert "Der Preis betrug 15,50 €." in parse(docs / "unstructured/fake-html-cp1252.html").text


# ---------------------------------------------------------------------------------------------------- EPUB, feeds


def test_chapters_of_a_book_come_in_order(docs: Path) -> None:
    document = parse(docs / "markitdown/test.epub")
    assert document.title == "Test EPUB Document" and document.metadata["author"] == "Test Author"
    headings = [text for kind, _, text in said(document) if kind == "heading"]
    assert headings == ["Chapter 1: Test Content", "Chapter 2: More Content"]
    assert ("list", "Chapter 1: Test Content", "- A bullet point") in said(document)


def test_the_order_of_a_book_is_its_spine_and_not_its_zip() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as book:
        book.writestr("META-INF/container.xml", '<container><rootfile full-path="o/b.opf"/></container>')
        book.writestr(
            "o/b.opf",
            '<package><manifest><item id="a" href="a%20b.xhtml"/><item id="z" href="z.xhtml"/></manifest>'
            '<spine><itemref idref="z"/><itemref idref="a"/><itemref idref="gone"/></spine></package>',
        )
        book.writestr("o/a b.xhtml", "<html><body><p>last</p></body></html>")
        book.writestr("o/z.xhtml", "<html><body><p>first</p></body></html>")
    assert parse_bytes(file.getvalue(), "b.epub").text == "first\n\nlast"


def test_entries_of_a_feed_are_sections(docs: Path) -> None:
    document = parse(docs / "markitdown/test_rss.xml")
    assert document.title == "The Official Microsoft Blog"
    entry = "Ignite 2024: Why nearly 70% of the Fortune 500 now use Microsoft 365 Copilot"
    assert any(piece.section == f"The Official Microsoft Blog > {entry}" for piece in document.pieces)
    assert "<p>" not in document.text and "&#8217;" not in document.text


def test_other_xml_reads_as_records() -> None:
    data = b'<books><book id="7"><title>Emma</title><year>1815</year></book></books>'
    assert said(parse_bytes(data, "b.xml")) == [("text", "books > book", "id: 7\ntitle: Emma\nyear: 1815")]


# ----------------------------------------------------------------------------------------------------------- mail


def test_of_alternatives_one_is_read(docs: Path) -> None:
    text = parse(docs / "unstructured/eml/mime-different-plain-html.eml").text
    assert "This is the text/plain part." in text and "This is the text/html part." not in text
    assert text.count("Ray Tomlinson") == 1


def test_html_is_read_where_the_plain_text_is_only_a_note() -> None:
    message = EmailMessage()
    message["Subject"] = "News"
    message.set_content("See the HTML.")
    message.add_alternative("<p>" + "The whole story, at length. " * 20 + "</p>", subtype="html")
    text = parse_bytes(message.as_bytes(), "n.eml").text
    assert "The whole story" in text and "See the HTML" not in text


def test_an_encoded_subject_is_decoded(docs: Path) -> None:
    document = parse(docs / "unstructured/eml/mime-word-encoded-subject.eml")
    assert document.title == document.metadata["subject"] == "Simple email with ☸☿ Unicode subject"


def test_attachments_are_named(docs: Path) -> None:
    folder = docs / "unstructured/eml"
    assert "Attachments: fake-attachment.txt" in parse(folder / "fake-email-attachment.eml").text
    assert parse(folder / "mime-no-body.eml").text.endswith("Attachments: image.jpg")


def test_fields_dates_and_a_message_saved_as_utf_16(docs: Path) -> None:
    folder = docs / "unstructured/eml"
    several = parse(folder / "mime-multi-to-cc-bcc.eml")
    assert several.metadata["to"] == "Bob <bob@example.com>, Sue <sue@example.com>"
    wide = parse(folder / "fake-email-utf-16.eml")
    assert wide.metadata["date"] == "2022-12-16T17:04:16-05:00" and "Roses are red" in wide.text


def test_a_forwarded_message_is_a_section() -> None:
    inner = EmailMessage()
    inner["Subject"] = "Old news"
    inner.set_content("What was said before.")
    outer = EmailMessage()
    outer["Subject"] = "Fwd"
    outer.set_content("See below.")
    outer.add_attachment(inner)
    document = parse_bytes(outer.as_bytes(), "f.eml")
    assert ("text", "Forwarded: Old news", "What was said before.") in said(document)
