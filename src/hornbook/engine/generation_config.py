"""How a model is meant to be searched: what its generation_config.json says, as the fields of BeamParams.

Older folders say it in their config.json. What changes the search and is not done here is refused by name. ``do_sample``
and what goes with it (temperature, top_k, top_p) are passed over: they ask for a draw, and a beam search looks for the
likeliest sequence, which is the same every time.
"""

from __future__ import annotations

import math
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.engine.sampling import LogitsProcessor, repetition_penalty
from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hornbook.checkpoint.loading import Checkpoint

USUAL_TOKENS = 256  # where neither the call nor the model says how long an answer may be
# What a generation_config may ask for that is not done here, and the value that asks for nothing, as an empty list does.
UNKNOWN = {
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
}


class Said:
    """What a model's files say under a key, of the type that it must have; None where they say nothing.

    generation_config.json goes before config.json. Raises ModelFileError, with the file and the key, for another type.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        path = Path(checkpoint.path)
        self.generation, self.metadata = checkpoint.generation, checkpoint.metadata
        self.file = "config.json" if path.is_dir() else path.name

    def get(self, key: str) -> Any:
        value = self.generation.get(key)
        return self.metadata.get(key) if value is None else value

    def whole(self, key: str) -> int | None:
        """A whole number from 0."""
        value = self.get(key)
        return None if value is None else self._id(key, value, "a whole number from 0")

    def number(self, key: str) -> float | None:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise self.wrong(key, "a number")
        return float(value)

    def ids(self, key: str) -> tuple[int, ...]:
        """One token id, several, or none."""
        value = self.get(key)
        listed = value if isinstance(value, list | tuple) else [] if value is None else [value]
        return tuple(self._id(key, id, "a token id or a list of them") for id in listed)

    def words(self, key: str) -> tuple[tuple[int, ...], ...]:
        """Sequences of token ids, none of them empty."""
        value, wanted = self.get(key), "a list of lists of token ids"
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(word, list) and word for word in value):
            raise self.wrong(key, wanted)
        return tuple(tuple(self._id(key, id, wanted) for id in word) for word in value)

    def choice(self, key: str, allowed: tuple[bool | str, ...]) -> Any:
        """One of the values ``allowed``, the first of them where nothing is said."""
        value = self.get(key)
        if value is None:
            return allowed[0]
        if not isinstance(value, bool | str) or value not in allowed:
            raise self.wrong(key, " or ".join(str(one).lower() for one in allowed))
        return value

    def wrong(self, key: str, wanted: str) -> ModelFileError:
        file = self.file if self.generation.get(key) is None else "generation_config.json"
        return ModelFileError(f"{file} says {key} = {self.get(key)!r}", f"It must be {wanted}: correct or remove it.")

    def _id(self, key: str, value: Any, wanted: str) -> int:
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
            raise self.wrong(key, wanted)
        return int(value)


def start_token(said: Said, in_gguf: str, tokenizer: Tokenizer) -> int:
    """The token that a decoder starts with. Raises ModelFileError where nothing says it."""
    for found in (said.whole("decoder_start_token_id"), said.whole(in_gguf), tokenizer.bos_id):
        if found is not None:
            return found
    raise ModelFileError(
        "the model does not say what its decoder starts with",
        "Write decoder_start_token_id into its generation_config.json.",
    )


def beam_fields(said: Said, tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The fields of BeamParams as the model says them. Raises UnsupportedModel for what is not done here."""
    for name, nothing in UNKNOWN.items():
        value = said.get(name)
        if value not in (None, nothing, [], {}):
            raise UnsupportedModel(
                f"the model's generation_config asks for {name} = {value}", "Remove it, and search without."
            )
    # The lengths that it says count the start token.
    longest = said.whole("max_new_tokens") or (said.whole("max_length") or 0) - 1
    shortest = said.whole("min_new_tokens") or (said.whole("min_length") or 0) - 1
    penalty = said.number("length_penalty")
    return {
        "beams": said.whole("num_beams") or 1,
        "length_penalty": 1.0 if penalty is None else penalty,
        "early_stopping": said.choice("early_stopping", (False, True, "never")),
        "max_tokens": longest if longest > 0 else USUAL_TOKENS,
        "min_tokens": max(shortest, 0),
        "stop_ids": frozenset(said.ids("eos_token_id") or tokenizer.stop_ids),
        "forced_first": said.whole("forced_bos_token_id"),
        "forced_last": said.ids("forced_eos_token_id"),
        "bad_words": said.words("bad_words_ids"),
        "no_repeat": said.whole("no_repeat_ngram_size") or 0,
        "renormalise": said.choice("renormalize_logits", (False, True)),
        "vocab_size": vocab_size,
    }


def processors(said: Said) -> list[LogitsProcessor]:
    """What else changes the scores: the penalty on what was written already."""
    penalty = said.number("repetition_penalty")
    if penalty is not None and penalty <= 0:
        raise said.wrong("repetition_penalty", "above 0")
    return [] if penalty in (None, 1.0) else [partial(repetition_penalty, penalty=penalty)]
