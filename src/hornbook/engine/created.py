"""A created model that runs in this process: its base's weights, asked as its Modelfile says.

messages -> SYSTEM, MESSAGEs before them -> TEMPLATE, or the base's -> ids -> the base, with ADAPTER -> tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hornbook.engine.parameters import most_tokens, number, sampling_fields
from hornbook.engine.prompts import PLAIN_STOP, plain_chat, turns_of, with_own_turns, without_leading_space
from hornbook.errors import ContextTooLong
from hornbook.text.go_chat import template_of
from hornbook.types import Message, Prompt, SamplingParams, Token

if TYPE_CHECKING:
    from hornbook.checkpoint.meaning import Meaning
    from hornbook.llm import LocalLLM


class CreatedLLM:
    """A created model; what it has in common with LocalLLM means the same. Closing it closes the base."""

    def __init__(self, base: LocalLLM, meaning: Meaning) -> None:
        """Raises TemplateError, and what reading an adapter raises."""
        self._base = base
        self._meaning = meaning
        self.name = meaning.name
        self.system = meaning.system
        self.tokenizer = base.tokenizer
        self.context_length = min(base.context_length, int(number(meaning.parameters, "num_ctx", base.context_length)))
        self.chat_template = (
            base.chat_template if meaning.template is None else template_of(meaning.template, base.tokenizer)
        )
        self._adapter = None
        if meaning.adapter is not None:
            self._adapter, folder = meaning.adapter
            base.add_adapter(self._adapter, folder)

    @property
    def drawn(self) -> dict[str, Any]:
        """The fields of SamplingParams that its PARAMETERs set."""
        fields = sampling_fields(self._meaning.parameters)
        if "num_predict" in self._meaning.parameters:
            fields["max_tokens"] = most_tokens(self._meaning.parameters) or self.context_length
        return fields

    def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Iterator[Token]:
        """Continue one prompt as it is. Raises ContextTooLong where num_ctx leaves an answer no token."""
        ids, params = self._base.encode(prompt), sampling or SamplingParams()
        room = self.context_length - len(ids)
        if room < 1:
            raise ContextTooLong(
                f"the prompt has {len(ids):,} tokens; the context of {self.name} holds {self.context_length:,}, "
                "one of which the answer needs",
                "Shorten the prompt, or create the model with a larger num_ctx.",
            )
        params = replace(params, max_tokens=min(params.max_tokens, room))
        return self._base.stream(ids, params, adapter=self._adapter)

    def stream_chat(
        self, messages: Sequence[Message | Mapping[str, Any]], *, sampling: SamplingParams | None = None
    ) -> Iterator[Token]:
        """The assistant's next turn."""
        prompt, params = self.render(messages), sampling or SamplingParams()
        if not isinstance(prompt, str):
            return self.stream(prompt, params)
        return without_leading_space(self.stream(prompt, replace(params, stop=(*params.stop, PLAIN_STOP))))

    def render(self, messages: Sequence[Message | Mapping[str, Any]]) -> str | list[int]:
        """The prompt for the assistant's next turn, with what stands before every conversation."""
        turns = with_own_turns(self.system, self._meaning.messages, turns_of(messages))
        if self.chat_template is None:
            return plain_chat(turns)
        return list(self.chat_template.render(turns, reply=True).ids)

    def count_tokens(self, text: str) -> int:
        return self._base.count_tokens(text)

    def close(self) -> None:
        self._base.close()
