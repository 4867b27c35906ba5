"""Markup, code, data and notebooks: what a person wrote line by line keeps its line and its section."""

from __future__ import annotations

from pathlib import Path

import pytest

from hornbook.errors import ParseError
from hornbook.retrieve.parse import parse, parse_bytes
from hornbook.types import Document, Piece


@pytest.fixture(scope="module")
def docs(shared: Path) -> Path:
    return shared / "docs"


def of(text: str, name: str) -> Document:
    return parse_bytes(text.encode(), name)


def find(document: Document, text: str) -> Piece:
    found = [piece for piece in document.pieces if text in document.text[piece.start : piece.end]]
    assert len(found) == 1, (text, len(found))
    return found[0]


# --------------------------------------------------------------------------------------------------------- markup


@pytest.mark.parametrize(("suffix", "line"), [("md", 23), ("org", 27), ("rst", 28)])
def test_headings_of_markup_are_the_section_and_lines_are_those_of_the_file(docs: Path, suffix: str, line: int) -> None:
    document = parse(docs / f"unstructured/README.{suffix}")
    assert document.title == "Example Docs"
    last = find(document, "You can parse this document using the HTML parser.")
    assert (last.section, last.line) == ("Example Docs > XBRL 10-K", line)
    written = (docs / f"unstructured/README.{suffix}").read_text("utf-8").split("\n")
    assert written[line - 1].startswith("You can parse this document")


def test_markdown_reads_without_its_signs() -> None:
    document = of(
        "---\ntitle: The page\n---\n# One\n\nSome *loud* [link](http://x) and `code`.\n\n| a | b |\n|---|---|\n| c | d |\n\n"
        "- item\n  1. inner\n\n```py\nx = 1\n```\n![图片](a.png)\n\n<p>html <b>too</b></p>\n",
        "a.md",
    )
    assert document.title == "The page"
    assert [(p.kind, p.line, document.text[p.start : p.end]) for p in document.pieces] == [
        ("heading", 4, "One"),
        ("text", 6, "Some loud link and code."),
        ("table", 8, "a | b\nc | d"),
        ("list", 12, "- item"),
        ("list", 13, "1. inner"),
        ("code", 15, "x = 1"),
        ("text", 20, "html too"),
    ]


def test_chinese_notes_carry_no_noise_of_pictures(docs: Path) -> None:
    for name in ("damoxing_yingyong", "fenbushi_xunlian", "zhiling_duiqi"):
        document = parse(docs / f"zh/{name}.md")
        assert not [p for p in document.pieces if document.text[p.start : p.end].strip("- ") == "图片"]
    assert document.title == "大模型指令对齐训练原理"


def test_plain_text_is_paragraphs_with_lines(docs: Path) -> None:
    for name in ("fake-text-utf-16.txt", "fake-text-utf-32.txt"):
        document = parse(docs / "unstructured" / name)
        assert [p.line for p in document.pieces] == [1, 3, 5, 7]
    long = of("\n".join(f"line {n}" for n in range(1, 101)), "a.log")
    assert [p.line for p in long.pieces] == [1, 41, 81]


# ----------------------------------------------------------------------------------------------------------- code

PYTHON = '''"""What it is."""

import os


class Store:
    """Keeps things."""

    def get(self, name):
        return name

    @property
    def size(self):
        return 0


def main():
    print(Store().size)
'''


def test_python_is_cut_at_classes_methods_and_functions() -> None:
    document = of(PYTHON, "store.py")
    assert [(p.section, p.line) for p in document.pieces] == [
        ("", 1),
        ("Store", 6),
        ("Store > get", 9),
        ("Store > size", 12),  # the decorator above belongs to the method
        ("main", 17),
    ]
    lines = PYTHON.split("\n")
    for piece in document.pieces:
        assert piece.kind == "code" and piece.line is not None
        assert document.text[piece.start : piece.end].split("\n")[0] == lines[piece.line - 1].strip()


