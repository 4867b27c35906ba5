"""The sandbox that chat templates run in. A template comes with a model, so it is a stranger's program.

jinja2's immutable sandbox keeps it from Python's insides and from changing what it is given. What jinja2 leaves open
is time and memory: this adds a budget.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from hornbook.errors import TemplateError


class Sandbox(ImmutableSandboxedEnvironment):
    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        self.filters["tojson"] = to_json
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise SecurityError(f"access to {attribute!r} of {type(obj).__name__} is not allowed")


class Generation(Extension):
    """``{% generation %}...{% endgeneration %}`` surrounds what the assistant wrote, for the loss mask."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_surround", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _surround(self, context: Any, caller: Any) -> str:
        marks = context.get("_generation_marks") or ("", "")
        return f"{marks[0]}{caller()}{marks[1]}"


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as transformers' templates write it: no HTML escapes, characters as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(f"the chat template refuses the messages: {message}", "Change the messages accordingly.")


class Program:
    """A compiled template."""

    def __init__(self, source: str) -> None:
        try:
            self._template = Sandbox().from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError) as error:
            raise TemplateError(f"the chat template is not sound: {error}", "Use another model or template.") from error

    def run(self, variables: dict[str, Any]) -> str:
        try:
            return self._template.render(variables)
        except TemplateError:
            raise
        except Exception as error:
            raise TemplateError(f"the chat template fails: {error}", "Use another model or template.") from error
