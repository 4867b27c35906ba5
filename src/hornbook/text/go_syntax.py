"""The grammar of Go's text/template, as far as chat templates use it: source to a tree, errors with their line.

    {{ if and .System (ne .Role "user") }} ... {{ else if ... }} ... {{ else }} ... {{ end }}
    {{- range $i, $m := .Messages }} ... {{ break }} {{ continue }} {{ else }} ... {{ end -}}
    {{ with .Tools }} ... {{ end }}     {{ $x := len .Messages }} {{ $x = 2 }}     {{/* a comment */}}
    {{ .Function.Arguments | json }}    {{ (index .Messages 0).Content }}

The rules are those of https://pkg.go.dev/text/template: "{{-" and "-}}" take the white space beside them away, a
variable lives until the end of the control structure it was declared in, a chain of fields has no space in it.
``define``, ``template``, ``block`` and all functions that `hornbook.text.go_template` does not list are refused by name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from hornbook.errors import TemplateError

SPACE = " \t\r\n"
MAX_DEPTH = 100  # of parentheses and of control structures
_REMEDY = "Correct the template, or leave it out: the model's own is used then."
_UNSUPPORTED = ("define", "template", "block")
_KEYWORDS = ("if", "else", "end", "range", "with", "break", "continue")


def refused(line: int, what: str) -> TemplateError:
    return TemplateError(f"the template, line {line}: {what}", _REMEDY)


# ------------------------------------------------------------------------------------------------------- the tree


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Field:
    """``.A.B`` of the dot; with no names, the dot itself."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """``$x.A.B``; the name "$" is what the whole template was given."""

    name: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function:
    name: str


@dataclass(frozen=True, slots=True)
class Nested:
    """``(pipeline).A.B``"""

    pipe: Pipe
    names: tuple[str, ...]


Operand: TypeAlias = "Literal | Field | Variable | Function | Nested"


@dataclass(frozen=True, slots=True)
class Pipe:
    """``$a, $b := first | second``: each command is given what the one before it made, as its last argument."""

    line: int
    commands: tuple[tuple[Operand, ...], ...]
    variables: tuple[str, ...] = ()
    declares: bool = True  # ":=", not "="


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """``kind``: if, with or range."""

    kind: str
    pipe: Pipe
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """``kind``: break or continue."""

    kind: str


Node: TypeAlias = "Text | Action | Branch | Leave"


# ------------------------------------------------------------------------------------------------------ the words


@dataclass(frozen=True, slots=True)
class _Word:
    kind: str  # field, dot, variable, word, literal, mark
    text: str
    line: int
    joined: bool  # nothing stands between it and the word before


@dataclass(frozen=True, slots=True)
class _Tag:
    """What stands between "{{" and "}}"."""

    words: tuple[_Word, ...]
    line: int


_WORD = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<literal>"(?:\\.|[^"\\\n])*"|`[^`]*`|'(?:\\.|[^'\\\n])+'|[+-]?\d[\w.]*)
    |(?P<field>\.[^\W\d]\w*)|(?P<dot>\.)|(?P<variable>\$\w*)|(?P<word>[^\W\d]\w*)|(?P<mark>:=|=|\||,|\(|\))""",
    re.VERBOSE,
)
_CLOSING = re.compile(r"[ \t\r\n]+-\}\}|[ \t\r\n]*\}\}")
_COMMENT = re.compile(r"[ \t\r\n]*/\*.*?\*/", re.DOTALL)


def _parts(source: str) -> Iterator[str | _Tag]:
    """Texts and tags in their order, white space already taken away where a tag says so."""
    at, line, trim = 0, 1, False
    while True:
        start = source.find("{{", at)
        text = source[at : len(source) if start < 0 else start]
        line += text.count("\n")
        if trim:
            text = text.lstrip(SPACE)
        if start < 0:
            yield text
            return
        at = start + 2
        if source[at : at + 1] == "-" and source[at + 1 : at + 2] in tuple(SPACE):
            text, at = text.rstrip(SPACE), at + 1
        yield text
        words, end, trim = _words(source, at, line)
        if words is not None:
            yield _Tag(words, line)
        line += source.count("\n", at, end)
        at = end


