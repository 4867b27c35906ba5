'''Modelfiles: the small text that makes a model of one's own out of weights that are there. Read, checked and written.

    FROM smollm2:135m                 a model's name, a GGUF file or a folder
    ADAPTER ./lora                    a LoRA adapter's folder
    PARAMETER temperature 0.7         stop may be given several times
    TEMPLATE """{{ .Prompt }}"""      in Go's language as Ollama's are, or in jinja
    SYSTEM You answer in one sentence.
    MESSAGE user Is Toronto in Canada?
    LICENSE """..."""

The rules are Ollama's (docs/modelfile.mdx of its repository): a keyword in any case at the beginning of a line, "#" for a
line that is a comment, a value up to the line's end or, in "..." or """...""", over several. What ``str`` writes, ``parse``
reads as the same Modelfile. What Hornbook cannot honour is refused by name and line, never left out.
'''

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, TypeAlias

from hornbook.errors import UsageError

Value: TypeAlias = "int | float | tuple[str, ...]"
ROLES = ("system", "user", "assistant")
KEYWORDS = ("FROM", "ADAPTER", "PARAMETER", "TEMPLATE", "SYSTEM", "MESSAGE", "LICENSE")


class Bounds(NamedTuple):
    """What a parameter may be; ``whole``: no fractions."""

    least: float
    most: float
    whole: bool = False


_MANY = float(2**31 - 1)
PARAMETERS: Mapping[str, Bounds | None] = MappingProxyType(
    {
        "num_predict": Bounds(-2, _MANY, True),  # -1 and -2: until the context is full
        "num_ctx": Bounds(1, _MANY, True),
        "num_keep": Bounds(-1, _MANY, True),  # tokens at the beginning that a truncation keeps; -1: all of the prompt
        "temperature": Bounds(0, math.inf),
        "top_k": Bounds(-1, _MANY, True),  # 0 and -1: off
        "top_p": Bounds(0, 1),
        "min_p": Bounds(0, 1),
        "seed": Bounds(-(2.0**63), 2.0**63, True),
        "repeat_penalty": Bounds(1e-6, 1e6),
        "presence_penalty": Bounds(-1e6, 1e6),
        "frequency_penalty": Bounds(-1e6, 1e6),
        "repeat_last_n": Bounds(-1, _MANY, True),  # how many tokens repeat_penalty looks back; -1: all, 0: it is off
        "stop": None,  # texts
    }
)
"""The parameters that are honoured, in a Modelfile and in a request's options. None: texts."""

_COUNT = Bounds(-1, _MANY, True)
UNFELT: Mapping[str, Bounds | None] = MappingProxyType(
    dict.fromkeys(("num_thread", "num_gpu", "main_gpu", "num_batch", "num_gqa", "draft_num_predict"), _COUNT)
    | dict.fromkeys(("use_mmap", "use_mlock", "numa", "low_vram", "f16_kv", "logits_all"))
    | dict.fromkeys(("mirostat_tau", "mirostat_eta"), Bounds(0, math.inf))  # of mirostat, which is off
)
"""What says only how fast, and in how much memory, Ollama runs a model. Checked, kept, and without effect: here that is decided
by settings, and the numbers are the same. None: true or false."""

NEUTRAL: Mapping[str, int | float] = MappingProxyType(
    {
        "mirostat": 0,
        "tfs_z": 1.0,
        "typical_p": 1.0,
        "penalize_newline": True,
        "vocab_only": False,
        "embedding_only": False,
    }
)
"""What would change the answer and is not to be had, with the one value that leaves it as it is."""

_REPLACED = "the sampler has no such filter: use temperature, top_k, top_p and min_p"
REFUSED: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("mirostat", "tfs_z", "typical_p"), _REPLACED)
    | dict.fromkeys(("rope_frequency_base", "rope_frequency_scale"), "it is the model's own")
    | dict.fromkeys(("vocab_only", "embedding_only"), "a model is loaded whole")
    | {"penalize_newline": "a newline is a token like any other"}
)
_NEVER = {
    "DRAFT": "a draft model is chosen where a model is loaded",
    "RENDERER": "prompts are written by a TEMPLATE",
    "PARSER": "the calls of tools are read by the model's template",
    "REQUIRES": "it names a version of Ollama",
}


