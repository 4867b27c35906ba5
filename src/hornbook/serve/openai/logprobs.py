"""How likely the tokens of an answer were, in the two forms that OpenAI's API has for it.

    chat         {"content": [{"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob", "bytes"}]}]}
    completions  {"tokens": [...], "token_logprobs": [...], "top_logprobs": [{token: logprob}], "text_offset": [...]}

Natural logarithms of the model's own distribution, before temperature, biases and grammars. The token that ends an
answer writes nothing and is left out, so that the bytes of all tokens are the answer's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from hornbook.text.stream import StreamDecoder
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import Score, Token

FLOOR = -9999.0  # what the API writes for minus infinity, which JSON cannot say


class Spelling:
    """Writes tokens as the API does: a text, and the bytes that it stands for, which may be part of a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def ends(self, token: Token) -> bool:
        """Whether the token only ends an answer, or is none."""
        return token.id is None or token.logprob is None or (
            token.finish_reason == "stop" and token.id in self._tokenizer.stop_ids
        )  # fmt: skip

    def written(self, id: int) -> bytes:
        return self._tokenizer.detokenizer.piece(id, first=False)

    def name(self, id: int) -> str:
        """The token's text; where its bytes are none, "bytes:" and their hexadecimal digits, as the API has it."""
        written = self.written(id)
        try:
            return written.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in written)

    def likelihood(self, id: int, logprob: float) -> dict[str, Any]:
        return {"token": self.name(id), "logprob": _finite(logprob), "bytes": list(self.written(id))}

    def chat(self, tokens: Iterable[Token]) -> list[dict[str, Any]]:
        """The entries of ``logprobs.content``."""
        entries = []
        for token in tokens:
            if not self.ends(token):
                assert token.id is not None and token.logprob is not None
                top = [self.likelihood(*one) for one in token.top_logprobs or ()]
                entries.append({**self.likelihood(token.id, token.logprob), "top_logprobs": top})
        return entries

    def completions(self, tokens: Iterable[Token], offset: int, *, top: bool) -> dict[str, Any]:
        """The ``logprobs`` of an answer, or of a piece of it that begins ``offset`` characters into the text.

        top: tell the likeliest tokens of each place, and the chosen one with them.
        """
        names: list[str] = []
        values: list[float] = []
        likeliest: list[dict[str, float]] = []
        offsets: list[int] = []
        for token in tokens:
            if not self.ends(token):
                assert token.id is not None and token.logprob is not None
                names.append(self.name(token.id))
                values.append(_finite(token.logprob))
                offsets.append(offset)
                best = {self.name(id): _finite(value) for id, value in token.top_logprobs or ()}
                likeliest.append(best | {names[-1]: values[-1]})
            offset += len(token.text)
        return {
            "tokens": names, "token_logprobs": values, "top_logprobs": likeliest if top else None,
            "text_offset": offsets,
        }  # fmt: skip

    def prompt(self, ids: Sequence[int], score: Score, *, top: int, as_text: bool) -> dict[str, Any]:
        """The ``logprobs`` of an echoed prompt. Of its first token nothing is known: null.

        score: of all tokens but the first, with likelihoods.  as_text: it was given as text, whose echo shows no token
        that was put before it.
        """
        decoder, offsets, offset = StreamDecoder(self._tokenizer, skip_special=as_text), [], 0
        for id in ids:
            offsets.append(offset)
            offset += len(decoder.push(id))
        values = [None, *(_finite(value) for value in score.logprobs or ())]
        likeliest: list[dict[str, float] | None] = [None]
        for id, value, best in zip(ids[1:], score.logprobs or (), score.top_logprobs or (), strict=True):
            told = {self.name(one): _finite(likelihood) for one, likelihood in best[:top]}
            likeliest.append(told | {self.name(id): _finite(value)})
        return {
            "tokens": [self.name(id) for id in ids], "token_logprobs": values,
            "top_logprobs": likeliest if top else None, "text_offset": offsets,
        }  # fmt: skip


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The ``logprobs`` of two pieces of a text, one after the other."""
    return {name: None if value is None else [*value, *second[name]] for name, value in first.items()}


def _finite(value: float) -> float:
    return value if math.isfinite(value) else FLOOR
