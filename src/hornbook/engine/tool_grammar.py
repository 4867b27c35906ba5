"""The grammar of a reply that may, or must, call tools: in Lark's notation, with each tool's own JSON schema inside.

    required   (thought)? call (more calls)?
    auto       (thought)? free text | (thought)? free text, the opening mark, call (more calls)?

In "auto" the text is free until the opening mark stands there, which ends a lazy lexeme: from then on the rest is held to the
tools' names and schemas. A format without marks is held to from the name of a tool on. What follows calls is more calls or
nothing: what models write there is what they imagine the tool to answer.

Objects whose schema lists properties and does not say whether there may be others are closed: a tool's program takes the arguments
that it declares. It is narrower than the schema, so that what is written satisfies it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hornbook.engine.grammar import JSON_OPTIONS
from hornbook.engine.schema import parts, prepared
from hornbook.engine.thinking import PAIRS
from hornbook.engine.tool_formats import GENERIC, Format

MOST_CALLS = 16  # of one reply
_COMBINING = ("allOf", "anyOf", "oneOf", "$ref")
_SAYS_WHICH = (*_COMBINING, "patternProperties", "additionalProperties")  # properties an object may have


def lark(
    format: Format,
    tools: Mapping[str, Any],
    *,
    required: bool,
    parallel: bool,
    control: Mapping[str, int],
    answer: str | None = None,
    thinks: str | None = None,
    opened: bool = False,
) -> str:
    """The grammar's text.

    tools: the schema of each tool's arguments that may be called, at least one.  control: the ids of the marks that are control tokens.
    answer: the schema of an answer that calls nothing, None where it is free text.  thinks: the mark by which the model opens a
    thought, if it does; ``opened``: the prompt has opened it.
    """
    rules: list[str] = []

    def mark(name: str) -> str:
        return f"<[{control[name]}]>" if name in control else json.dumps(name)

    for place, (name, schema) in enumerate(tools.items()):
        rules.append(f"call_{place}: {_call(format, name, f'arguments_{place}', mark)}")
        rules.append(f"arguments_{place}: {_json(schema)}")
    one = " | ".join(f"call_{place}" for place in range(len(tools)))
    rules.append(f"call: {one}")
    # A model that was not taught to call and is made to begin would never stop calling.
    several = parallel and not format.single and not (required and format is GENERIC)
    rules.append(f"calls: {_calls(format, mark, several)}")
    marked = f"{mark(format.opens)} calls"
    if required:
        said = "calls" if format.bare else marked
    elif answer is not None:
        rules.append(f"answer: {_json(json.loads(answer))}")
        said = f"answer | {marked}"
    else:
        said = _free(format, tools, marked, control, thinks, rules)
    rules.append(f"said: {said}")
    rules.append(f"start: {_thought(thinks, opened, control, rules, may_end=not required)}")
    rules.append(r"TEXT: /(?s:.*)/")
    return "%llguidance {}\n" + "\n".join(reversed(rules)) + "\n"


def _call(format: Format, name: str, arguments: str, mark: Any) -> str:
    if format.middle:
        return f"{json.dumps(name, ensure_ascii=False)} {mark(format.middle)} {arguments}"
    begin = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{format.key}": '
    return f'{json.dumps(begin, ensure_ascii=False)} {arguments} "}}"'


def _calls(format: Format, mark: Any, several: bool) -> str:
    """What stands behind the first opening mark."""
    more = f"{{0,{MOST_CALLS - 1}}}"
    if format.listed:
        return r"/[ ]?\[/ call" + (f' (", " call){more}' if several else "") + ' "]"'
    if format.closes:
        closed = f"/\\n?/ call /\\n?/ {mark(format.closes)}"
        return closed + (f" (/\\n?/ {mark(format.opens)} {closed}){more}" if several else "")
    return "call" + (f" ({mark(format.opens)} call){more}" if several else "")


def _free(
    format: Format,
    tools: Mapping[str, Any],
    marked: str,
    control: Mapping[str, int],
    thinks: str | None,
    rules: list[str],
) -> str:
    """Text that may turn into calls."""
    begins = [rf"\s*{_regex(thinks)}"] if thinks is not None and thinks not in control else []
    if format.bare:
        names = "|".join(map(_regex, tools))
        begins.append(rf'\{{"name": "({names})"')
    other = "".join(rf" & ~/{begin}(?s:.*)/" for begin in begins)
    rules.append(rf"FREE: /(?s:.*)/{other}")
    bare = " | calls" if format.bare else ""
    if format.opens in control:
        return f"FREE | FREE {marked}{bare}"
    rules.append(f"head[lazy]: FREE {json.dumps(format.opens)}")
    return f"FREE | head calls{bare}"


def _thought(thinks: str | None, opened: bool, control: Mapping[str, int], rules: list[str], *, may_end: bool) -> str:
    """What is said, and the thought before it. ``may_end``: the reply may end in the middle of the thought."""
    if thinks is None:
        return "said"
    close = PAIRS[thinks]
    if close in control:
        rules.append(f"thought: TEXT <[{control[close]}]> /\\s{{0,4}}/")
    else:
        rules.append(r"thought: thinking /\s{0,4}/")
        rules.append(f"thinking[lazy]: TEXT {json.dumps(close)}")
    cut = " | TEXT" if may_end else ""
    if opened:
        return f"thought said{cut}"
    if thinks in control:
        opens = f"<[{control[thinks]}]>"
    else:
        opens = "OPENS"
        rules.append(rf"OPENS: /\s{{0,4}}{_regex(thinks)}/")
    return f"said | {opens} (thought said{cut})"


def _json(schema: Any) -> str:
    """A JSON schema as a rule. Raises UsageError with the place of what cannot be honoured."""
    held = json.loads(prepared(json.dumps(schema, ensure_ascii=False)))
    return "%json " + json.dumps({**held, "x-guidance": JSON_OPTIONS}, ensure_ascii=False)


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, its objects closed where they list properties and leave open whether there are more;
    as it is where schemas are combined, because then one may list what another allows."""
    top = {"type": "object", **schema}
    if not top.get("properties") and not any(key in top for key in _SAYS_WHICH):
        return {**top, "additionalProperties": False}
    return top if _combines(top) else _closed(top)


def _combines(schema: Any) -> bool:
    """Does an object list properties beside another schema that it must satisfy as well?"""
    if not isinstance(schema, dict):
        return False
    if "allOf" in schema or ("properties" in schema and any(key in schema for key in _COMBINING)):
        return True
    return any(_combines(part) for _, part in parts(schema))


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    for (key, *rest), part in parts(schema):
        if not rest:
            out[key] = _closed(part)
            continue
        if out[key] is schema[key]:
            out[key] = schema[key].copy()
        out[key][rest[0]] = _closed(part)
    if schema.get("properties") and "patternProperties" not in schema:
        out.setdefault("additionalProperties", False)
    return out


def _regex(text: str) -> str:
    """A text as a pattern between slashes."""
    return re.sub(r"([\\.+*?()|\[\]{}^$/])", r"\\\1", text)
