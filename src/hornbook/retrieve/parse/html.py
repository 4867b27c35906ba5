"""HTML, as a reader sees it: headings, paragraphs, lists, tables and code; no scripts, navigation or hidden parts.

The tree is walked without recursion (a page may be nested deeply) and in one pass. Used for web pages,
for the chapters of a book, for the bodies of mail and for HTML inside Markdown and feeds.
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from hornbook.errors import ParseError
from hornbook.retrieve.parse.builder import Builder, Kind, described, one_line
from hornbook.retrieve.parse.source import Source

if TYPE_CHECKING:
    from lxml.etree import _Element

_CHARSET = re.compile(
    rb"""(?:<meta[^>]{0,200}?charset|<\?xml[^>]{0,100}?encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE
)
_UNSEEN_TAGS = """
    script style template noscript head meta link title svg iframe object embed canvas audio video map area datalist
    select option optgroup progress meter dialog input nav
"""
_BLOCK_TAGS = """
    address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure footer
    form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol p pre section summary table tbody td tfoot
    th thead tr ul
"""
_UNSEEN, _BLOCKS = frozenset(_UNSEEN_TAGS.split()), frozenset(_BLOCK_TAGS.split())
_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_MAIN_SHARE = 1 / 3  # of the page's text that <main> must hold to stand for the page


def parse(source: Source, builder: Builder) -> None:
    root = tree(source.text_declared(_CHARSET))
    for title in root.iter("title"):
        builder.title = builder.title or one_line("".join(title.itertext()))
    for meta in root.iter("meta"):
        name, content = (meta.get("name") or meta.get("property") or "").lower(), meta.get("content") or ""
        if key := {"author": "author", "article:published_time": "date", "date": "date"}.get(name):
            builder.metadata.setdefault(key, content)
    write(_main(root), builder)


def tree(text: str) -> _Element:
    """Any text as an HTML tree. Nothing outside the text is read. Raise ParseError for one nested beyond reason."""
    from lxml import etree, html

    parser = html.HTMLParser(no_network=True, remove_comments=True, remove_pis=True, huge_tree=True, encoding="utf-8")
    try:
        root = html.document_fromstring(_sound(text).encode("utf-8"), parser=parser, ensure_head_body=True)
    except etree.ParserError:  # nothing but comments and space
        return html.document_fromstring("<html><body></body></html>")
    if any(error.type_name == "ERR_RESOURCE_LIMIT" for error in parser.error_log):
        raise ParseError("HTML nested more than 2,048 deep")  # libxml2 stops there, and what follows would be lost
    return root


def write_fragment(markup: str, builder: Builder, *, line: int | None = None) -> None:
    """Write a stretch of HTML that came inside something else."""
    if markup.strip():
        write(tree(markup), builder, line=line)


def write_page(data: bytes, builder: Builder) -> None:
    """Write a whole page that came inside something else, in whatever encoding it declares."""
    root = tree(Source(PurePath("page.xhtml"), data).text_declared(_CHARSET))
    write(next(root.iter("body"), root), builder)


def plain(markup: str) -> str:
    """The visible text of a stretch of HTML, on one line."""
    return one_line(" ".join(tree(markup).itertext())) if "<" in markup or "&" in markup else one_line(markup)


def write(root: _Element, builder: Builder, *, line: int | None = None) -> None:
    """Write everything that can be seen under ``root``."""
    writer = _Writer(builder, line)
    # (element, entering): a leaving entry stands below an element's children on the stack
    stack: list[tuple[Any, bool]] = [(root, True)]
    while stack:
        element, entering = stack.pop()
        if not entering:
            writer.leave(element)
            continue
        tag = element.tag
        if not isinstance(tag, str) or _unseen(element):  # a comment or an entity has a function for a tag
            writer.tail(element)
            continue
        tag = _local(tag)
        if tag == "table" and (rows := _data_table(element)):
            writer.flush()
            builder.table(rows, line=line)
            writer.tail(element)
            continue
        writer.enter(element, tag)
        stack.append((element, False))
        stack.extend((child, True) for child in reversed(element))
    writer.flush()


