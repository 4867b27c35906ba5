"""A conversation as a file: Markdown of the branch that is shown, or JSON of everything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from hornbook.serve.conversations.store import Conversation, Turn

FORMAT = "hornbook-conversation-1"


def as_json(conversation: Conversation, turns: Sequence[Turn]) -> str:
    """Every branch. ``leaf`` names the message that the shown one ends with."""
    body = {"format": FORMAT, **conversation.to_json(), "messages": [turn.to_json() for turn in turns]}
    return json.dumps(body, ensure_ascii=False, indent=2) + "\n"


def as_markdown(conversation: Conversation, branch: Sequence[Turn]) -> str:
    """The shown branch, with the sources of cited answers under them."""
    when = datetime.fromtimestamp(conversation.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [f"# {conversation.title or 'Conversation'}", f"*{when}*"]
    system = str(conversation.settings.get("system") or "").strip()
    if system:
        parts.append("\n".join(f"> {line}" for line in system.splitlines()))
    for turn in branch:
        name = "You" if turn.role == "user" else str(turn.facts.get("model") or "Assistant")
        parts += [f"## {name}", turn.content.strip() or f"*{_reason(turn)}*"]
        sources = _sources(turn)
        if sources:
            parts.append(sources)
    return "\n\n".join(parts) + "\n"


def _reason(turn: Turn) -> str:
    error = turn.facts.get("error")
    return str(error["what"]) if error else "no text"


def _sources(turn: Turn) -> str:
    answer = turn.facts.get("answer") or {}
    lines = []
    for citation in answer.get("citations", ()):
        place = f", p. {citation['page']}" if citation.get("page") else ""
        quote = " ".join(str(citation["quote"]).split())
        lines.append(f"- [{citation['n']}] {citation['document']['name']}{place}: “{quote}”")
    return "\n".join(lines)
