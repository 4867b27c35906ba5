"""Structured output: only tokens that keep the answer inside a JSON schema, a regular expression or a grammar.

    words = Vocabulary(tokenizer)                                  once a model
    compiled = compile(words, schema={"type": "object", ...})      once a schema: in the caller's thread, then cached
    matcher = compiled.start()                                     once an answer
    matcher.allowed()  -> bits of the next token, [ceil(V / 32)] uint32: what hb_sample takes
    matcher.accept(id)

The automaton (a lexer of derivatives under an Earley parser, over the trie of all tokens) is llguidance's: see
docs/decisions/0012-structured-output.md. Ours is what stands around it: the exact bytes of every token, what is refused
and how it is named, the cache, and the laws below.

    * The bytes of an answer are always the beginning of a text of the language, and the end of text is allowed only
      where the whole answer is one. So an answer whose ``finish_reason`` is "stop" satisfies the schema, unless a stop
      string cut it; one that ended by "length" is cut short, and nothing is promised of it.
    * Where nothing can follow any more, ``is_done`` says so at once: no step of the model is spent on the end of text.
    * Bytes that only one text can continue with are written in the tokens that the tokenizer itself would choose.

Numbers are decimal, of any length: 0.99999999999999999999 is below an exclusive maximum of 1, also where a reader's
floats round it up to 1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hornbook.engine.schema import prepared
from hornbook.errors import GenerationError, UsageError
from hornbook.forking import lock
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import SamplingParams, schema_text

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Bits: TypeAlias = "np.ndarray[Any, np.dtype[np.uint32]]"

KEPT = 64  # compiled grammars a vocabulary keeps, the least recently used go first
_STYLES = ("byte-level", "sentencepiece")
_MARK = "\x02"  # a character that no token is merged with
# Between two parts of a JSON text: nothing, a space, or a new line with its indentation. Any more, and a small model
# that may always write one more space sometimes never stops.
_SPACES = r"[ ]|\n[ ]{0,40}"
# No \u: a key written "\u0061" would pass for another one than "a", and a lone half of a pair is no character.
_ESCAPES = 'nrbtf\\"'
JSON_OPTIONS = {"whitespace_pattern": _SPACES, "json_allowed_escapes": _ESCAPES}  # of every JSON text


class GrammarFailed(GenerationError, UsageError):
    """A schema or grammar that no answer can follow to an end, which shows only while it is followed: the request's fault."""