class _Writer:
    """Gathers inline text until a block begins or ends, then writes it as what the block is."""

    def __init__(self, builder: Builder, line: int | None) -> None:
        self._builder = builder
        self._line = line
        self._inline: list[str] = []
        self._lists: list[list[int | None]] = []  # the number of the next item, None for bullets
        self._marker = ""
        self._pre = 0
        self._heading = 0
        self._item = 0

    def enter(self, element: _Element, tag: str) -> None:
        if tag in _BLOCKS:
            self.flush()
        if tag in ("ul", "ol", "menu"):
            start = element.get("start") or "1"
            self._lists.append(
                [(int(start) if start.lstrip("-").isdigit() and len(start) < 9 else 1) if tag == "ol" else None]
            )
        elif tag == "li":
            self._item += 1
            number = self._lists[-1][0] if self._lists else None
            self._marker = "  " * min(max(0, len(self._lists) - 1), 8) + ("- " if number is None else f"{number}. ")
            if number is not None:
                self._lists[-1][0] = number + 1
        elif tag == "pre":
            self._pre += 1
        elif len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
            self._heading = int(tag[1])
        elif tag == "br":
            self._inline.append("\n")
        elif tag == "img" and (words := described(element.get("alt") or "")):
            self._inline.append(f" {words} ")
        elif tag in ("td", "th"):
            self._inline.append(" ")
        if element.text:
            self._text(element.text)

    def leave(self, element: _Element) -> None:
        tag = _local(element.tag)
        if tag in _BLOCKS:
            self.flush()
        if tag in ("ul", "ol", "menu") and self._lists:
            self._lists.pop()
        elif tag == "li":
            self._item -= 1
            self._marker = ""
        elif tag == "pre":
            self._pre -= 1
        elif len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
            self._heading = 0
        self.tail(element)

    def tail(self, element: _Element) -> None:
        if element.tail:
            self._text(element.tail)

    def _text(self, text: str) -> None:
        self._inline.append(text if self._pre else re.sub(r"\s+", " ", text))

    def flush(self) -> None:
        text, self._inline = "".join(self._inline), []
        if not text.strip():
            return
        if self._heading:
            self._builder.heading(text, self._heading, line=self._line)
            return
        kind: Kind = "text"
        if self._pre:
            kind = "code"
        else:
            text = "\n".join(joined for part in text.split("\n") if (joined := one_line(part)))
            if self._item:
                kind, text = "list", self._marker + text
                self._marker = ""
        self._builder.add(text, kind, line=self._line)


def _main(root: _Element) -> _Element:
    """The element that holds the page's own words: a single <main>, when it holds enough of them, else the body."""
    body = next(root.iter("body"), root)
    candidates = [e for e in body.iter() if isinstance(e.tag, str) and (e.tag == "main" or e.get("role") == "main")]
    if len(candidates) == 1:
        whole, part = _seen_length(body), _seen_length(candidates[0])
        if part >= _MAIN_SHARE * whole:
            return candidates[0]
    return body


def _seen_length(root: _Element) -> int:
    length, stack = 0, [root]
    while stack:
        element = stack.pop()
        if isinstance(element.tag, str) and not _unseen(element):
            length += len((element.text or "").strip())
            stack.extend(element)
        if element is not root:
            length += len((element.tail or "").strip())
    return length


def _unseen(element: _Element) -> bool:
    tag = _local(element.tag)
    if tag in _UNSEEN or element.get("role") in ("navigation", "search"):
        return True
    if element.get("hidden") is not None or _HIDING.search(element.get("style") or ""):
        return True
    if tag == "footer":  # the site's, not an article's
        return _local(getattr(element.getparent(), "tag", "")) == "body"
    # a list in a header is a menu of links (the languages of an encyclopedia's article), and so is one in a footer
    return tag == "ul" and any(
        _local(above.tag) in ("header", "footer") for above in islice(element.iterancestors(), 6)
    )


def _data_table(table: _Element) -> list[list[str]]:
    """The rows of a table of data; none for one that only lays out the page (other tables or headings inside)."""
    rows: list[list[str]] = []
    for element in table.iter():
        tag = _local(element.tag) if isinstance(element.tag, str) else ""
        if (tag == "table" and element is not table) or tag in ("h1", "h2", "h3", "pre", "ul", "ol"):
            return []
        if tag == "caption":
            rows.append([_words(element)])
        elif tag == "tr" and not _unseen(element):
            rows.append(
                [_words(cell) for cell in element if isinstance(cell.tag, str) and _local(cell.tag) in ("td", "th")]
            )
    longest = max((len(cell) for row in rows for cell in row), default=0)
    return rows if max(map(len, rows), default=0) > 1 and longest < 2000 else []


def _words(root: _Element) -> str:
    """Visible words under an element; a block boundary or <br> parts words."""
    parts: list[str] = []
    stack: list[Any] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            parts.append(item)
            continue
        after = [item.tail or ""] if item is not root else []
        if not isinstance(item.tag, str) or _unseen(item):
            stack.extend(after)
            continue
        gap = " " if _local(item.tag) in _BLOCKS or _local(item.tag) == "br" else ""
        stack.extend(reversed([gap, item.text or "", *item, gap, *after]))
    return one_line("".join(parts))


def _local(tag: Any) -> str:
    return tag.rsplit("}", 1)[-1].lower() if isinstance(tag, str) else ""


def _sound(text: str) -> str:
    """Without what libxml2 stops at: zeros and unpaired surrogates."""
    return text.replace("\0", "").encode("utf-8", "ignore").decode("utf-8") or " "