def parameter(name: str, value: Any) -> Value:
    """A parameter's value, checked: a number, true or false, or for stop the texts. Text that is a number is one, as a
    Modelfile has it.

    Raises UsageError that names it.
    """
    if name in NEUTRAL:
        return _neutral(name, value)
    if name in UNFELT and UNFELT[name] is None:
        return _flag(name, value)
    if name not in PARAMETERS and name not in UNFELT:
        what = REFUSED.get(name)
        told = f"the parameter {name} is not supported: {what}" if what else f"there is no parameter {name}"
        raise UsageError(told, f"Supported are: {', '.join(PARAMETERS)}.")
    bounds = UNFELT[name] if name in UNFELT else PARAMETERS[name]
    if bounds is None:
        texts = (value,) if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
            raise UsageError(
                f"{name} must be texts that are not empty, not {value!r}", "Give a text or a list of texts."
            )
        return tuple(texts)
    number = _number(value)
    good = number is not None and bounds.least <= number <= bounds.most and not (bounds.whole and number % 1)
    if number is None or not good:
        kind = "a whole number" if bounds.whole else "a number"
        limits = f"from {_short(bounds.least)} to {_short(bounds.most)}"
        raise UsageError(f"{name} must be {kind}, {limits}, not {value!r}", "Change it, or leave it out.")
    return int(number) if bounds.whole else float(number)


def _neutral(name: str, value: Any) -> Value:
    only = NEUTRAL[name]
    found = _flag(name, value) if isinstance(only, bool) else _number(value)
    if found != only:
        raise UsageError(
            f"the parameter {name} is not supported: {REFUSED[name]}",
            f"Leave it out; {written(only)} is taken, and changes nothing.",
        )
    return only


def _flag(name: str, value: Any) -> bool:
    text = str(value).lower() if isinstance(value, bool | int | str) else ""
    if text in ("true", "t", "1"):
        return True
    if text in ("false", "f", "0"):
        return False
    raise UsageError(f"{name} must be true or false, not {value!r}", "Change it, or leave it out.")


def written(value: int | float) -> str:
    """A number, true or false, as a Modelfile has it."""
    return str(value).lower() if isinstance(value, bool) else repr(value).removesuffix(".0")


def _number(value: Any) -> int | float | None:
    """Whole numbers stay whole: a seed may have more digits than a float."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(value) if re.fullmatch(r"[+-]?\d{1,20}", str(value)) else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _short(number: float) -> str:
    return f"{number:.10g}"


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says. None and nothing: it says nothing of it, and the base's holds."""

    base: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    adapter: str | None = None
    messages: tuple[tuple[str, str], ...] = ()  # (role, text)
    licences: tuple[str, ...] = ()

    def over(self, base: Modelfile) -> Modelfile:
        """This one, and what it leaves open as the Modelfile of its base has it; FROM is the base's own base."""
        if self.adapter is not None and base.adapter is not None:
            raise UsageError(
                f"{self.base} has an adapter already ({base.adapter})",
                "Begin from a model that has none: one is used at a time.",
            )
        return replace(
            self,
            base=base.base,
            parameters={**base.parameters, **self.parameters},
            template=base.template if self.template is None else self.template,
            system=base.system if self.system is None else self.system,
            adapter=self.adapter or base.adapter,
            messages=self.messages or base.messages,
            licences=(*base.licences, *(text for text in self.licences if text not in base.licences)),
        )

    def __str__(self) -> str:
        lines = [f"FROM {_quoted(self.base)}"]
        if self.adapter is not None:
            lines.append(f"ADAPTER {_quoted(self.adapter)}")
        for name, value in self.parameters.items():
            values = value if isinstance(value, tuple) else (written(value),)
            lines += [f"PARAMETER {name} {_quoted(text)}" for text in values]
        if self.template is not None:
            lines.append(f"TEMPLATE {_quoted(self.template, long=True)}")
        if self.system is not None:
            lines.append(f"SYSTEM {_quoted(self.system, long=True)}")
        lines += [f"MESSAGE {role} {_quoted(text)}" for role, text in self.messages]
        lines += [f"LICENSE {_quoted(text, long=True)}" for text in self.licences]
        return "\n".join(lines) + "\n"

    def writable(self) -> Modelfile:
        """Itself, with the ends of lines as text files have them, once it is known that ``str`` can write it: of all texts
        only one with a line that ends in three quotation marks has no way to be written. Raises UsageError."""
        plain = replace(
            self,
            parameters={n: tuple(map(_lines, v)) if isinstance(v, tuple) else v for n, v in self.parameters.items()},
            template=None if self.template is None else _lines(self.template),
            system=None if self.system is None else _lines(self.system),
            messages=tuple((role, _lines(text)) for role, text in self.messages),
            licences=tuple(map(_lines, self.licences)),
        )
        try:
            same = parse(str(plain)) == plain
        except UsageError:
            same = False
        if not same:
            what = 'a text has a line that ends in """, or begins and ends in ways that a Modelfile cannot hold'
            raise UsageError(what, "Take the quotation marks out of it.")
        return plain


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _quoted(text: str, *, long: bool = False) -> str:
    """A value as a Modelfile holds it: bare where that is read as the same, else in quotation marks."""
    if text and text == text.strip() and "\n" not in text and not text.startswith('"') and not long:
        return text
    return f'"""{text}"""' if long or "\n" in text or '"' in text else f'"{text}"'