class Vocabulary:
    """The tokens of a model as an automaton sees them, and the grammars compiled for them. Safe for many threads.

    size: the width of the model's logits where it is more than the tokenizer's vocabulary; what is more is never
    allowed. It costs nothing until it is first used: then about 0.2 s for 49,152 tokens, 1.2 s for 262,144.
    """

    def __init__(self, tokenizer: Tokenizer, size: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.size = max(size or 0, tokenizer.vocab_size)
        self.words = (self.size + 31) // 32
        self.end_ids = tuple(sorted(tokenizer.stop_ids))
        self._lock = lock()
        self._built: LLTokenizer | None = None
        self._compiled: OrderedDict[tuple[str, str], Compiled] = OrderedDict()

    @property
    def built(self) -> LLTokenizer:
        """The trie of all tokens, made at the first call. Raises UsageError where the tokenizer's bytes are not exact."""
        with self._lock:
            if self._built is None:
                self._built = self._build()
            return self._built

    def _build(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        style = self.tokenizer.detokenizer.style
        if style not in _STYLES:
            raise UsageError(
                f"structured output needs a tokenizer whose tokens are bytes; this one is {style}",
                "Models that write text have byte-level or SentencePiece tokenizers; is this an embedding model?",
            )
        if not self.end_ids:
            raise UsageError(
                "structured output needs a token that ends a text, and this tokenizer names none",
                "Add its eos_token to tokenizer_config.json, or tokenizer.ggml.eos_token_id to the GGUF file.",
            )
        return LLTokenizer(TokenizerWrapper(_Bytes(self.tokenizer, self.size)), eos_token=list(self.end_ids))

    def find(self, kind: str, text: str) -> Compiled:
        """The compiled grammar of a kind ("schema", "regex" or "grammar"), from the cache where it is there."""
        key = (kind, text)
        with self._lock:
            if key in self._compiled:
                self._compiled.move_to_end(key)
                return self._compiled[key]
        made = Compiled(self, kind, text)  # outside the lock: others go on, and two may make the same
        with self._lock:
            self._compiled[key] = made
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return made


class _Bytes:
    """What llguidance asks of a tokenizer: each token's bytes, the control tokens, and how it would cut a text."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        piece = tokenizer.detokenizer.piece
        self._tokenizer = tokenizer
        self.eos_token_id = min(tokenizer.stop_ids)
        self.tokens = [piece(id) for id in range(tokenizer.vocab_size)] + [b""] * (size - tokenizer.vocab_size)
        self.special_token_ids = sorted(tokenizer.control_ids | tokenizer.stop_ids)
        self._mark = tokenizer.encode(_MARK, add_special=False)

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of a text that stands inside another: behind a mark, no space is put before it."""
        inside = text if isinstance(text, str) else text.decode()
        ids = self._tokenizer.encode(_MARK + inside, add_special=False)
        known = len(self._mark)
        return ids[known:] if ids[:known] == self._mark else self._tokenizer.encode(inside, add_special=False)


class Compiled:
    """A grammar ready for answers: `start` costs some 40 microseconds. Safe for many threads."""

    def __init__(self, vocabulary: Vocabulary, kind: str, text: str) -> None:
        """Raises UsageError with the name of what cannot be honoured."""
        from llguidance import LLMatcher, LLParserLimits

        self.vocabulary = vocabulary
        if kind == "schema":
            options: Any = JSON_OPTIONS
            source = LLMatcher.grammar_from_json_schema(prepared(text), overrides=options)
        elif kind == "regex":
            source = LLMatcher.grammar_from_regex(text)
        else:
            source = LLMatcher.grammar_from_lark(text)
        self._first = LLMatcher(vocabulary.built, source, log_level=0, limits=LLParserLimits(verbose_errors=False))
        if self._first.is_error():
            raise _refusal(kind, self._first.get_error())
        if not Matcher(vocabulary, self._first).allowed().any():  # this also warms what all answers begin with
            raise UsageError(f"no text satisfies the {_NAMES[kind]}", "Look for parts that exclude each other.")

    def start(self) -> Matcher:
        """A matcher at the beginning of an answer."""
        return Matcher(self.vocabulary, self._first.deep_copy())


class Matcher:
    """Where one answer stands in its grammar. For one thread at a time."""

    def __init__(self, vocabulary: Vocabulary, state: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._state = state
        self._ends = 0  # tokens taken after the state had stopped, which it does not count

    def allowed(self, out: Bits | None = None) -> Bits:
        """The bits of the tokens that may come next, [ceil(V / 32)] uint32; ids of the end of text where it may end.

        out: where to write them. Raises GenerationError where the grammar grew beyond its limits.
        """
        bits = np.empty(self._vocabulary.words, np.uint32) if out is None else out
        self._state.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        self._check()
        return bits

    def legal(self, ids: Sequence[int]) -> int:
        """How many of these tokens, from the first on, the grammar would take."""
        return int(self._state.validate_tokens(list(ids)))

    def accept(self, id: int) -> None:
        """Take the chosen token. Raises GenerationError where it is not allowed; the matcher is of no use then."""
        if self.is_done and id in self._vocabulary.end_ids:
            self._ends += 1
        elif not self._state.consume_token(id):
            self._check()

    def rollback(self, tokens: int) -> None:
        """Take back the last tokens, an end of text among them."""
        ends = min(tokens, self._ends)
        self._ends -= ends
        if tokens > ends and not self._state.rollback(tokens - ends):
            self._check()

    @property
    def can_end(self) -> bool:
        """Whether the answer so far is a whole text of the language."""
        return bool(self._state.is_accepting())

    @property
    def is_done(self) -> bool:
        """Whether nothing can follow but the end of text."""
        return bool(self._state.is_stopped()) and not self._state.is_error()

    def forced(self) -> list[int]:
        """The tokens of the bytes that must come next, as the tokenizer would cut them; often none. A sure draft."""
        return [] if self.is_done else list(self._state.compute_ff_tokens())

    def fork(self) -> Matcher:
        """A second matcher at the same place."""
        twin = Matcher(self._vocabulary, self._state.deep_copy())
        twin._ends = self._ends
        return twin

    def _check(self) -> None:
        if self._state.is_error():
            raise GrammarFailed(
                f"the grammar cannot go on: {_line(self._state.get_error())}",
                "Simplify the schema or grammar: long alternatives and deep repetition are what makes it large.",
            )


def compile(
    vocabulary: Vocabulary,
    *,
    schema: Any = None,
    regex: str | None = None,
    grammar: str | None = None,
) -> Compiled:
    """Compile one of: a JSON schema (dict, JSON text, pydantic model; True: any object), a regular expression that the
    whole answer must match, a grammar in Lark's notation. What was compiled before is found again.

    Raises UsageError with the name of the keyword or the place that cannot be honoured.
    """
    given = {"schema": schema, "regex": regex, "grammar": grammar}
    kinds = [kind for kind, value in given.items() if value is not None]
    if len(kinds) != 1:
        raise UsageError(f"give one of schema, regex and grammar, not {len(kinds)}", "They cannot be combined.")
    kind = kinds[0]
    try:
        return vocabulary.find(kind, schema_text(schema) if kind == "schema" else str(given[kind]))
    except ValueError as error:
        raise UsageError(str(error), "Give a dict, a JSON text or True.") from error


def of_params(vocabulary: Vocabulary, params: SamplingParams) -> Compiled | None:
    """What a request's parameters ask for, compiled; None where they leave the text free."""
    if params.schema is None and params.regex is None and params.grammar is None:
        return None
    return compile(vocabulary, schema=params.schema, regex=params.regex, grammar=params.grammar)


# ---------------------------------------------------------------------------------------------------------- errors

_NAMES = {"schema": "JSON schema", "regex": "regular expression", "grammar": "grammar"}
_REMEDIES = {
    "schema": "Take the keyword out or say it in another way; docs/python.md lists what is honoured.",
    "regex": "The notation has no look-around, back-references or word borders, and matches the whole answer.",
    "grammar": "The notation is Lark's, and begins with the rule `start`.",
}


def _refusal(kind: str, message: str) -> UsageError:
    return UsageError(f"the {_NAMES[kind]} cannot be honoured: {_line(message)}", _REMEDIES[kind])


def _line(message: str) -> str:
    """The part of llguidance's report that is for people, in one line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    marked = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if "lookarounds not supported" in message:
        return "look-around and word borders are not supported"
    if message.startswith("oneOf"):
        return "oneOf is not supported where two of its alternatives may hold at once (anyOf is)"
    return marked[0] if marked else lines[0] if lines else "no reason given"
