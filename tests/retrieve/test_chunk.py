from __future__ import annotations

import base64
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_embedder import ToyEmbedder

from hornbook.retrieve.chunk import chunks, context
from hornbook.types import Chunk, Document, Piece

count = ToyEmbedder().count_tokens


def document(*parts: tuple[str, str, str, int | None]) -> Document:
    """Pieces from (kind, section, text, page), with a blank line between them."""
    text, pieces = "", []
    for kind, section, words, page in parts:
        text += "\n\n" if text else ""
        pieces.append(Piece(len(text), len(text) + len(words), kind, page, section))  # type: ignore[arg-type]
        text += words
    return Document("d", "d.md", text, tuple(pieces), title="Guide")


def cut(doc: Document, budget: int = 40, overlap: int = 8) -> list[Chunk]:
    found = list(chunks(doc, count, budget=budget, overlap=overlap))
    for chunk in found:
        assert chunk.text == doc.text[chunk.start : chunk.end]
        assert chunk.text.strip() == chunk.text
    covered = set().union(*(range(c.start, c.end) for c in found)) if found else set()
    missed = [at for at, c in enumerate(doc.text) if at not in covered and not c.isspace()]
    assert not missed, f"characters in no chunk: {missed[:5]}"
    return found


def sentences(n: int, words: int = 9) -> str:
    return " ".join(f"Sentence {i} " + "word " * (words - 3) + "ends." for i in range(n))


def test_a_heading_starts_a_chunk_and_stays_with_its_text() -> None:
    doc = document(("heading", "A", "A", None), ("text", "A", "Alpha text.", None), ("heading", "B", "B", None), ("text", "B", "Beta.", None))  # fmt: skip
    assert [(c.text, c.section) for c in cut(doc)] == [("A\n\nAlpha text.", "A"), ("B\n\nBeta.", "B")]


def test_a_heading_without_text_joins_the_section_below_it() -> None:
    doc = document(("heading", "A", "A", None), ("heading", "A > B", "B", None), ("text", "A > B", "Beta.", None))
    assert [(c.text, c.section) for c in cut(doc)] == [("A\n\nB\n\nBeta.", "A > B")]


def test_a_chunk_never_crosses_a_page() -> None:
    doc = document(("text", "", "One.", 1), ("text", "", "Two.", 2), ("text", "", "Two again.", 2))
    assert [(c.text, c.page) for c in cut(doc)] == [("One.", 1), ("Two.\n\nTwo again.", 2)]


def test_long_text_is_cut_between_sentences_into_even_parts_that_overlap_by_whole_sentences() -> None:
    found = cut(document(("text", "", sentences(12), None)), budget=40, overlap=10)
    assert len(found) > 2
    for chunk in found:
        assert chunk.text.startswith("Sentence") and chunk.text.endswith("ends.")
        assert count(chunk.text) <= 40
    assert all(later.start < earlier.end for earlier, later in zip(found, found[1:], strict=False))
    sizes = [count(chunk.text) for chunk in found]
    assert min(sizes) > 0.4 * max(sizes)


def test_a_table_that_fits_is_whole_and_one_that_does_not_breaks_at_its_rows() -> None:
    rows = [f"row {i} | {i} | {i * i}" for i in range(30)]
    found = cut(document(("text", "", "Before it.", None), ("table", "", "\n".join(rows[:4]), None)), budget=60)
    assert any("\n".join(rows[:4]) in chunk.text for chunk in found)
    for chunk in cut(document(("table", "", "\n".join(rows), None)), budget=60):
        assert set(chunk.text.split("\n")) <= set(rows)


@pytest.mark.parametrize(
    "monster",
    [
        base64.b64encode(random.Random(0).randbytes(30_000)).decode(),
        "x" * 20_000,
        "word " * 4000,
        "字" * 3000,
        "a\u0301" * 4000,
        ",".join(map(str, range(4000))),
    ],
    ids=["base64", "one letter", "no stops", "Chinese without stops", "accents", "numbers"],
)
def test_a_sentence_longer_than_a_chunk_is_cut_by_the_budget(monster: str) -> None:
    found = cut(document(("text", "", monster, None)), budget=50, overlap=8)
    assert len(found) > 5
    for chunk in found:
        assert count(chunk.text) <= 50
        assert len(chunk.text) <= 50 * 8
        assert chunk.text[0] != "\u0301"


def test_chinese_is_cut_between_its_sentences() -> None:
    text = "".join(f"这是第{i}句话，它不长也不短。" for i in range(40))
    found = cut(document(("text", "", text, None)), budget=60, overlap=20)
    assert len(found) > 5
    assert all(chunk.text.endswith("。") for chunk in found)


def test_a_document_without_pieces_is_one_text_and_one_without_words_has_no_chunk() -> None:
    assert [c.text for c in chunks(Document("d", "p", " One. Two. "), count)] == ["One. Two."]
    assert not list(chunks(Document("d", "p", " \n "), count))


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["text", "heading", "table", "list", "code"]),
            st.sampled_from(["", "A", "A > B"]),
            st.text(alphabet="ab .。\n字", min_size=1, max_size=300).map(str.strip).filter(bool),
            st.sampled_from([None, 1, 2]),
        ),
        max_size=8,
    ),
    st.integers(4, 60),
)
def test_every_visible_character_is_in_a_chunk_and_chunks_advance(parts: list, budget: int) -> None:
    found = cut(document(*parts), budget=budget, overlap=budget // 4)
    assert all(count(chunk.text) <= budget for chunk in found)
    assert all(a.start < b.start and a.end < b.end for a, b in zip(found, found[1:], strict=False))


def test_a_run_of_spaces_that_is_cut_in_two_ends_no_chunk() -> None:
    assert [chunk.text for chunk in cut(document(("text", "", "a.a  a.", None)), budget=4, overlap=1)]


def test_context_names_the_document_and_the_headings_once() -> None:
    doc = Document("d", "d.md", "", title="Guide")
    assert context(doc, "") == "Guide"
    assert context(doc, "Guide > Install") == "Guide > Install"
    assert context(doc, "Install > Linux") == "Guide > Install > Linux"
    assert len(context(doc, "x" * 5000)) < 300
    chinese = context(doc, "分布式训练技术原理" * 30)
    assert len(chinese) < 60  # a character is about a token: the passage must still fit beside it
    assert chinese.startswith("Guide > 分布式")
    assert chinese.endswith("技术原理")