# ---------------------------------------------------------------------------------------------------------- reading


def parse(text: str) -> Modelfile:
    """Read a Modelfile. Raises UsageError with the line."""
    found: dict[str, Any] = {"parameters": {}, "messages": [], "licences": []}
    keys = {"FROM": "base", "ADAPTER": "adapter", "TEMPLATE": "template", "SYSTEM": "system"}
    lines = _lines(text.removeprefix("\ufeff")).split("\n")
    at = 0
    while at < len(lines):
        line, number = lines[at].lstrip(), at + 1
        at += 1
        if not line or line.startswith("#"):
            continue
        word, rest = _first_word(line)
        keyword = word.upper()
        if keyword not in KEYWORDS:
            _fail(
                number,
                f"{word[:40]!r} is not supported: {_NEVER[keyword]}"
                if keyword in _NEVER
                else f"{word[:40]!r} is no keyword",
            )
        subject = ""
        if keyword in ("PARAMETER", "MESSAGE"):
            subject, rest = _first_word(rest)
        value, at = _value(rest, lines, at, keyword)
        if keyword == "PARAMETER":
            _take_parameter(found["parameters"], subject, value, number)
        elif keyword == "MESSAGE":
            if subject.lower() not in ROLES:
                _fail(number, f"MESSAGE is of {', '.join(ROLES)}, not {subject!r}")
            found["messages"].append((subject.lower(), value))
        elif keyword == "LICENSE":
            found["licences"].append(value)
        elif keys[keyword] in found:
            _fail(number, f"a second {keyword}")
        else:
            if not value and keyword in ("FROM", "ADAPTER"):
                _fail(number, f"{keyword} names nothing")
            found[keys[keyword]] = value
    if "base" not in found:
        raise UsageError("the Modelfile has no FROM line", "Say what the model is made from: FROM smollm2:135m")
    return Modelfile(**{**found, "messages": tuple(found["messages"]), "licences": tuple(found["licences"])})


def _first_word(line: str) -> tuple[str, str]:
    words = line.split(None, 1)
    return (words[0], words[1]) if len(words) == 2 else (words[0] if words else "", "")


def _value(begun: str, lines: list[str], at: int, keyword: str) -> tuple[str, int]:
    """(the value that begins so, over as many lines as its quotation marks say; the line after it)."""
    number, first = at, begun.strip()
    if not first:
        _fail(number, f"{keyword} has no value")
    quote = next((quote for quote in ('"""', '"') if first.startswith(quote)), None)
    if quote is None:
        return first, at
    parts = [begun]
    closed = len(first) >= 2 * len(quote) and first.endswith(quote)
    while not closed:
        if at == len(lines):
            _fail(number, f"the text of {keyword} begins with {quote} and has no end")
        parts.append(lines[at])
        closed = lines[at].rstrip().endswith(quote)
        at += 1
    return "\n".join(parts).strip()[len(quote) : -len(quote)], at


def _take_parameter(found: dict[str, Value], name: str, text: str, number: int) -> None:
    name = name.lower()
    try:
        value = parameter(name, text)
    except UsageError as error:
        raise UsageError(f"the Modelfile, line {number}: {error.what}", error.remedy) from error
    before = found.get(name)
    if isinstance(before, tuple) and isinstance(value, tuple):
        value = (*before, *value)
    elif before is not None:
        _fail(number, f"a second {name}")
    found[name] = value


def _fail(line: int, what: str) -> NoReturn:
    raise UsageError(
        f"the Modelfile, line {line}: {what}", f"A line begins with one of {', '.join(KEYWORDS)}, or with #."
    )
