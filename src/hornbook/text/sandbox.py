"""The sandbox that chat templates run in. A template comes with a model, so it is a stranger's program.

jinja2's immutable sandbox keeps it from Python's insides and from changing what it is given. It leaves time and memory
open: ``range`` is bounded, but two of them nested are ten thousand million steps, and "a" * 10**9 is a gigabyte. So
everything that repeats or grows is counted here, on a meter that each run starts afresh:

    steps      iterations of loops, calls                                   bounded, and so is the time they take
    size       characters and list items that any operation makes           bounded by what the conversation's size allows
    parts      of any nested value, as printing it would count them         so that [x, x] forty times over is refused

The syntax tree is rewritten so that loops, slices, "~" and literals report to the meter; operators, calls, filters and
the joining of output do so through jinja2's own hooks.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from hornbook.errors import TemplateError
from hornbook.text.meter import Meter

MAX_SOURCE = 1 << 20  # characters of a template; the longest in use have about 30,000
MAX_NUMBER = 100_000  # of a number that a builtin is called with: widths, counts, precisions
MAX_BITS = 4096

_FILTERS = (
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float"),
    *("format", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map"),
    *("max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort"),
    *("string", "sum", "title", "tojson", "trim", "truncate", "unique", "upper", "wordcount"),
)
_GLOBALS = ("range", "dict", "cycler", "joiner", "namespace")
_WIDE_PRINTF = re.compile(r"%[^%a-zA-Z]*(\d{4,}|\*)")
_WIDE_FORMAT = re.compile(r"\{[^{}]*(\d{4,}|\{)")
_WIDE_TIME = re.compile(r"%[^a-zA-Z%]*\d{2,}")
_REMEDY = "The template comes with the model and may be damaged or hostile; use another model or template."


class Program:
    """A compiled template. `run` may be called from many threads at once."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"the chat template has {len(source):,} characters, {MAX_SOURCE:,} at most", _REMEDY)
        self.source = source
        self._sandbox = _Sandbox()
        try:
            with self._sandbox.metered({}):
                self._template = self._sandbox.from_string(source)
        except Exception as error:
            raise TemplateError(f"the chat template is not sound: {_line(error)}", _REMEDY) from error

    def run(self, variables: dict[str, Any]) -> str:
        """Render. Raises TemplateError on whatever goes wrong, a refusal by the template's raise_exception included."""
        try:
            with self._sandbox.metered(variables) as meter:
                parts = []
                for part in self._template.generate(variables):
                    meter.spend(len(part))
                    parts.append(part)
                return "".join(parts)
        except TemplateError:
            raise
        except SecurityError as error:
            raise TemplateError(f"the chat template is refused: {_line(error)}", _REMEDY) from error
        except Exception as error:
            raise TemplateError(f"the chat template fails: {_line(error)}", _REMEDY) from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


