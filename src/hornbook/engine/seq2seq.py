"""A model that reads a text and writes another: translators, summarisers, T5 and what was tuned from it.

    texts -> tokenizer -> encoder -> Memory -> beam search -> tokenizer -> [(text, score), ...] for each

How a model is meant to be searched stands in its generation_config.json, in older folders in config.json; what a call
says goes first.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hornbook.engine.beam import BeamParams, Hypothesis, beam_search
from hornbook.engine.sampling import LogitsProcessor, repetition_penalty
from hornbook.errors import ContextTooLong, ModelClosed, ModelFileError, UnsupportedModel, UsageError
from hornbook.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hornbook.checkpoint.loading import Checkpoint

USUAL_TOKENS = 256  # where neither the call nor the model says how long an answer may be
# What a generation_config may ask for that is not done here, and the value that asks for nothing.
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


class Seq2Seq:
    """An encoder and its decoder that run in this process. Safe to use from several threads: they take turns.

    ``max_batch`` texts run side by side; more are worked off in waves of similar length.
    """

    def __init__(self, checkpoint: Checkpoint, *, name: str = "", max_batch: int = 16) -> None:
        """Raises UnsupportedModel where the model has no encoder, or asks for what is not done here."""
        config, tokenizer = checkpoint.config, checkpoint.tokenizer
        self.name = name or Path(checkpoint.path).stem
        if config.encoder is None or not config.language_head:
            raise UnsupportedModel(f"{self.name} has no encoder and head", "hornbook show tells what a model is.")
        self.tokenizer, self.writer = tokenizer, tokenizer
        if not config.shared_tokens and Path(checkpoint.path).is_dir():  # the language it writes has its own vocabulary
            self.writer = Tokenizer.from_folder(checkpoint.path, target=True)
        self.context_length = config.encoder.context_length
        self.max_batch = max_batch
        said = {**checkpoint.metadata} | {k: v for k, v in checkpoint.generation.items() if v is not None}
        # GGUF spells out its architecture.
        self.start = _start(said, f"{checkpoint.family.name}.decoder_start_token_id", self.writer)
        self.defaults = _defaults(said, self.writer, min(config.vocab_size, self.writer.vocab_size))
        self._longest = config.context_length
        self._processors = _processors(said)
        self._model: Any = checkpoint.model
        self._lock = threading.Lock()

    def generate(
        self,
        texts: Sequence[str],
        *,
        beams: int | None = None,
        n_best: int = 1,
        length_penalty: float | None = None,
        max_tokens: int | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Of each text the ``n_best`` texts that the model writes, best first, with log P / length^penalty.

        What is None is as the model says; ``max_tokens`` is at most what the decoder holds. Raises ContextTooLong for a text that the encoder cannot hold, before any
        work, UsageError for numbers that make no sense, GenerationError where the model's scores are unusable.
        """
        given = {"beams": beams, "length_penalty": length_penalty, "max_tokens": max_tokens}
        params = self._params(n_best, {key: value for key, value in given.items() if value is not None})
        sources = [self._encode(text, place, len(texts)) for place, text in enumerate(texts)]
        order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
        found: dict[int, list[tuple[str, float]]] = {}
        for begin in range(0, len(order), self.max_batch):
            wave = order[begin : begin + self.max_batch]
            for place, best in zip(wave, self._search([sources[i] for i in wave], params), strict=True):
                found[place] = [(self.writer.decode(one.ids), one.score) for one in best]
        return [found[place] for place in range(len(texts))]

    def count_tokens(self, text: str) -> int:
        """How many tokens the text has for the encoder, without the special ones."""
        return len(self.tokenizer.encode(text, add_special=False))

    def _params(self, n_best: int, given: Mapping[str, Any]) -> BeamParams:
        said = {**self.defaults, **given}
        said["beams"] = given.get("beams", max(said["beams"], n_best))
        said["max_tokens"] = min(said["max_tokens"], self._longest - 1)
        said["min_tokens"] = min(said["min_tokens"], said["max_tokens"])
        return BeamParams(n_best=n_best, **said)

    def _encode(self, text: str, place: int, texts: int) -> list[int]:
        ids = self.tokenizer.encode(text)
        which = f"text {place + 1} of {texts}" if texts > 1 else "the text"
        if not ids:
            raise UsageError(f"{which} is empty", "Give at least one character.")
        if len(ids) > self.context_length:
            raise ContextTooLong(
                f"{which} has {len(ids):,} tokens; {self.name} reads at most {self.context_length:,}",
                "Shorten the text, or give it in parts.",
            )
        return ids

    @torch.inference_mode()
    def _search(self, sources: Sequence[Sequence[int]], params: BeamParams) -> list[list[Hypothesis]]:
        with self._lock:
            model = self._open()
            longest = max(map(len, sources))
            ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in sources], device=model.device)
            counts = torch.tensor([len(ids) for ids in sources], device=model.device)
            memory = model.encode(ids, torch.arange(longest, device=model.device) < counts[:, None])
            starts = [[self.start]] * len(sources)
            return beam_search(model, starts, params, memory=memory, processors=self._processors)

    def _open(self) -> Any:
        if self._model is None:
            raise ModelClosed(f"{self.name} was closed", "Load it again.")
        return self._model

    def close(self) -> None:
        """Free the model's memory; any later use raises ModelClosed."""
        with self._lock:
            self._model = None

    def __enter__(self) -> Seq2Seq:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --------------------------------------------------------------------------------------------- what the model says


