"""Floor 0: the nouns that every floor above shares, and the Protocols that keep the floors apart. No torch here.

    Document --chunked--> Chunk --found--> Hit --cited--> Citation --in--> Answer
    Message --rendered--> prompt --Request--> Token, Token, ... --> Completion

Every span is a half-open range of *characters* of ``Document.text``: ``document.text[start:end]`` is the span's text,
for a Piece, a Chunk and a Citation alike. That identity is the base of every checked citation.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

# --------------------------------------------------------------------------------------------------- conversation

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that the model asked for."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, in the form that OpenAI's API made common."""

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @classmethod
    def of(cls, message: Message | Mapping[str, Any]) -> Message:
        """Accept a Message or the dict ``{"role", "content", ...}``; raise ValueError on an unknown role or key."""
        if isinstance(message, Message):
            return message
        unknown = set(message) - {"role", "content", "name", "tool_calls", "tool_call_id"}
        if unknown:
            raise ValueError(f"a message has unknown keys: {', '.join(sorted(unknown))}")
        role = message.get("role")
        if role not in ("system", "user", "assistant", "tool"):
            raise ValueError(f"a message's role must be system, user, assistant or tool, not {role!r}")
        calls = tuple(c if isinstance(c, ToolCall) else ToolCall(**c) for c in message.get("tool_calls") or ())
        return cls(role, message.get("content") or "", message.get("name"), calls, message.get("tool_call_id"))


_WHOLES = ("max_tokens", "top_k", "repetition_window", "n", "top_logprobs", "seed")
_REALS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. The default is greedy, so that an answer can be repeated.

    The order of the filters is: biases, penalties, then temperature, top-k, top-p, min-p.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # CTRL (arXiv 1909.05858): divides the logits of what was already seen
    repetition_window: int = -1  # how many of the last tokens, prompt included, it takes for seen; -1: all; 0: none
    frequency_penalty: float = 0.0  # OpenAI: subtracts this times the count in the output so far
    presence_penalty: float = 0.0  # OpenAI: subtracts this once for anything in the output so far
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    logprobs: bool = True
    n: int = 1  # answers to one prompt, each with random numbers of its own
    top_logprobs: int = 0  # how many of the likeliest tokens to tell beside the chosen one
    # token id -> what is added to its logit; kept as sorted pairs
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    # At most one of these; an answer that was not cut short then satisfies it (engine/grammar.py).
    schema: Any = None  # JSON schema: dict, JSON text, pydantic model; True: any object. Kept as JSON text
    regex: str | None = None  # the whole answer matches it
    grammar: str | None = None  # in Lark's notation

    def __post_init__(self) -> None:
        if self.schema is not None:
            object.__setattr__(self, "schema", schema_text(self.schema))
        for name in _WHOLES:
            value = getattr(self, name)
            if value is not None or name != "seed":
                object.__setattr__(self, name, _whole(name, value))
        for name in _REALS:
            object.__setattr__(self, name, _finite(name, getattr(self, name)))
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        bias = tuple(
            sorted(
                (_whole("an id in logit_bias", id), _finite("logit_bias", value))
                for id, value in dict(self.logit_bias or ()).items()
            )
        )
        object.__setattr__(self, "logit_bias", bias)
        shapes = sum(shape is not None for shape in (self.schema, self.regex, self.grammar))
        checks = [
            (self.max_tokens >= 1, f"max_tokens must be at least 1, not {self.max_tokens}"),
            (self.temperature >= 0, f"temperature must not be negative: {self.temperature}"),
            (0 <= self.top_k < 2**31, f"top_k must lie in [0, 2^31), not {self.top_k}"),
            (0 < self.top_p <= 1, f"top_p must lie in (0, 1], not {self.top_p}"),
            (0 <= self.min_p <= 1, f"min_p must lie in [0, 1], not {self.min_p}"),
            (
                0.01 <= self.repetition_penalty <= 1e6,  # a logit divided or multiplied by it must stay a number
                f"repetition_penalty must lie in [0.01, 1e6], not {self.repetition_penalty}",
            ),
            (
                -1 <= self.repetition_window < 2**31,
                f"repetition_window must lie in [-1, 2^31), not {self.repetition_window}",
            ),
            (all(isinstance(text, str) for text in stop), f"stop must be strings, not {stop!r}"),
            (all(stop), "a stop string must not be empty"),
            (1 <= self.n <= 1024, f"n must lie in [1, 1024], not {self.n}"),
            (0 <= self.top_logprobs <= 20, f"top_logprobs must lie in [0, 20], not {self.top_logprobs}"),
            (
                all(id >= 0 and -100 <= value <= 100 for id, value in bias),
                f"logit_bias adds between -100 and 100 to the logits of token ids, not {dict(bias)}",
            ),
            (
                all(isinstance(text, str | None) for text in (self.regex, self.grammar)),
                "regex and grammar must be text",
            ),
            (shapes <= 1, "give at most one of schema, regex and grammar: they cannot be combined"),
            (
                not (shapes and self.ignore_eos),
                "ignore_eos cannot go with a schema, regex or grammar: they say the end",
            ),
        ]
        for good, message in checks:
            if not good:
                raise ValueError(message)


def _whole(name: str, value: Any) -> int:
    """An int, numpy's too; raises ValueError for what only looks like one."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    return operator.index(value)


def _finite(name: str, value: Any) -> float:
    """A float or an int, numpy's too. Raises ValueError."""
    if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__") or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return value if isinstance(value, int) else float(value)