@pytest.mark.parametrize(
    ("name", "text", "section"),
    [
        ("a.rs", "use std::io;\n\npub fn parse(x: u8) -> u8 {\n    x\n}\n", "parse"),
        ("a.go", "package a\n\nfunc (s *Store) Get() int {\n\treturn 1\n}\n", "Get"),
        ("a.ts", "import x from 'x'\n\nexport class Store {\n  get() {}\n}\n", "Store"),
        ("a.js", "let a = 1\n\nconst run = async () => {\n  go()\n}\n", "run"),
        ("a.c", "#include <a.h>\n\nstatic int add(int a, int b) {\n  return a + b;\n}\n", "add"),
        ("a.sh", "set -e\n\nbuild() {\n  make\n}\n", "build"),
        ("a.sql", "-- tables\n\nCREATE TABLE users (\n  id int\n);\n", "users"),
        ("a.toml", "x = 1\n\n[tool.ruff]\nline = 3\n", "tool.ruff"),
        ("a.yaml", "x: 1\n\njobs:\n  build: 2\n", "jobs"),
    ],
)
def test_the_names_of_blocks_are_found(name: str, text: str, section: str) -> None:
    assert find(of(text, name), text.split("\n")[3].strip()).section == section


def test_yaml_of_the_wild(docs: Path) -> None:
    assert "calling-birds: four" in parse(docs / "unstructured/simple.yaml").text


# ----------------------------------------------------------------------------------------------------------- data


def test_rows_stand_under_their_names_whatever_parts_them(docs: Path) -> None:
    folder = docs / "unstructured"
    assert parse(folder / "stanley-cups.csv").text == parse(folder / "stanley-cups.tsv").text
    assert "Team: Flyers | Location: PHI | Stanley Cups: 2" in parse(folder / "stanley-cups.csv").text
    semicolons = parse(folder / "semicolon-delimited.csv")
    assert "Lorem, ipsum: sed, do | dolor sit: eiusmod | amet: tempor incididunt" in semicolons.text
    assert "名前: 佐藤太郎 | 年齢: 30 | 住所: 東京" in parse(docs / "markitdown/test_mskanji.csv").text


def test_a_quoted_cell_keeps_its_line_breaks_and_the_next_row_its_line() -> None:
    rows = "name,note\n" + "".join(f'n{at},"first\nsecond, {"x" * 100}"\n' for at in range(30))
    document = of(rows, "a.csv")
    assert "name: n0 | note: first second, xxx" in document.text
    lines = rows.split("\n")
    for piece in document.pieces[1:]:
        first = document.text[piece.start : piece.end].split(" | ")[0].removeprefix("name: ")
        assert piece.line is not None and lines[piece.line - 1].startswith(f"{first},")


def test_json_records_have_the_path_to_them() -> None:
    items = ", ".join(f'{{"name": "n{n}", "price": 1.10, "note": "{"x" * 200}"}}' for n in range(8))
    document = of(f'{{"title": "List", "items": [{items}]}}', "a.json")
    piece = find(document, "n3")
    assert piece.section == "items[3]" and document.title == "List"
    assert document.text[piece.start : piece.end].startswith("name: n3\nprice: 1.10\nnote: xxx")


def test_json_lines_have_lines_and_keep_what_is_no_json() -> None:
    document = of('{"a": 1}\n\nnot json\n{"a": true}\n', "a.jsonl")
    assert [(p.line, document.text[p.start : p.end]) for p in document.pieces] == [
        (1, "a: 1"),
        (3, "not json"),
        (4, "a: true"),
    ]


def test_json_that_is_damaged_says_where() -> None:
    with pytest.raises(ParseError, match="line 2"):
        of('{"a": 1,\n oops}', "a.json")


def test_a_notebook_keeps_cells_and_outputs(docs: Path) -> None:
    document = parse(docs / "markitdown/test_notebook.ipynb")
    assert document.title == "Test Notebook Title"
    code = find(document, "print(42)")
    assert (code.kind, code.section) == ("code", "Test Notebook > Code Cell Below > cell 4")
    outputs = [document.text[p.start : p.end] for p in document.pieces if p.section.endswith("output")]
    assert outputs == ["markitdown", "42"]
