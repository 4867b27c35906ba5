"""A row of a data set becomes an example: one function for each shape that data sets have.

    text               text
    alpaca             instruction, output, input?, system?, history?      or instruction, instances
    sharegpt           conversations, tools?, system?
    messages           messages, tools?, system?
    prompt-completion  prompt, completion, system?                         texts, or lists of turns
    preference         prompt?, chosen, rejected, tools?, system?          or an answer and whether it is good: label
    pair               source, target
    labelled           text, label, second?

A row whose shape is not told is taken for the first shape below whose fields it has (`detect`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from hornbook.data.example import Conversation, Example, Labelled, Pair, Place, Preference, Text
from hornbook.data.turns import Unfit, conversation, tools
from hornbook.types import Message

Row: TypeAlias = Mapping[str, Any]
Shape: TypeAlias = Literal[
    "text", "alpaca", "sharegpt", "messages", "prompt-completion", "preference", "pair", "labelled"
]
_COMPLETE = "Remove the line or complete it."


def _text(row: Row, name: str, *, whole: bool = True) -> str:
    """A field that is a text; ``whole``: and not an empty one."""
    value = row.get(name)
    if value is None and not whole:
        return ""
    if not isinstance(value, str):
        if value is None:
            raise Unfit(f"it has no {name}: {_fields(row)}", f"Give it a {name}, or map a column to it with fields.")
        raise Unfit(f"its {name} is a {type(value).__name__}, not a text", "Write it as text.")
    if whole and not value.strip():
        raise Unfit(f"it has an empty {name}", _COMPLETE)
    return value


def _fields(row: Collection[str]) -> str:
    return f"its fields are {', '.join(sorted(map(str, row)))}"


# ---------------------------------------------------------------------------------------------------------- texts


def text(row: Row, place: Place) -> Iterator[Text]:
    yield Text(_text(row, "text"), place)


def pair(row: Row, place: Place) -> Iterator[Pair]:
    yield Pair(_text(row, "source").strip(), _text(row, "target").strip(), place)


def labelled(row: Row, place: Place) -> Iterator[Labelled]:
    label = row.get("label")
    if isinstance(label, bool):
        label = str(label).lower()
    if not isinstance(label, str | int) or not str(label).strip():
        raise Unfit(f"its label is {label!r}, not a name or a whole number", "Give each text the name of its class.")
    yield Labelled(_text(row, "text"), str(label).strip(), _text(row, "second", whole=False) or None, place)


# -------------------------------------------------------------------------------------------------- conversations


def _learnable(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    if not any(turn.role == "assistant" for turn in messages):
        raise Unfit("it has no turn of the assistant's: nothing could be learnt", _COMPLETE)
    return messages


def chat(row: Row, place: Place) -> Iterator[Conversation]:
    """messages and sharegpt."""
    turns = row.get("messages", row.get("conversations"))
    messages = conversation(turns, system=_text(row, "system", whole=False))
    yield Conversation(_learnable(messages), tools(row.get("tools")), place)


def alpaca(row: Row, place: Place) -> Iterator[Conversation]:
    instances = row.get("instances")
    answers = [row] if instances is None else instances
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, Mapping) for answer in answers):
        raise Unfit("its instances are not a list of objects", 'Write [{"input": "...", "output": "..."}].')
    for answer in answers:
        given = _text(answer, "input", whole=False)
        asked = _text(row, "instruction") + (f"\n{given}" if given.strip() else "")
        turns = [*_history(row.get("history")), _turn("user", asked), _turn("assistant", _text(answer, "output"))]
        yield Conversation(conversation(turns, system=_text(row, "system", whole=False)), place=place)


def _history(value: Any) -> Iterator[dict[str, str]]:
    """Earlier rounds: [[asked, answered], ...]."""
    rounds = value or []
    pairs = isinstance(rounds, list) and all(isinstance(round, list | tuple) and len(round) == 2 for round in rounds)
    if not pairs or not all(isinstance(said, str) for round in rounds for said in round):
        raise Unfit("its history is not a list of [asked, answered]", "Write [[asked, answered], ...].")
    for asked, answered in rounds:
        yield _turn("user", asked)
        yield _turn("assistant", answered)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def prompt_completion(row: Row, place: Place) -> Iterator[Conversation]:
    name = "completion" if "completion" in row else "response"
    turns = [*_prompt(row), *_turns(row, name, "assistant")]
    messages = conversation(turns, system=_text(row, "system", whole=False))
    yield Conversation(_learnable(messages), tools(row.get("tools")), place)


def _turns(row: Row, name: str, role: str) -> list[Row]:
    """A field that is a text of ``role``, a turn, or a list of turns."""
    value = row.get(name)
    if isinstance(value, Mapping):
        return [value]
    return list(value) if isinstance(value, list | tuple) else [_turn(role, _text(row, name))]


def _prompt(row: Row) -> list[Row]:
    for name in ("prompt", "messages", "conversations"):
        if row.get(name) is not None:
            return _turns(row, name, "user")
    return []


# ---------------------------------------------------------------------------------------------------- preferences


def preference(row: Row, place: Place) -> Iterator[Preference]:
    system, known = _text(row, "system", whole=False), tools(row.get("tools"))
    if row.get("chosen") is None and row.get("label") is not None:
        name = next((name for name in ("completion", "response") if row.get(name) is not None), None)
        judged = [*_prompt(row), *(_turns(row, name, "assistant") if name else [])]
        prompt, answer = _answered(judged, system)
        yield Preference(prompt, answer, None, _judged(row["label"]), place, known)
        return
    if row.get("rejected") is None:
        raise Unfit(f"it has no rejected answer: {_fields(row)}", "Give it one, or a label of true or false.")
    asked, turns = _prompt(row), list[Row]()
    sides = []
    for name in ("chosen", "rejected"):
        value = row.get(name)
        if not asked and isinstance(value, str):
            turns = [*_transcript(value)]
        else:
            turns = _turns(row, name, "assistant")
            if len(turns) == 1:
                turns = [*asked, *turns]
        sides.append(_answered(turns, system))
    (prompt, chosen), (other, rejected) = sides
    if prompt != other:
        raise Unfit("its chosen and rejected answers are to different prompts", "Give both the same turns before them.")
    if chosen == rejected:
        raise Unfit("its chosen and rejected answers are the same", _COMPLETE)
    yield Preference(prompt, chosen, rejected, None, place, known)


def _answered(turns: Sequence[Row], system: str) -> tuple[tuple[Message, ...], Message]:
    """-> the turns before the last, which is the assistant's, and that."""
    messages = conversation(turns, system=system)
    if messages[-1].role != "assistant":
        raise Unfit(f"its answer is the {messages[-1].role}'s, not the assistant's", _COMPLETE)
    return messages[:-1], messages[-1]


