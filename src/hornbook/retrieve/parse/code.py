"""Source code and configuration, as written: one piece for each block at the top level, with its line and its name.

A block begins at a line without indent that starts a definition (or a comment or decorator above it); a class in Python
is cut at its methods. The names come from one regular expression a language family; code that it does not know is cut
at blank lines. Nothing is executed or imported.
"""

from __future__ import annotations

import re

from hornbook.retrieve.parse.builder import Builder
from hornbook.retrieve.parse.source import Source

_MAX_LINES = 60  # a longer block is cut, so that a place stays exact
_MIN_LINES = 8  # shorter nameless neighbours are kept together
_CODING = re.compile(rb"coding[:=]\s*([-\w.]+)")

_PYTHON = re.compile(r"(?:async\s+)?(?:def|class)\s+(\w+)")
_RUBY = re.compile(r"(?:def|class|module)\s+([\w.:?!]+)")
_MODIFIERS = (
    r"(?:(?:export|default|declare|public|private|protected|internal|static|final|abstract|sealed|open|data|async|"
    r"pub(?:\([^)]{0,40}\))?|unsafe|extern|inline|const|virtual|override|partial|case|suspend)\s+){0,6}"
)
_KEYWORDS = re.compile(
    _MODIFIERS
    + r"(?:function\*?|func|fn|fun|def|class|interface|struct|enum|trait|impl(?:<[^>]{0,80}>)?|type|namespace|module|"
    r"object|record|protocol|extension|message|service|rpc|package|sub|resource|variable)\s+"
    r"(?:\([^)]{0,80}\)\s*)?[\"']?([A-Za-z_$][\w$.:]*)"
)
_ASSIGNED = re.compile(r"(?:export\s+)?(?:const|let|var)\s+(\w+)\s*=\s*(?:async\s*)?(?:\(|function|\w+\s*=>)")
_C_FUNCTION = re.compile(r"(?:[\w:<>,*&~\[\]]+\s+){1,6}[*&]{0,2}([A-Za-z_][\w:~]*)\s*\([^;]*$")
_SQL = re.compile(
    r"(?:create|alter)\s+(?:or\s+replace\s+)?\w+\s+(?:if\s+not\s+exists\s+)?[\"`\[]?([\w.]+)", re.IGNORECASE
)
_SHELL = re.compile(r"(?:function\s+)?([\w-]+)\s*\(\)")
_YAML_KEY = re.compile(r"[\"']?([\w./-][^:#\"']{0,80}?)[\"']?\s*:(?:\s|$)")
_TABLE = re.compile(r"\[{1,2}([^\]]+)\]{1,2}\s*(?:[#;].*)?$")

_NAMES: dict[str, tuple[re.Pattern[str], ...]] = {
    **dict.fromkeys([".py", ".pyi"], (_PYTHON,)),
    **dict.fromkeys([".rb", ".ex", ".exs", ".jl", ".lua"], (_RUBY, _KEYWORDS)),
    **dict.fromkeys([".yaml", ".yml"], (_YAML_KEY,)),
    **dict.fromkeys([".toml", ".ini", ".cfg", ".conf"], (_TABLE,)),
    **dict.fromkeys([".sh", ".bash", ".zsh"], (_SHELL,)),
    ".sql": (_SQL,),
}
_OTHERS = (_KEYWORDS, _ASSIGNED, _C_FUNCTION)
_LEADING = ("@", "#", "//", "/*", "*", "--", ";", "'''", '"""')  # a comment or decorator belongs to what follows


def parse(source: Source, builder: Builder) -> None:
    lines = source.text_declared(_CODING).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    builder.title = source.path.name
    for start, end, name in _blocks(lines, source.suffix):
        for cut in range(start, end, _MAX_LINES):
            block = range(cut, min(end, cut + _MAX_LINES))
            first = next((at for at in block if lines[at].strip()), None)  # a piece's line is one with text
            if first is not None:
                builder.add("\n".join(lines[first : block.stop]), "code", section=name, line=first + 1)


def _blocks(lines: list[str], suffix: str) -> list[tuple[int, int, str]]:
    """(first line, line after the last, name) of each block, in order and without gaps; lines counted from 0."""
    patterns = _NAMES.get(suffix, _OTHERS)
    cuts: list[tuple[int, str]] = [(0, "")]
    outer = ""
    previous_blank = True
    for at, line in enumerate(lines):
        if not line.strip():
            previous_blank = True
            continue
        inside = line[0] in " \t"
        stripped = line.strip()
        head = stripped[:300] if inside else line[:300]
        name = ""
        if not inside or (
            suffix in (".py", ".pyi") and outer and line.startswith("    ") and not line.startswith("     ")
        ):
            name = next((found.group(1).strip() for p in patterns if (found := p.match(head))), "")
        if name:
            start = _with_leading(lines, at, cuts[-1][0], inside)
            if inside:
                name = f"{outer} > {name}"
            else:
                outer = name if stripped.startswith("class") else ""
            cuts.append((start, name))
        elif not inside and previous_blank and stripped[0] not in "})]" and at - cuts[-1][0] >= _MIN_LINES:
            outer = ""
            cuts.append((_with_leading(lines, at, cuts[-1][0], inside), ""))
        elif not inside and previous_blank and outer and stripped[0] not in "})]#@":
            outer = ""
            cuts.append((at, ""))
        previous_blank = False
    ends = [start for start, _ in cuts[1:]] + [len(lines)]
    return [(start, end, name) for (start, name), end in zip(cuts, ends, strict=True) if start < end]


def _with_leading(lines: list[str], at: int, floor: int, inside: bool) -> int:
    """The first of the comment and decorator lines that stand directly above line ``at``."""
    while at > floor and (above := lines[at - 1]).strip().startswith(_LEADING) and (above[0] in " \t") == inside:
        at -= 1
    return at
