"""A chat template in Go's language beside a tokenizer: rendered as Ollama renders it, fenced as every template here is.

Two kinds of template are in use. One ranges over .Messages and is run once. The older one knows one exchange, .System,
.Prompt and .Response: it is run once for each exchange, and in the last run everything after .Response is left out, so
that the model goes on there. A template that names neither gets {{ .Response }} at its end.

Where Ollama would lose something without a word (tools or a tool's result that the template has no place for), this
raises TemplateError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, NoReturn

from hornbook.errors import TemplateError
from hornbook.text.chat import ChatTemplate, Rendered, as_template_sees, with_one_bos
from hornbook.text.fence import Fence
from hornbook.text.go_syntax import Action, Branch, Field, Node, Variable
from hornbook.text.go_template import GoTemplate
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import Message

_RESPONSE = "{{ .Response }}"


class GoChatTemplate:
    """A Go template with its tokenizer; ``render`` as that of `hornbook.text.chat.ChatTemplate`."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self.source = source
        self.named: dict[str, str] = {}
        self._template = GoTemplate(source)
        if not self._template.names & {"Messages", "Response"}:
            self._template = GoTemplate(source + _RESPONSE)
        self._tokenizer = tokenizer
        self._fence = Fence(tokenizer)
        self._think: bool | None = None

    def thinking(self, think: bool | None) -> GoChatTemplate:
        """The same template, which .Think and .IsThinkSet tell whether the model is asked to think; None: nobody said."""
        other = copy(self)
        other._think = think
        return other

    def render(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        reply: bool = False,
    ) -> Rendered:
        """Render a conversation; with ``reply`` up to where the answer begins. A conversation that ends with an assistant's
        message is gone on with where the template allows it.

        Raises TemplateError.
        """
        turns = _merged([_as_go_sees(Message.of(message)) for message in messages])
        mark = Fence.marks(self.source, turns, list(tools), count=1)[0]
        protect = partial(self._fence.protect, mark=mark)
        turns, offered = protect(turns), protect(list(tools))
        if tools and "Tools" not in self._template.names:
            raise TemplateError(
                "the model's template has no place for tools", "Leave the tools out, or change TEMPLATE."
            )
        given = {"Think": bool(self._think), "IsThinkSet": self._think is not None, "Response": "", "Tools": offered}
        run = partial(self._template.run, mark=mark, protect=protect)
        if "Messages" in self._template.names:
            system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
            marked = run({**given, "System": system, "Messages": turns})
        else:
            exchanges = _exchanges(turns)
            nodes = [self._template.nodes] * len(exchanges)
            if reply:
                nodes[-1] = _before_response(nodes[-1])[0]
            marked = "".join(run({**given, **one}, nodes=own) for one, own in zip(exchanges, nodes, strict=True))
        encoded = with_one_bos(self._fence.encode(marked, mark), self._tokenizer)
        return Rendered(marked.replace(mark, ""), encoded.ids, _no_mask)


def template_of(source: str, tokenizer: Tokenizer) -> ChatTemplate | GoChatTemplate:
    """The template of a Modelfile, in whichever of the two languages it is. Raises TemplateError."""
    return ChatTemplate(source, tokenizer) if is_jinja(source) else GoChatTemplate(source, tokenizer)


def is_jinja(source: str) -> bool:
    """Go's templates have no statements or comments in braces with "%" and "#"; every jinja chat template has a loop."""
    return "{%" in source


def _no_mask() -> NoReturn:
    raise TemplateError(
        "a Go template does not tell which tokens the assistant wrote", "Train with the model's jinja template."
    )


def _as_go_sees(message: Message) -> dict[str, Any]:
    """As jinja's templates see it, but that a result has the name of its tool, and calls are counted."""
    turn = as_template_sees(message)
    if "name" in turn:
        turn["tool_name"] = turn.pop("name")
    for at, call in enumerate(turn.get("tool_calls", ())):
        call["function"]["index"] = at
    return turn


def _merged(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one role become one message, but for the results of tools."""
    merged: list[dict[str, Any]] = []
    for turn in turns:
        last = merged[-1] if merged else {}
        if last.get("role") != turn["role"] or turn["role"] == "tool":
            merged.append(dict(turn))
            continue
        last["content"] = f"{last['content']}\n\n{turn['content']}"
        if calls := [*last.get("tool_calls", ()), *turn.get("tool_calls", ())]:
            last["tool_calls"] = calls
    return merged


def _exchanges(turns: list[dict[str, Any]]) -> list[dict[str, str]]:
    """What each run of a template for one exchange is given; the last one is the one to be answered."""
    empty = {"System": "", "Prompt": "", "Response": ""}
    exchanges = [dict(empty)]
    for turn in turns:
        if turn["role"] == "tool" or turn.get("tool_calls"):
            raise TemplateError(
                "the model's template has no place for calls of tools and their results",
                "Leave them out, or change TEMPLATE.",
            )
        last = exchanges[-1]
        if last["Response"] or (turn["role"] == "system" and last["Prompt"]):
            exchanges.append(last := dict(empty))
        last[{"system": "System", "user": "Prompt"}.get(turn["role"], "Response")] = turn["content"]
    return exchanges


def _before_response(nodes: tuple[Node, ...]) -> tuple[tuple[Node, ...], bool]:
    """(the tree up to and with the first tag that prints .Response, whether there was one)."""
    kept: list[Node] = []
    for node in nodes:
        found = False
        if isinstance(node, Action):
            operands = [operand for command in node.pipe.commands for operand in command]
            found = any(isinstance(o, Field | Variable) and "Response" in o.names for o in operands)
        elif isinstance(node, Branch):
            body, found = _before_response(node.body)
            otherwise: tuple[Node, ...] = ()
            if not found:
                otherwise, found = _before_response(node.otherwise)
            node = Branch(node.kind, node.pipe, body, otherwise)
        kept.append(node)
        if found:
            return tuple(kept), True
    return tuple(kept), False