def _words(source: str, at: int, line: int) -> tuple[tuple[_Word, ...] | None, int, bool]:
    """(the words of a tag, or None for a comment; where its "}}" ends; whether that trims)."""
    comment = _COMMENT.match(source, at)
    if comment:
        closing = _CLOSING.match(source, comment.end())
        if closing is None:
            raise refused(line, "a comment must be alone in its tag: {{/* ... */}}")
        return None, closing.end(), closing[0].endswith("-}}")
    words: list[_Word] = []
    opened, joined = line, False
    while True:
        closing = _CLOSING.match(source, at)
        if closing is not None:
            return tuple(words), closing.end(), closing[0].endswith("-}}")
        found = _WORD.match(source, at)
        if found is None or not found.lastgroup:
            if at >= len(source):
                raise refused(opened, 'this "{{" has no "}}"')
            raise refused(line, f"{source[at : at + 10]!r} is not understood")
        if found.lastgroup != "space":
            words.append(_Word(found.lastgroup, found[0], line, joined))
        joined = found.lastgroup != "space"
        line += found[0].count("\n")
        at = found.end()


def _literal(word: _Word) -> Any:
    text = word.text
    if text[0] == "`":
        return text[1:-1].replace("\r", "")
    try:
        if text[0] in "\"'":
            value = ast.literal_eval(text)  # Go's escapes that matter here are Python's
            return value if text[0] == '"' else ord(value)
        return int(text, 0) if re.fullmatch(r"[+-]?(\d+|0[xX][\da-fA-F]+)", text) else float(text)
    except (ValueError, SyntaxError, TypeError):
        raise refused(word.line, f"{text} is neither a number nor a text") from None


# ----------------------------------------------------------------------------------------------------- the parser


def parse(source: str, functions: frozenset[str]) -> tuple[Node, ...]:
    """The template's tree. Raises TemplateError, with the line, for what is not of the grammar above."""
    return _Parser(source, functions).parse()


