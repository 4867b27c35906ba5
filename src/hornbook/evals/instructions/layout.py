"""How a response is laid out: lists, sections, highlights, titles, JSON, placeholders, postscripts."""

from __future__ import annotations

import json
import re

from hornbook.evals.instructions.parts import pattern

# A star that is not the first of two, and something after it; or a dash. White space may stand before either.
_BULLETS = (re.compile(r"^[^\S\n]*\*[^*].*$", re.MULTILINE), re.compile(r"^[^\S\n]*-", re.MULTILINE))
_HIGHLIGHTS = (re.compile(r"\*([^\n*]*)\*"), re.compile(r"\*\*([^\n*]*)\*\*"))
_POSTSCRIPTS = {"P.S.": re.compile(r"p\.\s?s\."), "P.P.S": re.compile(r"p\.\s?p\.\s?s")}
_FENCES = ("```json", "```Json", "```JSON", "```")
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    """At least so many things in square brackets, such as [address]."""
    return sum(map(_bracketed, text.split("\n"))) >= num_placeholders


def _bracketed(line: str) -> int:
    """Looked for by hand: an expression reads the rest of the line anew for each bracket that is never closed."""
    count = at = 0
    while (start := line.find("[", at)) >= 0 and (end := line.find("]", start)) >= 0:
        count, at = count + 1, end + 1
    return count


def postscript(text: str, *, postscript_marker: str) -> bool:
    """A postscript's mark stands somewhere, in capital letters or not."""
    mark = postscript_marker.strip()
    return bool(_POSTSCRIPTS.get(mark, pattern(mark.lower(), case=True)).search(text.lower()))


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin as an item of a list."""
    return sum(1 for bullet in _BULLETS for _ in bullet.finditer(text)) == num_bullets


def constrained_response(text: str) -> bool:
    """One of the three answers that may be given stands in it."""
    return any(answer in text for answer in _ANSWERS)


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    """At least so many stretches *between asterisks*; one **between two** counts for itself."""
    return sum(1 for mark in _HIGHLIGHTS for inner in mark.findall(text) if inner.strip()) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many headings such as "Section 3". The parameter is spelled as in the data."""
    heading = pattern(section_spliter.strip(), around=r"\s?{}\s?\d+\s?", case=True)
    return sum(1 for _ in heading.finditer(text)) >= num_sections


def json_format(text: str) -> bool:
    """All of it is JSON, in a fence of Markdown or not."""
    text = text.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):  # the latter: brackets in brackets, thousands deep
        return False
    return True


def title(text: str) -> bool:
    """A title in double angular brackets stands somewhere: <<poem of joy>>."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start:end].lstrip("<").rstrip(">").strip():
            return True
    return False