def schema_text(schema: Any) -> str:
    """A JSON schema as JSON text: of a dict, a JSON text, a class with pydantic's ``model_json_schema``, or True (any
    object). The order of its keys stays, because answers follow it. Raises ValueError where it is none."""
    if schema is True:
        return '{"type": "object"}'
    if hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    try:
        parsed = json.loads(schema) if isinstance(schema, (str, bytes)) else schema
        if isinstance(parsed, Mapping):
            return json.dumps(parsed, ensure_ascii=False, allow_nan=False)
        reason = f"it is {json.dumps(parsed)[:40]}"
    except (ValueError, TypeError, RecursionError) as error:
        reason = str(error)
    raise ValueError(f"the JSON schema is not a JSON object: {reason}")


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """One step of a stream. ``text`` is what became certain with it: never half a character, never taken back.

    The last Token of a stream has a ``finish_reason``; its ``id`` is None where only held-back text was released.
    """

    text: str
    id: int | None = None
    logprob: float | None = None
    finish_reason: FinishReason | None = None
    top_logprobs: tuple[tuple[int, float], ...] | None = None  # (id, logprob), likeliest first, where asked for


@dataclass(frozen=True, slots=True)
class Completion:
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[float, ...] | None = None  # natural log, one a token, of the model's own distribution
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None  # of each token as in Token, where asked for


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a continuation is after a context: sum of natural log-probabilities, token count.

    ``logprobs`` and ``top_logprobs``: of each token, in the forms of Completion, where the engine was asked for them.
    """

    logprob: float
    is_greedy: bool
    tokens: int
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None


# ------------------------------------------------------------------------------------------------------ documents


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a document that has one place: a paragraph, a heading, a table row, a slide's text.

    ``page`` counts from 1 (PDF page, slide); ``section`` is the path of headings joined by " > ", or
    "Sheet1!A2:C9" for cells; ``line`` is the first line, from 1, where lines mean something to a reader.
    """

    start: int
    end: int
    kind: Literal["text", "heading", "table", "list", "code"] = "text"
    page: int | None = None
    section: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: one text and the places of its pieces, which are ordered and do not overlap."""

    id: str
    path: str
    text: str
    pieces: tuple[Piece, ...] = ()
    title: str = ""
    media_type: str = "text/plain"
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is indexed and retrieved. ``text == document.text[start:end]``, always."""

    id: str
    document_id: str
    text: str
    start: int
    end: int
    page: int | None = None
    section: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that a search found, best first. ``parts`` names what each retriever gave: {"dense": 0.61, "sparse": 9.2}."""

    score: float
    chunk: Chunk
    document: Document
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did, in files; ``chunks`` is how many the index holds now."""

    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    chunks: int = 0
    failed: tuple[tuple[str, str], ...] = ()  # (path, reason)
    seconds: float = 0.0


# -------------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True)
class Citation:
    """``document.text[start:end] == quote``, for the document parsed from ``path``."""

    n: int
    path: str
    page: int | None
    section: str
    start: int
    end: int
    quote: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer, the citations that support it, and how well (0 to 1).

    ``quoted``: the words are the document's own, not the model's.
    """

    text: str
    citations: tuple[int, ...] = ()
    support: float = 0.0
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    question: str
    text: str
    sentences: tuple[Sentence, ...] = ()
    citations: tuple[Citation, ...] = ()
    abstained: bool = False
    withheld: tuple[Sentence, ...] = ()  # what strict mode kept back for want of support
    hits: tuple[Hit, ...] = ()
    model: str = ""
    usage: Usage | None = None
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds
    prompt: str = ""  # what the model was given, word for word
    left_out: tuple[Hit, ...] = ()  # hits of which nothing went into the prompt

    def to_json(self) -> dict[str, Any]:
        """The stable form that ``hornbook ask --json`` prints."""
        return {
            "answer": self.text,
            "sentences": [{"text": s.text, "citations": list(s.citations), "quoted": s.quoted} for s in self.sentences],
            "citations": [asdict(c) for c in self.citations],
            "abstained": self.abstained,
            "timings": dict(self.timings),
            "model": self.model,
        }


# ------------------------------------------------------------------------------------------------------ protocols

Prompt: TypeAlias = "str | Sequence[int]"


@runtime_checkable
class LLM(Protocol):
    """The one thing that retrieval, reasoning, agents and evaluation talk to."""

    name: str
    context_length: int

    def generate(
        self, prompts: Prompt | Sequence[Prompt], sampling: SamplingParams | None = None
    ) -> list[Completion]: ...

    def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Iterator[Token]: ...

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        schema: Any = None,
        sampling: SamplingParams | None = None,
    ) -> Message:
        """The assistant's next turn. ``tools``: those that it may call, as OpenAI's API describes them; ``schema``: a JSON
        schema that the answer satisfies unless it is cut."""
        ...

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """How likely each continuation is after its context (text, or ids such as those of ``render``)."""
        ...

    def score_text(self, texts: Sequence[str]) -> list[Score]:
        """How likely each whole text is, every token once: one longer than the context is read in windows."""
        ...

    def count_tokens(self, text: str) -> int: ...

    def render(self, messages: Sequence[Message | Mapping[str, Any]]) -> str | list[int]:
        """The prompt (text or ids) that asks for the assistant's next turn. Without a chat template: plain text."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Texts to unit vectors. ``fingerprint`` tells two models apart: an index made by one refuses the other."""

    name: str
    fingerprint: str
    dimensions: int
    max_tokens: int

    def embed(
        self, texts: Sequence[str], *, kind: Literal["passage", "query"] = "passage"
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """[n, dimensions], float32, each row of unit length."""
        ...

    def count_tokens(self, text: str) -> int: ...


Retriever: TypeAlias = Callable[[str, int], list[Hit]]
Progress: TypeAlias = Callable[[str, int, int], None]  # (what, done, total), called often; total 0 when unknown