class _Parser:
    def __init__(self, source: str, functions: frozenset[str]) -> None:
        self._parts = _parts(source)
        self._functions = functions
        self._variables = ["$"]
        self._depth = self._loops = 0

    def parse(self) -> tuple[Node, ...]:
        nodes, tag = self._until_end()
        if tag is not None:
            raise refused(tag.line, f"{{{{ {tag.words[0].text} }}}} closes nothing")
        return nodes

    def _until_end(self) -> tuple[tuple[Node, ...], _Tag | None]:
        """The nodes before the next ``else`` or ``end`` that is not theirs, and that tag; None at the template's end."""
        nodes: list[Node] = []
        for part in self._parts:
            if isinstance(part, str):
                if part:
                    nodes.append(Text(part))
                continue
            if not part.words:
                raise refused(part.line, "a tag is empty")
            first = part.words[0]
            word = first.text if first.kind == "word" else ""
            if word in _UNSUPPORTED:
                raise refused(part.line, f"{{{{ {word} }}}} is not supported")
            if word in ("else", "end"):
                if word == "end" and len(part.words) > 1:
                    raise refused(part.line, f"{part.words[1].text!r} after end")
                return tuple(nodes), part
            if word in ("if", "with", "range"):
                nodes.append(self._branch(word, part, part.words[1:]))
            elif word in ("break", "continue"):
                if not self._loops or len(part.words) > 1:
                    raise refused(part.line, f"{{{{ {word} }}}} belongs in a range, alone")
                nodes.append(Leave(word))
            else:
                nodes.append(Action(self._pipe(part, part.words)))
        return tuple(nodes), None

    def _branch(self, kind: str, tag: _Tag, words: tuple[_Word, ...]) -> Branch:
        self._deeper(tag.line)
        scope = len(self._variables)
        pipe = self._pipe(tag, words, loop=kind == "range")
        self._loops += kind == "range"
        inner = len(self._variables)
        body, end = self._until_end()
        del self._variables[inner:]
        self._loops -= kind == "range"
        otherwise: tuple[Node, ...] = ()
        if end is not None and end.words[0].text == "else":
            rest = end.words[1:]
            if rest and kind != "range" and rest[0].text in ("if", "with"):
                otherwise = (self._branch(rest[0].text, end, rest[1:]),)  # they share one end
            elif rest:
                raise refused(end.line, f"{rest[0].text!r} after else")
            else:
                otherwise, end = self._until_end()
                if end is not None and end.words[0].text == "else":
                    raise refused(end.line, "a second else")
        if end is None:
            raise refused(tag.line, f"{{{{ {kind} }}}} has no {{{{ end }}}}")
        del self._variables[scope:]
        self._depth -= 1
        return Branch(kind, pipe, body, otherwise)

    def _deeper(self, line: int) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise refused(line, f"more than {MAX_DEPTH} structures within each other")

    # --- pipelines

    def _pipe(self, tag: _Tag, words: tuple[_Word, ...], *, loop: bool = False) -> Pipe:
        names: list[str] = []
        declares = True
        for place, word in enumerate(words[:4]):
            if word.text in (":=", "="):
                declared = words[:place]
                names = [word.text for word in declared[::2]]
                good = all(word.kind == "variable" for word in declared[::2]) and all(
                    w.text == "," for w in declared[1::2]
                )
                if not good or not 1 <= len(names) <= (2 if loop else 1) or len(declared) != 2 * len(names) - 1:
                    raise refused(word.line, f"what stands before {word.text} is no variable")
                declares, words = word.text == ":=", words[place + 1 :]
                break
        commands, rest = self._commands(words, tag.line)
        if rest:
            raise refused(rest[0].line, f"{rest[0].text!r} is not expected here")
        for name in names:
            if declares:
                if name == "$":
                    raise refused(tag.line, "$ cannot be declared")
                self._variables.append(name)
            elif name not in self._variables:
                raise refused(tag.line, f"the variable {name} is not declared")
        return Pipe(tag.line, commands, tuple(names), declares)

    def _commands(
        self, words: tuple[_Word, ...], line: int
    ) -> tuple[tuple[tuple[Operand, ...], ...], tuple[_Word, ...]]:
        commands: list[tuple[Operand, ...]] = []
        while True:
            operands: list[Operand] = []
            while words and words[0].text not in ("|", ")"):
                operand, words = self._operand(words)
                operands.append(operand)
            if not operands:
                raise refused(words[0].line if words else line, "a command is missing")
            self._check(operands, line, first=not commands)
            commands.append(tuple(operands))
            if not words or words[0].text != "|":
                return tuple(commands), words
            words = words[1:]

    def _check(self, operands: list[Operand], line: int, *, first: bool) -> None:
        """Only a function takes arguments."""
        if (len(operands) > 1 or not first) and not isinstance(operands[0], Function):
            raise refused(line, "what is given arguments is no function")

    def _operand(self, words: tuple[_Word, ...]) -> tuple[Operand, tuple[_Word, ...]]:
        word, rest = words[0], words[1:]
        if word.kind == "literal":
            return Literal(_literal(word)), rest
        if word.kind == "field":
            names, rest = _chain(rest)
            return Field((word.text[1:], *names)), rest
        if word.kind == "dot":
            return Field(()), rest
        if word.kind == "variable":
            if word.text not in self._variables:
                raise refused(word.line, f"the variable {word.text} is not declared")
            names, rest = _chain(rest)
            return Variable(word.text, names), rest
        if word.text == "(":
            self._deeper(word.line)
            commands, rest = self._commands(rest, word.line)
            self._depth -= 1
            if not rest:
                raise refused(word.line, 'this "(" has no ")"')
            names, rest = _chain(rest[1:])
            return Nested(Pipe(word.line, commands), names), rest
        if word.kind == "word":
            return self._named(word), rest
        raise refused(word.line, f"{word.text!r} is not expected here")

    def _named(self, word: _Word) -> Operand:
        constants: dict[str, Any] = {"true": True, "false": False, "nil": None}
        if word.text in constants:
            return Literal(constants[word.text])
        if word.text not in self._functions:
            _unknown(word, self._functions)
        return Function(word.text)


def _chain(words: tuple[_Word, ...]) -> tuple[tuple[str, ...], tuple[_Word, ...]]:
    """The fields that follow without a space."""
    count = 0
    while count < len(words) and words[count].kind == "field" and words[count].joined:
        count += 1
    return tuple(word.text[1:] for word in words[:count]), words[count:]


def _unknown(word: _Word, functions: frozenset[str]) -> NoReturn:
    kind = "keyword" if word.text in _KEYWORDS else "function"
    raise TemplateError(
        f"the template, line {word.line}: the {kind} {word.text} is not supported here",
        f"Functions are: {', '.join(sorted(functions))}.",
    )
