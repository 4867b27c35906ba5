"""XML: RSS and Atom as their entries, XHTML as a page, anything else as its words by record.

<book id="7"><title>Emma</title><year>1815</year></book>        id: 7 / title: Emma / year: 1815, section "books > book"
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hornbook.errors import ParseError
from hornbook.retrieve.parse import html
from hornbook.retrieve.parse.archive import xml
from hornbook.retrieve.parse.builder import Builder, one_line
from hornbook.retrieve.parse.source import Source

if TYPE_CHECKING:
    from lxml.etree import _Element

_DECLARED = re.compile(rb"""<\?xml[^>]{0,100}?encoding\s*=\s*["']([\w.:-]+)""")
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
_BODIES = ("encoded", "content", "description", "summary")  # the fullest first
_DATES = ("pubDate", "published", "updated", "date")


def parse(source: Source, builder: Builder) -> None:
    # decoded here, so that every encoding is read by the same rules; the declaration would contradict the new bytes
    text = _DECLARATION.sub("", source.text_declared(_DECLARED), count=1).lstrip("\ufeff \t\r\n")
    root = xml(text.encode("utf-8", "ignore"), "the file")
    name = _local(root)
    if name in ("rss", "feed", "RDF") and (entries := [e for e in root.iter() if _local(e) in ("item", "entry")]):
        _feed(root, entries, builder)
    elif name == "html":
        html.write(next(root.iter("{*}body"), root), builder)
    else:
        _records(root, builder)


def _feed(root: _Element, entries: list[_Element], builder: Builder) -> None:
    channel = next((e for e in root.iter() if _local(e) in ("channel", "feed")), root)
    builder.heading(html.plain(_child(channel, "title")), 1)
    for element in ("description", "subtitle"):
        html.write_fragment(_child(channel, element), builder)
    for entry in entries:
        builder.heading(html.plain(_child(entry, "title")) or "Untitled", 2)
        author = next((one_line(" ".join(e.itertext())) for e in entry if _local(e) in ("creator", "author")), "")
        about = ", ".join(filter(None, (author, next(filter(None, (_child(entry, d) for d in _DATES)), ""))))
        builder.add(about)
        html.write_fragment(next(filter(None, (_child(entry, body) for body in _BODIES)), ""), builder)


def _child(parent: _Element, name: str) -> str:
    """The content of a child, as markup where it holds markup."""
    for child in parent:
        if _local(child) == name:
            if len(child):
                from lxml import etree

                return (child.text or "") + "".join(etree.tostring(inner, encoding="unicode") for inner in child)
            return (child.text or "").strip()
    return ""


def _records(root: _Element, builder: Builder) -> None:
    """Elements with words of their own: paragraphs where text and markup are mixed, "name: words" lines elsewhere."""
    stack: list[tuple[_Element, tuple[str, ...]]] = [(root, ())]
    while stack:
        element, above = stack.pop()
        path = (*above[-6:], _local(element))
        if len(above) > 2000:
            raise ParseError("damaged XML file: nested too deeply")
        section = " > ".join(path)
        children = [child for child in element if isinstance(child.tag, str)]
        mixed = bool((element.text or "").strip()) or any((child.tail or "").strip() for child in children)
        if mixed:
            builder.add(one_line("".join(_words(element))), section=section, line=element.sourceline)
            continue
        lines = [f"{_bare(name)}: {one_line(value)}" for name, value in element.attrib.items() if value.strip()]
        for child in children:
            if not len(child) and not child.attrib and (child.text or "").strip():
                lines.append(f"{_local(child)}: {one_line(child.text or '')}")
        builder.add("\n".join(lines), section=section, line=element.sourceline)
        opened = [child for child in children if len(child) or child.attrib]
        stack.extend((child, path) for child in reversed(opened))


def _words(element: _Element) -> list[str]:
    return [text for text in element.itertext() if isinstance(text, str)]


def _local(element: _Element) -> str:
    return _bare(element.tag) if isinstance(element.tag, str) else ""


def _bare(name: object) -> str:
    return str(name).rpartition("}")[2]
