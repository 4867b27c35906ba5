"""Tools that a model may call: what they change about a request, and how its reply is read.

    plan = plan_tools(llm, tools, choice="auto", parallel=True)          once a request; cheap, and refuses by name
    prompt = plan.prompt(llm, messages)                                  ids, or text where the model has no template
    params = plan.params(params, prompt)                                 the same, with the grammar that holds it to the tools
    stream = plan.stream(prompt)                                         one an answer (n answers: n streams)
    for token in tokens:
        for event in stream.push(token): ...                             events and Reply: engine/tool_stream.py
    reply = stream.reply                                                 content, thinking, calls, finish_reason ("tool_calls", ...)

Without tools (``plan_tools(llm, ())``) it does the same, and only thoughts are split off. A whole text at once:
``plan.read(text)``. Where another template than the model's is rendered by the caller, give its source as ``template``; then
render ``plan.messages(messages)`` with ``plan.template_tools`` in place of ``plan.prompt``.

    choice      what happens
    "auto"      the model writes text or calls. Once it begins a call, the grammar holds the rest to the tools' names and schemas
    "none"      the tools are not shown to the model, and nothing is read as a call
    "required"  at least one call, valid whatever the model's weights are
    a tool      the same, of that tool: its name, or {"type": "function", "function": {"name": ...}}
    allowed     {"type": "allowed_tools", ...}: all are shown, only those are called

An answer that ends by "length" in the middle of a call has the call with its ``problem``. In "auto", a tool whose schema no grammar
can be made of is held to any object as arguments, which are then judged (``plan.loosened`` says which and why); "required",
a named tool and ``"strict": true`` refuse it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from hornbook.engine import thinking, tool_formats
from hornbook.engine.grammar import Vocabulary, compile
from hornbook.engine.markers import Mark, control_marks
from hornbook.engine.prompts import turns_of
from hornbook.engine.tool_formats import GENERIC, Format
from hornbook.engine.tool_grammar import closed, lark
from hornbook.engine.tool_stream import Reply, ReplyStream
from hornbook.errors import TemplateError, UsageError
from hornbook.text.chat import ChatTemplate
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import Message, SamplingParams, Token

MOST_TOOLS = 256
_FLATTER = "Name its parts in '$defs'."
_NAME = re.compile(r"[\w.:/-]{1,128}")


class Renders(Protocol):
    """What makes the prompt, as LocalLLM does."""

    def render(
        self, messages: Sequence[Message | Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str | list[int]: ...


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as OpenAI's API describes it. ``parameters``: the JSON schema of its arguments, an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False

    @property
    def described(self) -> dict[str, Any]:
        """In OpenAI's form, which templates expect."""
        schema = {"type": "object", "properties": {}, **self.parameters}
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolPlan:
    """What the tools of a request change about it."""

    tools: tuple[Tool, ...]
    format: Format
    mode: str  # "auto", "none", "required"
    callable: tuple[Tool, ...]  # those that may be called
    loosened: Mapping[str, str]  # tools whose schema the grammar cannot hold -> why
    parallel: bool = True
    tokenizer: Tokenizer | None = None
    vocabulary: Vocabulary | None = None
    thinks: str | None = None  # the mark by which the model opens a thought
    by_user: bool = False  # the template refuses a system message: what is in it goes to the user's first words

    # --- the prompt

    @property
    def native(self) -> bool:
        """Whether the template itself describes tools and shows calls."""
        return self.format is not GENERIC

    @property
    def shown(self) -> bool:
        return bool(self.tools) and self.mode != "none"

    @property
    def template_tools(self) -> tuple[dict[str, Any], ...]:
        """What the template is given as ``tools``."""
        return tuple(tool.described for tool in self.tools) if self.native and self.shown else ()

    def messages(self, messages: Sequence[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
        """What the template is given as ``messages``. Where it knows nothing of tools, they are described in a system text,
        earlier calls are the assistant's text and results are told by the user."""
        turns = turns_of(messages)
        if self.native:
            turns = tool_formats.one_at_a_time(turns) if self.format.single else turns
            return turns if self.format.ids else tool_formats.with_short_ids(turns)
        described = tool_formats.described(t.described["function"] for t in self.tools) if self.shown else ""
        return tool_formats.in_words(turns, described, by_user=self.by_user)

    def prompt(self, llm: Renders, messages: Sequence[Message | Mapping[str, Any]]) -> str | list[int]:
        """The prompt for the assistant's next turn. Raises what ``render`` raises."""
        shown, tools = self.messages(messages), self.template_tools
        return llm.render(shown, tools=tools) if tools else llm.render(shown)

    # --- the answer

    def params(self, params: SamplingParams | None = None, prompt: str | Sequence[int] | None = None) -> SamplingParams:
        """The parameters with a grammar for the calls. A ``schema`` holds for an answer that calls nothing.

        Raises UsageError for a regex or grammar beside tools that may be called.
        """
        params = params or SamplingParams()
        if not self.callable or self.vocabulary is None:
            return params
        if params.regex is not None or params.grammar is not None:
            raise UsageError("a regex or grammar cannot go with tools that may be called", "Say tool_choice 'none'.")
        if params.ignore_eos:
            raise UsageError("ignore_eos cannot go with tools: the calls say the end", "Leave one of them out.")
        opened = thinking.opened_by(prompt, self.tokenizer)
        marks = {str(mark): id for id, mark in self._marks().items()}
        text = lark(
            self.format,
            {
                tool.name: {"type": "object"} if tool.name in self.loosened else closed(tool.parameters)
                for tool in self.callable
            },
            required=self.mode == "required",
            parallel=self.parallel,
            control=marks,
            answer=params.schema,
            thinks=opened or self.thinks,
            opened=opened is not None,
        )
        return replace(params, schema=None, grammar=text)

    def stream(self, prompt: str | Sequence[int] | None = None) -> ReplyStream:
        """The reader of one answer. ``prompt``: tells whether it begins inside a thought."""
        tools = {tool.name: {"type": "object", **tool.parameters} for tool in self.callable}
        opened = thinking.opened_by(prompt, self.tokenizer)
        return ReplyStream(self.format if self.callable else None, tools, marks=self._marks(), opened=opened)

    def read(self, text: str) -> Reply:
        """A whole answer at once, as text."""
        stream = self.stream()
        stream.push(Token(text, finish_reason="stop"))
        return stream.reply

    def _marks(self) -> dict[int, Mark]:
        own = {self.format.opens, self.format.closes, self.format.middle} | tool_formats.MARKS
        return control_marks(self.tokenizer, [*own, *thinking.MARKS])


def plan_tools(
    llm: Any,
    tools: Sequence[Any] = (),
    *,
    choice: Any = "auto",
    parallel: bool = True,
    template: str | None = None,
) -> ToolPlan:
    """Plan a request with tools for a model.

    llm: any LLM; one that runs here is also held to a grammar.  tools: in OpenAI's form, or only their functions.
    choice, parallel: OpenAI's tool_choice and parallel_tool_calls.  template: the source of the template that will be rendered, where it is not the model's own.

    Raises UsageError with the name of what is wrong: a tool of another kind than a function, two of one name, a name or a schema that is none, a choice of a
    tool that is not there, and what a grammar cannot honour where it must.
    """
    known = tools_of(tools)
    mode, wanted = _chosen(choice, known)
    tokenizer, vocabulary = getattr(llm, "tokenizer", None), getattr(llm, "vocabulary", None)
    source = template
    if source is None and (own := getattr(llm, "chat_template", None)) is not None:
        source = own.named.get("tool_use", own.source)
    loosened = {}
    for tool in wanted:
        if vocabulary is None:
            break
        try:
            compile(vocabulary, schema=closed(tool.parameters))
        except (UsageError, RecursionError) as fault:
            error = fault if isinstance(fault, UsageError) else UsageError("its schema is nested too deeply", _FLATTER)
            if mode == "required" or tool.strict:
                raise UsageError(f"the tool {tool.name!r}: {error.what}", error.remedy) from fault
            loosened[tool.name] = error.what
    format = tool_formats.format_of(source)
    return ToolPlan(
        known,
        format,
        mode,
        wanted,
        loosened,
        parallel,
        tokenizer,
        vocabulary,
        next((mark for mark in thinking.PAIRS if source is not None and mark in source), None),
        bool(known) and format is GENERIC and tokenizer is not None and _refuses_system(source or "", tokenizer),
    )


def _refuses_system(template: str, tokenizer: Tokenizer) -> bool:
    """Whether a chat template raises an exception at a system message, as some do."""
    if "raise_exception" not in template or "system" not in template:
        return False
    try:
        ChatTemplate(template, tokenizer).render([Message("system", "a"), Message("user", "b")], reply=True)
    except TemplateError:
        return True
    return False


def tools_of(tools: Sequence[Any]) -> tuple[Tool, ...]:
    """Tools as OpenAI's API gives them, checked. Raises UsageError."""
    found: dict[str, Tool] = {}
    for place, given in enumerate(tools):
        tool = _tool(given, f"tools[{place}]")
        if tool.name in found:
            raise UsageError(f"two tools are called {tool.name!r}", "Give each a name of its own.")
        found[tool.name] = tool
    if len(found) > MOST_TOOLS:
        raise UsageError(f"{len(found)} tools are too many; {MOST_TOOLS} is the most", "Give those that matter now.")
    return tuple(found.values())


def _tool(given: Any, where: str) -> Tool:
    if isinstance(given, Tool):
        return given
    if not isinstance(given, Mapping):
        raise UsageError(f"{where} is no object", 'A tool is {"type": "function", "function": {...}}.')
    kind = given.get("type", "function")
    if kind != "function":
        raise UsageError(f"{where} is a tool of type {kind!r}, which cannot be called here", "Give functions only.")
    function = given.get("function", given)
    if not isinstance(function, Mapping):
        raise UsageError(f"{where}.function is no object", 'Give {"name", "description", "parameters"}.')
    name, schema = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{where} has the name {name!r}", "A tool's name is up to 128 letters, digits and the signs _ - . : /"
        )
    schema = {} if schema is None else schema
    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise UsageError(f"the parameters of the tool {name!r} are no JSON schema of an object", "Give one, or none.")
    description, strict = function.get("description") or "", function.get("strict") or given.get("strict")
    if not isinstance(description, str):
        raise UsageError(f"the description of the tool {name!r} is no text", "Give a string.")
    return Tool(name, description, schema, strict is True)


def _chosen(choice: Any, tools: Sequence[Tool]) -> tuple[str, tuple[Tool, ...]]:
    """(mode, the tools that may be called)."""
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        mode = allowed.get("mode", "auto")
        named = tuple(_named(tool, tools) for tool in allowed.get("tools", ()))
        if mode not in ("auto", "required") or not named:
            raise UsageError(
                f"tool_choice allows nothing: mode {mode!r}, {len(named)} tools", "See OpenAI's allowed_tools."
            )
        return mode, named
    if choice in (None, "auto", "none"):
        mode = "auto" if tools and choice != "none" else "none"
        return mode, tuple(tools) if mode == "auto" else ()
    if choice in ("required", "any"):
        if not tools:
            raise UsageError("tool_choice asks for a call, and there are no tools", "Give tools, or leave it out.")
        return "required", tuple(tools)
    return "required", (_named(choice, tools),)


def _named(choice: Any, tools: Sequence[Tool]) -> Tool:
    function = choice.get("function", choice) if isinstance(choice, Mapping) else choice
    name = function.get("name") if isinstance(function, Mapping) else function
    for tool in tools:
        if tool.name == name:
            return tool
    raise UsageError(
        f"tool_choice names {name!r}, which is none of the tools", "Name one of the tools that were given."
    )
