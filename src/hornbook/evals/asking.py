"""From what a task asks to what a model is asked: text as it is, chats by the model's own template, several at a time.

Likelihood   model.score        Rolling   model.score_text        Writing   model.generate; model.chat where it renders no ids
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

from hornbook.engine.each import as_they_come, together
from hornbook.engine.thinking import PAIRS
from hornbook.errors import ContextTooLong, UsageError
from hornbook.evals.task import Answer, Item, Likelihood, Question, Request, Rolling, Setting, Task, Writing
from hornbook.evals.waves import order, waves
from hornbook.types import Message, Prompt, SamplingParams

AHEAD = 16  # batches of texts to be written that are in line: where one ends, the next begins
AT_ONCE = 16  # chats of a model that renders no ids
_VERBS: dict[type, str] = {Likelihood: "score", Rolling: "score_text", Writing: "generate"}
AROUND_CHAT, AROUND_TURN = (
    512,
    32,
)  # tokens that hardly any template goes beyond: a system text of its own, and its marks


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that has no answer yet."""

    key: str
    task: Task
    item: Item
    request: Request


def ask(model: Any, pending: Sequence[Pending], batch: int) -> Iterator[tuple[Pending, Answer]]:
    """Ask all, a wave at a time: task by task, but for a wave that takes the rest of one and the first of the next. An answer
    comes as soon as it is whole, of a model that tells each by itself (``generate_each``); else those of a wave come together.
    Raises what the model raises."""
    from hornbook.llm import LocalLLM

    for several in _alike(pending):
        ordered = list(_ordered(several))
        answers = max(one.request.sampling.n if isinstance(one.request, Writing) else 1 for one in several)
        flowing = isinstance(model, LocalLLM) and isinstance(several[0].request, Writing)
        size = max(1, batch * (AHEAD if flowing else 1) // answers)
        for wave in waves([_text(one.request) for one in ordered], size):
            now = [ordered[place] for place in wave]
            with closing(_answers(model, [one.request for one in now])) as told:
                yield from ((now[place], answer) for place, answer in told)


def check_able(model: Any, task: Task, requests: Sequence[Request]) -> None:
    """Whether the model has a verb for what a task asks. Raises UsageError."""
    for request in requests:
        if not hasattr(model, _VERBS[type(request)]):
            what = "writes no text" if isinstance(request, Writing) else "does not tell how likely a text is"
            raise UsageError(f"{model.name} {what}, which {task.name} asks for", "Name another model, or other tasks.")


def check_tells(model: Any, pending: Sequence[Pending]) -> None:
    """Whether a server tells likelihoods, where they are asked for; it is asked for one. Raises RemoteError."""
    from hornbook.engine.remote import RemoteLLM

    if isinstance(model, RemoteLLM) and any(not isinstance(one.request, Writing) for one in pending):
        model.score([("The sky is", " blue")])


# ------------------------------------------------------------------------------------------------- how long it may be


def room(model: Any, request: Request) -> int:
    """How many tokens of the model's context are left: behind a prompt for the answer, behind a context and its longest
    continuation. Below zero: it is longer than the context.

    Counted only where it may be little, for a token is a byte at least; else it is that much or more. A whole text (Rolling)
    always fits: it is read in windows.
    """
    if isinstance(request, Rolling):
        return 0
    question, context = _question(request), _text(request)
    continuations = request.continuations if isinstance(request, Likelihood) else ()
    longest = max(continuations, key=len, default="")
    around = 0 if isinstance(question, str) else AROUND_CHAT + AROUND_TURN * len(question)
    most = len((context + longest).encode("utf-8", "replace")) + around
    if model.context_length - most >= _wanted(request):
        return int(model.context_length - most)
    if isinstance(question, str):
        count = max(model.count_tokens(context + text) for text in dict.fromkeys((longest, *continuations[:1])))
        if isinstance(request, Writing):
            count += bool(getattr(getattr(model, "tokenizer", None), "add_bos", False))
    else:
        count = _length(model, model.render(question)) + (model.count_tokens(longest) if longest else 0)
    return int(model.context_length - count)


def _wanted(request: Request) -> int:
    """The room that an answer may take."""
    return request.sampling.max_tokens if isinstance(request, Writing) else 0


class Fitted(NamedTuple):
    """What is asked about an item, with how many solved examples. ``cramped``: an answer has less room than it may take."""

    requests: tuple[Request, ...]
    shots: int
    cramped: bool


def fit(model: Any, task: Task, item: Item, setting: Setting, shots: int, fewer: bool) -> Fitted:
    """``fewer``: solved examples may be dropped until the item, and an answer of full length, fits.

    Raises ContextTooLong with the numbers where it does not fit, UsageError where the model cannot be asked that.
    """
    found: list[Fitted] = []  # what fits, if with little room for an answer
    what = ""
    for count in range(shots, -1, -1) if fewer else (shots,):
        requests = _asked(task, item, setting if count == shots else replace(setting, shots=count))
        if count == shots:
            check_able(model, task, requests)
        rooms = [room(model, request) for request in requests]
        short = [at for at, request in enumerate(requests) if rooms[at] < isinstance(request, Writing)]
        cramped = any(left < _wanted(request) for left, request in zip(rooms, requests, strict=True))
        if not cramped:
            return Fitted(requests, count, False)
        if not short:
            found.append(Fitted(requests, count, True))
        what = what or next((_said(model, requests[at], rooms[at]) for at in short), "")
    if found:
        return found[-1]
    if fewer or not shots:
        remedy = "Take a model with a longer context, or leave the task out."
    else:
        remedy = f"--fit-shots drops some of its {shots} solved examples, and says how many; or say --shots yourself."
    raise ContextTooLong(f"{task.name}, item {item.id}: {what}", remedy)


def _said(model: Any, request: Request, left: int) -> str:
    """What is too long, in words and numbers."""
    writing = isinstance(request, Writing)
    said = "the prompt has" if writing else "context and continuation have"
    one = ", one of which the answer needs" if writing else ""
    length = model.context_length
    return f"{said} {length - left:,} tokens; the context of {model.name} holds {length:,}{one}"


def _asked(task: Task, item: Item, setting: Setting) -> tuple[Request, ...]:
    """What a task asks, with as much room for written answers as the setting says."""
    requests = task.requests(item, setting)
    if setting.max_tokens is None:
        return requests
    return tuple(
        replace(one, sampling=replace(one.sampling, max_tokens=setting.max_tokens)) if isinstance(one, Writing) else one
        for one in requests
    )


def _length(model: Any, rendered: str | Sequence[int]) -> int:
    return model.count_tokens(rendered) if isinstance(rendered, str) else len(rendered)


# --------------------------------------------------------------------------------------------------------- how it is asked


def _alike(pending: Sequence[Pending]) -> Iterator[list[Pending]]:
    """What may be asked together: requests of a kind, and to be written by one way of sampling."""
    groups: dict[Any, list[Pending]] = {}
    for one in pending:
        request = one.request
        chat = not isinstance(request, Rolling) and not isinstance(_question(request), str)
        kind = (type(request).__name__, chat, request.sampling if isinstance(request, Writing) else None)
        groups.setdefault(kind, []).append(one)
    yield from groups.values()


def _ordered(several: Sequence[Pending]) -> Iterator[Pending]:
    """Task by task, and each task's as waves want them."""
    for _, group in groupby(several, key=lambda one: one.task.name):
        own = list(group)
        yield from (own[place] for place in order([_text(one.request) for one in own]))


def _answers(model: Any, requests: Sequence[Any]) -> Generator[tuple[int, Answer], None, None]:
    """To requests that are alike: (place, answer) as they come."""
    if isinstance(requests[0], Likelihood):
        yield from _likelihoods(model, requests)
        return
    if isinstance(requests[0], Rolling):
        for place, score in _each(model, "score_text", [request.text for request in requests]):
            yield place, (score,)
        return
    sampling = replace(requests[0].sampling, logprobs=False)
    prompts = [_prompt(model, request.prompt) for request in requests]
    if not isinstance(requests[0].prompt, str) and isinstance(prompts[0], str):
        yield from _chats(model, [request.prompt for request in requests], sampling)
    elif hasattr(model, "generate_each"):
        for place, completions in model.generate_each(prompts, sampling):
            yield place, tuple(completion.text for completion in completions)
    else:
        texts = iter([completion.text for completion in model.generate(prompts, sampling)])
        yield from ((place, tuple(next(texts) for _ in range(sampling.n))) for place in range(len(requests)))


def _likelihoods(model: Any, requests: Sequence[Likelihood]) -> Iterator[tuple[int, Answer]]:
    contexts = [_prompt(model, request.context) for request in requests]
    pairs = [(context, text) for context, one in zip(contexts, requests, strict=True) for text in one.continuations]
    counts = [len(request.continuations) for request in requests]
    yield from ((place, tuple(scores)) for place, scores in together(counts, _each(model, "score", pairs)))


def _each(model: Any, verb: str, asked: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """(place, what a verb says) as soon as it is known, where the model can tell that; else all together."""
    several = getattr(model, f"{verb}_each", None)
    return iter(several(asked)) if several is not None else enumerate(getattr(model, verb)(asked))


def _prompt(model: Any, question: Question) -> Prompt:
    """What of a question goes into a model: text, or the ids of a chat. A model without a template takes plain text."""
    rendered: Prompt = question if isinstance(question, str) else model.render(question)
    return rendered


def _chats(
    model: Any, several: Sequence[tuple[Message, ...]], sampling: SamplingParams
) -> Iterator[tuple[int, Answer]]:
    """Of a model that renders turns as plain text, or on the other side of a wire: it knows itself where an answer ends."""

    def answer(turns: tuple[Message, ...]) -> Answer:
        draws = [
            replace(sampling, n=1, seed=None if sampling.seed is None else sampling.seed + draw)
            for draw in range(sampling.n)
        ]
        return tuple(model.chat(turns, sampling=one).content for one in draws)

    return as_they_come(answer, several, AT_ONCE)


def _question(request: Likelihood | Writing) -> Question:
    return request.context if isinstance(request, Likelihood) else request.prompt


def _text(request: Request) -> str:
    """The prompt as text, by which requests are ordered."""
    if isinstance(request, Rolling):
        return request.text
    question = _question(request)
    return question if isinstance(question, str) else "\n".join(turn.content for turn in question)


def without_thought(text: str) -> str:
    """What a model that thinks before it answers has said behind its thought. A template may have begun the thought, so its
    opening mark need not be there."""
    begun = next((opening for opening in PAIRS if text.lstrip().startswith(opening)), None)
    for opening, end in PAIRS.items():
        thought, closed, answer = text.partition(end)
        if closed and (begun == opening or (begun is None and opening not in thought)):
            return answer.lstrip()
    return text


def shown(question: Question) -> str | tuple[Mapping[str, str], ...]:
    """A question as plain data."""
    if isinstance(question, str):
        return question
    return tuple({"role": turn.role, "content": turn.content} for turn in question)