# ------------------------------------------------------------------------------------------------ the environment


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self._run = threading.local()
        self.finalize = lambda value: self.meter.weigh(value)
        filters: dict[str, Callable[..., Any]] = {name: self.filters[name] for name in _FILTERS}
        filters["tojson"] = to_json
        self.filters = {name: self._metered_filter(name, filter) for name, filter in filters.items()}
        self.filters[_LOOP] = self._counted
        self.filters[_CONCAT] = self._concatenated
        self.filters[_MADE] = lambda value: self.meter.made(value)
        self.globals = {name: self.globals[name] for name in _GLOBALS}
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _strftime_now

    @property
    def meter(self) -> Meter:
        meter: Meter = self._run.meter
        return meter

    def metered(self, given: dict[str, Any]) -> _Run:
        return _Run(self._run, Meter(given))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Reporting().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """jinja2 would print it as nothing; a template that tries is refused."""
        raise SecurityError(f"it asks for {attribute!r} of a {type(obj).__name__}")

    # what grows or repeats

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """jinja2 asks at every attribute whether it is a string's format, and puts a safe one in its place."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        form = str(value.__self__)

        def metered(*args: Any, **kwargs: Any) -> str:
            if _WIDE_FORMAT.search(form):
                raise SecurityError("it formats to an unbounded width")
            values = [*args, *kwargs.values()]
            self.meter.weigh(values)
            self.meter.afford(len(form) * (1 + sum(len(item) for item in values if isinstance(item, str))))
            return wrapped(*args, **kwargs)

        return metered

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter = self.meter
        meter.step()
        owner = getattr(obj, "__self__", None)
        if owner is not None or isinstance(obj, type):
            _check_numbers([*args, *kwargs.values()])
        if isinstance(owner, (str, bytes)):
            _check_method(meter, owner, getattr(obj, "__name__", ""), args, kwargs)
        return meter.made(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        meter = self.meter
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, (str, bytes, list, tuple)) and isinstance(times, int):
                    meter.afford(len(many) * max(times, 0))
        if operator == "%" and isinstance(left, (str, bytes)):
            _check_printf(left)
            meter.weigh(right)
        if isinstance(left, int) and isinstance(right, int):
            bits = {"*": left.bit_length() + right.bit_length(), "**": left.bit_length() * abs(right)}.get(operator, 0)
            if bits > MAX_BITS:
                raise SecurityError(f"it computes a number of more than {MAX_BITS} bits")
        return meter.made(super().call_binop(context, operator, left, right))

    def concat(self, parts: Iterable[str]) -> str:
        parts = list(parts)
        self.meter.afford(sum(map(len, parts)))
        joined = "".join(parts)
        self.meter.spend(len(joined))
        return joined

    def _metered_filter(self, name: str, filter: Callable[..., Any]) -> Callable[..., Any]:
        hands_over = 1 if hasattr(filter, "jinja_pass_arg") else 0  # the environment or a context comes first

        @functools.wraps(filter)
        def metered(*args: Any, **kwargs: Any) -> Any:
            meter = self.meter
            meter.step()
            value, *options = args[hands_over:]
            meter.weigh(value)
            _check_numbers([*options, *kwargs.values()])
            _check_filter(meter, name, value, options, kwargs)
            return meter.made(filter(*args, **kwargs))

        return metered

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        meter = self.meter
        for item in items:
            meter.step()
            yield item

    def _concatenated(self, items: list[Any]) -> str:
        meter = self.meter
        texts = [str(meter.weigh(item)) for item in items]
        meter.afford(sum(map(len, texts)))
        joined = "".join(texts)
        meter.spend(len(joined))
        return joined


class _Run:
    """``with``: the meter of one run, in its own thread."""

    def __init__(self, local: threading.local, meter: Meter) -> None:
        self._local, self._meter = local, meter

    def __enter__(self) -> Meter:
        self._local.meter = self._meter
        return self._meter

    def __exit__(self, *failure: object) -> None:
        del self._local.meter


# ------------------------------------------------------------------------------------------ the rewritten tree

_LOOP, _CONCAT, _MADE = "#loop", "#concat", "#made"  # no template can write such names


class _Reporting(NodeTransformer):
    """Makes loops, "~", slices and nested literals report to the meter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through(_LOOP, node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through(_CONCAT, nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _through(_MADE, node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return node if all(isinstance(item, nodes.Const) for item in node.items) else _through(_MADE, node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _through(_MADE, node) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _through(_MADE, node)


def _through(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """``{% generation %}...{% endgeneration %}`` stands around what the assistant wrote, for the loss mask."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_surround", [nodes.Name("_generation_marks", "load")])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _surround(self, marks: Any, caller: Callable[[], str]) -> str:
        return f"{marks[0]}{caller()}{marks[1]}"


# ------------------------------------------------------------------------------------------ builtins with a bound


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as transformers lets templates write it: no HTML escapes, characters as they are."""
    if len(indent if isinstance(indent, str) else " " * (indent or 0)) > 32 or len("".join(separators or ())) > 32:
        raise SecurityError("it indents JSON by more than 32 characters")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> None:
    raise TemplateError(
        f"the chat template refuses the messages: {_line(Exception(message))}", "Change the messages accordingly."
    )


def _strftime_now(form: str) -> str:
    if len(form) > 200 or _WIDE_TIME.search(form):
        raise SecurityError("it asks for a date of unbounded width")
    return datetime.now().strftime(form)


def _check_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise SecurityError(f"it calls a builtin with a number beyond {MAX_NUMBER:,}")


def _check_printf(form: str | bytes) -> None:
    if _WIDE_PRINTF.search(form if isinstance(form, str) else form.decode("latin-1")):
        raise SecurityError("it formats to an unbounded width")


def _check_method(meter: Meter, owner: str | bytes, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The methods of strings that can make much out of little."""
    if name == "translate":
        raise SecurityError("it calls str.translate")
    if name == "join" and args:
        _afford_join(meter, owner, args[0])
    elif name == "replace" and len(args) >= 2:
        _afford_replace(meter, owner, *args[:2])
    elif name == "expandtabs":
        meter.afford(len(owner) * max([8, *(value for value in [*args, *kwargs.values()] if isinstance(value, int))]))


def _check_filter(meter: Meter, name: str, value: Any, options: list[Any], kwargs: dict[str, Any]) -> None:
    """The filters that can make much out of little."""
    given = [*options, *kwargs.values()]
    if name == "join":
        _afford_join(meter, next((item for item in given if isinstance(item, str)), ""), value)
    elif name == "replace" and len(given) >= 2:
        _afford_replace(meter, str(value), given[0], given[1])
    elif name == "indent":
        width = max((len(item) if isinstance(item, str) else int(item) for item in given), default=4)
        meter.afford(len(str(value)) + width * (len(str(value).splitlines()) + 1))
    elif name == "format":
        _check_printf(str(value))


def _afford_join(meter: Meter, separator: str | bytes, items: Any) -> None:
    if isinstance(items, (str, bytes, list, tuple, dict)):
        meter.weigh(items)
        meter.afford((len(separator) + 1) * len(items))
    elif separator:
        meter.afford(len(separator) * MAX_NUMBER)  # a lazy sequence: range is the longest that a template can make


def _afford_replace(meter: Meter, text: Any, old: Any, new: Any) -> None:
    text, old = str(text), str(old)
    meter.afford(len(text) + (text.count(old) if old else len(text) + 1) * len(str(new)))
