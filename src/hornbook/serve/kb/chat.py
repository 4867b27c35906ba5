"""A collection as a model: ``kb:NAME`` answers a conversation's last question from its documents.

    async for event in answer_chat(house, "papers", messages, params):     Events of asking.py
        "token"  {"text"}                       to be streamed
        "answer" Answer + {"annotations", "finish_reason", "usage"}         the last

A citation becomes an annotation in OpenAI's form, with our own fields beside: where in the answer the cited sentence
stands (start_index, end_index), and where in which document its ground is. A follow-up that the documents cannot answer by
itself ("and when was that?") is asked again behind the question before it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio.to_thread

from hornbook.errors import UsageError
from hornbook.serve.kb.asking import Event, asked
from hornbook.serve.kb.collections import Collections
from hornbook.types import Message, SamplingParams

if TYPE_CHECKING:
    from hornbook.serve.app import House

PREFIX = "kb:"


async def answer_chat(
    house: House,
    name: str,
    messages: Sequence[Message | Mapping[str, Any]],
    params: SamplingParams,
    *,
    base: str = "",
) -> AsyncGenerator[Event, None]:
    """Answer from the collection ``name`` ("kb:papers" or "papers"). Closing the iterator stops the work.

    params: how the model writes; max_tokens is at most rag.prompt.REPLY_TOKENS.  base: what stands before the path of an
    annotation's URL. A system message has no say: what is told to the model is the pipeline's.
    Raises NotThere, UsageError for a conversation that does not end in a question and for what only a model can do.
    """
    collections: Collections = house.collections
    collection = await anyio.to_thread.run_sync(collections.get, name.removeprefix(PREFIX))
    _check(params)
    async with aclosing(asked(house, collection, questions_of(messages), sampling=params)) as events:
        async for event in events:
            if event.name == "answer":
                yield Event("answer", event.data | _closing(event.data, collection.name, base))
            else:
                yield event


def questions_of(messages: Sequence[Message | Mapping[str, Any]]) -> list[str]:
    """The last question, and the same behind the one before it. Raises UsageError where the last turn is none."""
    turns = [Message.of(message) for message in messages]
    asked = [turn.content.strip() for turn in turns if turn.role == "user" and turn.content.strip()]
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise UsageError("a collection answers a question, and the last message is none", "End with a user's message.")
    return [asked[-1]] if len(asked) < 2 else [asked[-1], f"{asked[-2]} {asked[-1]}"]


def _check(params: SamplingParams) -> None:
    for given, what in (
        (params.n != 1, "n"),
        (params.top_logprobs, "top_logprobs"),
        (params.schema is not None, "a JSON schema"),
        (params.regex is not None, "a regular expression"),
        (params.grammar is not None, "a grammar"),
        (bool(params.logit_bias), "logit_bias"),
    ):
        if given:
            raise UsageError(
                f"a collection answers in sentences that it can cite: {what} is for models", "Leave it out."
            )


def _closing(answer: Mapping[str, Any], name: str, base: str) -> dict[str, Any]:
    usage = answer["usage"] or {"prompt_tokens": 0, "completion_tokens": 0}
    return {"annotations": annotations_of(answer, name, base), "finish_reason": "stop", "usage": usage}


def annotations_of(answer: Mapping[str, Any], name: str, base: str = "") -> list[dict[str, Any]]:
    """One for each citation of each sentence, in order."""
    cited = {citation["n"]: citation for citation in answer["citations"]}
    text, at, found = answer["answer"], 0, []
    for sentence in answer["sentences"]:
        start = text.find(sentence["text"], at)
        for n in sentence["citations"]:
            mark = f"[{n}]"
            at = text.index(mark, start + len(sentence["text"])) + len(mark)
            citation = cited[n]
            document = citation["document"]
            where = f"/kb/{quote(name)}/documents/{document['id']}/text?start={citation['start']}&end={citation['end']}"
            found.append(
                {
                    "type": "url_citation",
                    "url_citation": {
                        "start_index": start,
                        "end_index": at,
                        "url": base.rstrip("/") + where,
                        "title": document["name"],
                        **citation,
                    },
                }
            )
    return found
