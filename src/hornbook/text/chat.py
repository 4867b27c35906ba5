"""Chat templates: a conversation becomes the text and the ids that a model was trained to continue.

    template = ChatTemplate.from_gguf(metadata, tokenizer)
    prompt = template.render(messages, reply=True)          # .ids end where the assistant begins
    example = template.render(messages)                     # .ids with .loss_mask: 1 on what the assistant wrote

One object renders for the trainer, the server and the evaluation. What people wrote is data: a control token in a
message is encoded as the characters it is (see `hornbook.text.fence`). There is exactly one BOS, whether the template
writes it, or the tokenizer, or both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hornbook.errors import TemplateError
from hornbook.text.fence import Encoded, Fence
from hornbook.text.files import read_json, read_text
from hornbook.text.mask import Span, assistant_spans
from hornbook.text.sandbox import Program
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import Message

DEFAULT = "default"  # the name of the template that has none
TOOLS = "tool_use"  # and of the one for tools


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation: ``text`` as the template wrote it, ``ids`` [T] of it."""

    text: str
    ids: list[int]
    _mask: Callable[[], list[int]] = field(repr=False, compare=False)

    @cached_property
    def loss_mask(self) -> list[int]:
        """[T] of 0 and 1: 1 on what the assistant wrote, its end-of-turn token included.

        Raises TemplateError where the template does not let it be told what the assistant wrote.
        """
        return self._mask()


class ChatTemplate:
    """A model's template with its tokenizer.

    named: the model's other templates. The one called tool_use is rendered where tools are given.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, *, named: Mapping[str, str] | None = None) -> None:
        self.source = source
        self.named = dict(named or {})
        self.tokenizer = tokenizer
        self._fence = Fence(tokenizer)
        self._program = Program(source)
        self._variables = {
            name: None if id is None else tokenizer.token(id)
            for name, id in (
                ("bos_token", tokenizer.bos_id),
                ("eos_token", tokenizer.eos_id),
                ("pad_token", tokenizer.pad_id),
                ("unk_token", tokenizer.unk_id),
            )
        }

    @cached_property
    def _tool_program(self) -> Program:
        """Compiled when tools are first given: a fault in it must not keep anyone from the default template."""
        if TOOLS not in self.named:
            return self._program
        try:
            return Program(self.named[TOOLS])
        except TemplateError as error:
            raise TemplateError(
                f"the model's template {TOOLS}: {error.what}", "Leave the tools out, or use another model or template."
            ) from error

    @classmethod
    def from_gguf(
        cls, metadata: Mapping[str, Any], tokenizer: Tokenizer, *, name: str | None = None
    ) -> ChatTemplate | None:
        """The template in a GGUF file's metadata, or the one of its named templates; None where there is none."""
        key = "tokenizer.chat_template"
        found = {
            other.removeprefix(f"{key}.").removeprefix(key) or DEFAULT: source
            for other, source in metadata.items()
            if (other == key or other.startswith(f"{key}.")) and isinstance(source, str) and source
        }
        return cls._of(found, tokenizer, name)

    @classmethod
    def from_folder(cls, path: str | Path, tokenizer: Tokenizer, *, name: str | None = None) -> ChatTemplate | None:
        """The template of a model's folder, or the one of its named templates; None where there is none."""
        return cls._of(templates_in(Path(path)), tokenizer, name)

    @classmethod
    def _of(cls, found: dict[str, str], tokenizer: Tokenizer, name: str | None) -> ChatTemplate | None:
        """A template asked for by name stands alone; the default one knows the others."""
        source = found.pop(name or DEFAULT, None)
        return None if source is None else cls(source, tokenizer, named=None if name else found)

    def render(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        reply: bool = False,
    ) -> Rendered:
        """Render a conversation; with ``reply`` up to where the assistant's answer begins.

        Raises TemplateError where the template refuses the messages or does what a template must not, and, with
        ``tools``, where the template for them is not sound.
        """
        turns = [as_template_sees(Message.of(message)) for message in messages]
        program = self._tool_program if tools else self._program
        mark, *generation = Fence.marks(program.source, turns, list(tools))
        protect = self._fence.protect
        job = _Job(self, program, protect(turns, mark), protect(list(tools), mark), mark, generation)
        marked, spans = job.run(len(turns), reply), None
        if "endgeneration" in program.source:
            marked, spans = _cut_marks(marked, mark, *generation)
        encoded = with_one_bos(self._fence.encode(marked, mark), self.tokenizer)
        text = marked.replace(mark, "")
        return Rendered(text, encoded.ids, lambda: job.mask(encoded, text, spans))