def _judged(label: Any) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    judged = known.get(str(label).strip().lower())
    if judged is None:
        raise Unfit(f"its label is {label!r}, not true or false", "Say with true or false whether the answer is good.")
    return judged


_SPEAKER = re.compile(r"\n\n(Human|Assistant):[ ]?")


def _transcript(said: str) -> Iterator[Row]:
    """A conversation written as one text: "\\n\\nHuman: ...\\n\\nAssistant: ..." (hh-rlhf)."""
    parts = _SPEAKER.split(f"\n\n{said.lstrip()}")
    if parts[0].strip() or len(parts) < 3:
        raise Unfit(
            "it has no prompt, and its answers are no transcripts",
            "Give it a prompt, or turns of Human: and Assistant:.",
        )
    for speaker, words in zip(parts[1::2], parts[2::2], strict=True):
        yield _turn({"Human": "user", "Assistant": "assistant"}[speaker], words.strip())


# ------------------------------------------------------------------------------------------------------ detection

SHAPES: dict[Shape, Callable[[Row, Place], Iterable[Example]]] = {
    "text": text,
    "alpaca": alpaca,
    "sharegpt": chat,
    "messages": chat,
    "prompt-completion": prompt_completion,
    "preference": preference,
    "pair": pair,
    "labelled": labelled,
}
# What a row of a shape has to have; of several sets one is enough.
_NEEDS: tuple[tuple[Shape, str], ...] = (
    ("preference", "chosen rejected"),
    ("preference", "messages label"),
    ("preference", "conversations label"),
    ("preference", "prompt completion label"),
    ("preference", "prompt response label"),
    ("messages", "messages"),
    ("sharegpt", "conversations"),
    ("alpaca", "instruction output"),
    ("alpaca", "instruction instances"),
    ("prompt-completion", "prompt completion"),
    ("prompt-completion", "prompt response"),
    ("pair", "source target"),
    ("labelled", "text label"),
    ("text", "text"),
)
NEEDS = tuple((shape, frozenset(names.split())) for shape, names in _NEEDS)
MAY: frozenset[str] = frozenset({"input", "system", "history", "tools", "second"})
FIELDS: frozenset[str] = MAY.union(*(names for _, names in NEEDS))
# The columns of a table without a header, in their order.
COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "pair": (("source", "target"),),
    "labelled": (("text", "label"), ("text", "second", "label")),
    "text": (("text",),),
    "prompt-completion": (("prompt", "completion"),),
}


def detect(fields: Collection[str]) -> Shape:
    """The shape of a row that has these fields. Raises Unfit where it is none."""
    have = set(fields)
    for shape, needed in NEEDS:
        if needed <= have:
            return shape
    raise Unfit(
        f"{_fields(fields)}, which no shape has",
        "Map columns to fields of a shape, for example fields: {question: prompt, answer: completion}.",
    )