def _start(said: Mapping[str, Any], in_gguf: str, tokenizer: Tokenizer) -> int:
    """The token that a decoder starts with."""
    for found in (said.get("decoder_start_token_id"), said.get(in_gguf), tokenizer.bos_id):
        if found is not None:
            return int(found)
    raise ModelFileError(
        "the model does not say what its decoder starts with",
        "Write decoder_start_token_id into its generation_config.json.",
    )


def _defaults(said: Mapping[str, Any], tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """The fields of BeamParams as the model says them, in the words of transformers' generation_config."""
    for name, nothing in UNKNOWN.items():
        if said.get(name) not in (None, nothing):
            raise UnsupportedModel(
                f"the model's generation_config asks for {name} = {said[name]}", "Remove it, and search without."
            )
    # The lengths that it says count the start token.
    longest = said.get("max_new_tokens") or (int(said.get("max_length") or 0) - 1)
    shortest = said.get("min_new_tokens") or (int(said.get("min_length") or 0) - 1)
    ends = _ids(said.get("eos_token_id")) or tuple(tokenizer.stop_ids)
    return {
        "beams": int(said.get("num_beams") or 1),
        "length_penalty": float(1.0 if said.get("length_penalty") is None else said["length_penalty"]),
        "early_stopping": said.get("early_stopping") or False,
        "max_tokens": longest if longest > 0 else USUAL_TOKENS,
        "min_tokens": max(shortest, 0),
        "stop_ids": frozenset(ends),
        "forced_first": said.get("forced_bos_token_id"),
        "forced_last": _ids(said.get("forced_eos_token_id")),
        "bad_words": tuple(tuple(word) for word in said.get("bad_words_ids") or ()),
        "no_repeat": int(said.get("no_repeat_ngram_size") or 0),
        "renormalise": bool(said.get("renormalize_logits")),
        "vocab_size": vocab_size,
    }


def _processors(said: Mapping[str, Any]) -> list[LogitsProcessor]:
    penalty = float(said.get("repetition_penalty") or 1.0)
    return [] if penalty == 1.0 else [partial(repetition_penalty, penalty=penalty)]


def _ids(said: Any) -> tuple[int, ...]:
    """One id, several, or none."""
    if said is None:
        return ()
    return (int(said),) if isinstance(said, int) else tuple(map(int, said))