def with_one_bos(encoded: Encoded, tokenizer: Tokenizer) -> Encoded:
    """Exactly one begin token where there is one at all, whether the template writes it, the tokenizer, or both."""
    bos, ids, offsets = tokenizer.bos_id, encoded.ids, encoded.offsets
    while bos is not None and ids[:2] == [bos, bos]:
        ids, offsets = ids[1:], offsets[1:]
    if bos is not None and tokenizer.add_bos and ids[:1] != [bos]:
        ids, offsets = [bos, *ids], [(0, 0), *offsets]
    return Encoded(ids, offsets)


@dataclass(frozen=True)
class _Job:
    """One conversation being rendered, and the prefixes of it that the loss mask needs."""

    template: ChatTemplate
    program: Program
    turns: list[dict[str, Any]]
    tools: list[Any]
    mark: str
    generation: list[str]

    def run(self, count: int, reply: bool) -> str:
        """The first ``count`` turns as the template writes them, all marks in it."""
        return self.program.run(
            {
                **self.template._variables,
                "messages": self.turns[:count],
                "tools": self.tools or None,
                "documents": None,
                "add_generation_prompt": reply,
                "_generation_marks": tuple(self.generation),
            }
        )

    def clean(self, count: int, reply: bool) -> str:
        return self.run(count, reply).replace(self.mark, "")

    def mask(self, encoded: Encoded, text: str, spans: list[Span] | None) -> list[int]:
        """[T] of 0 and 1: a token that has a character in a span counts."""
        if spans is None:
            stop_ids = self.template.tokenizer.stop_ids
            stops = [place for id, place in zip(encoded.ids, encoded.offsets, strict=True) if id in stop_ids]
            turns = [{**turn, "content": turn["content"].replace(self.mark, "")} for turn in self.turns]
            spans = assistant_spans(text, turns, self.clean, stops)
        mask = [0] * len(encoded.ids)
        at = 0
        for start, end in spans:
            while at < len(mask) and encoded.offsets[at][1] <= start:
                at += 1
            while at < len(mask) and encoded.offsets[at][0] < end:
                mask[at] = 1
                at += 1
        return mask


def as_template_sees(message: Message) -> dict[str, Any]:
    """A turn as jinja templates know it, in OpenAI's words."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.tool_calls
        ]
    return turn


def _cut_marks(text: str, mark: str, opening: str, closing: str) -> tuple[str, list[Span]]:
    """Take the generation marks out; the spans count characters without any marks."""
    kept: list[str] = []
    spans: list[Span] = []
    place, start = 0, None
    for part in text.replace(opening, f"\0{opening}\0").replace(closing, f"\0{closing}\0").split("\0"):
        if part == opening:
            start = place
        elif part == closing and start is not None:
            spans.append((start, place))
            start = None
        else:
            kept.append(part)
            place += len(part) - part.count(mark)
    return "".join(kept), spans


def templates_in(path: Path) -> dict[str, str]:
    """All templates of a model's folder by name, the unnamed one as "default". Each name is looked for in this order:

        chat_template.jinja                          the default one
        additional_chat_templates/{name}.jinja       the others
        chat_template.json, tokenizer_config.json    one text, or a list of {name, template}

    Raises ModelFileError where a file cannot be read.
    """
    found: dict[str, str | None] = {DEFAULT: read_text(path / "chat_template.jinja")}
    for file in sorted((path / "additional_chat_templates").glob("*.jinja")):
        found[file.stem] = read_text(file)
    templates = {name: source for name, source in found.items() if source}
    for holder in ("chat_template.json", "tokenizer_config.json"):
        value = read_json(path / holder).get("chat_template")
        entries = [{"name": DEFAULT, "template": value}] if isinstance(value, str) else value
        for entry in entries if isinstance(entries, list) else []:
            named, source = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
            if isinstance(named, str) and isinstance(source, str) and source:
                templates.setdefault(named, source)
    return templates
