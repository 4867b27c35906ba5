"""The tools of a request, and how they may be called; what is wrong with a tool itself, engine/tool_calls.py says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from hornbook.serve.openai.faults import RequestFault
from hornbook.serve.openai.fields import Body, Flag, Object, Text

Name = Annotated[Text, Field(min_length=1, max_length=128)]


class Function(Body):
    name: Name
    description: Text | None = None
    parameters: Object | None = None
    strict: Flag | None = None


class Tool(Body):
    type: Literal["function"]
    function: Function


class Named(Body):
    name: Name


class NamedChoice(Body):
    type: Literal["function"]
    function: Named


class Allowed(Body):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedChoice], Field(min_length=1)]


class AllowedChoice(Body):
    type: Literal["allowed_tools"]
    allowed_tools: Allowed


Choice = Literal["none", "auto", "required"] | NamedChoice | AllowedChoice


@dataclass(frozen=True, slots=True)
class Wanted:
    """Tools in OpenAI's form, its tool_choice, and whether one turn may have several calls."""

    tools: tuple[Object, ...] = ()
    choice: Any = "none"
    parallel: bool = True


def wanted_tools(tools: Sequence[Tool], choice: Choice | None, parallel: bool | None) -> Wanted:
    """Raises RequestFault for a choice that names none of the tools."""
    names = {tool.function.name for tool in tools}
    if not tools and choice not in (None, "none", "auto"):
        raise RequestFault("tool_choice is for tools, and there are none", "Send tools.", param="tool_choice")
    chosen = [choice] if isinstance(choice, NamedChoice) else []
    if isinstance(choice, AllowedChoice):
        chosen = choice.allowed_tools.tools
    for one in chosen:
        if one.function.name not in names:
            what = f"tool_choice names {one.function.name!r}, which is none of the tools: {', '.join(sorted(names))}"
            raise RequestFault(what, "Name one of them.", param="tool_choice")
    told = tuple(tool.model_dump(exclude_none=True) for tool in tools)
    if choice is None or isinstance(choice, str):
        return Wanted(told, choice or "auto", parallel is not False)
    return Wanted(told, choice.model_dump(), parallel is not False)
