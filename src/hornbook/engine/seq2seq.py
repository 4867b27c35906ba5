"""A model that reads a text and writes another: translators, summarisers, T5 and what was tuned from it.

    texts -> tokenizer -> encoder -> Memory -> beam search -> tokenizer -> [(text, score), ...] for each

How a model is meant to be searched stands in its generation_config.json (engine.generation_config); what a call says
goes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from hornbook.engine.beam import BeamParams, Hypothesis, beam_search
from hornbook.engine.generation_config import Said, beam_fields, processors, start_token
from hornbook.errors import ContextTooLong, ModelClosed, UnsupportedModel, UsageError
from hornbook.forking import lock
from hornbook.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hornbook.checkpoint.loading import Checkpoint


class Written(NamedTuple):
    """One answer. ``cut``: its length ended it, not the model."""

    text: str
    score: float  # log P / length^penalty
    cut: bool


class Seq2Seq:
    """An encoder and its decoder that run in this process. Safe to use from several threads: they take turns.

    ``max_batch`` texts run side by side; more are worked off in waves of similar length.
    """

    def __init__(self, checkpoint: Checkpoint, *, name: str = "", max_batch: int = 16) -> None:
        """Raises UnsupportedModel where the model has no encoder, or asks for what is not done here, ModelFileError where
        what it says of its search makes no sense."""
        config, tokenizer = checkpoint.config, checkpoint.tokenizer
        self.name = name or Path(checkpoint.path).stem
        if config.encoder is None or not config.language_head:
            raise UnsupportedModel(f"{self.name} has no encoder and head", "hornbook show tells what a model is.")
        self.tokenizer, self.writer = tokenizer, tokenizer
        if not config.shared_tokens and Path(checkpoint.path).is_dir():  # the language it writes has its own vocabulary
            self.writer = Tokenizer.from_folder(checkpoint.path, target=True)
        self.context_length = config.encoder.context_length
        self.max_batch = max_batch
        said = Said(checkpoint)
        # GGUF spells out its architecture.
        self.start = start_token(said, f"{checkpoint.family.name}.decoder_start_token_id", self.writer)
        self.defaults = beam_fields(said, self.writer, min(config.vocab_size, self.writer.vocab_size))
        self._longest = config.context_length
        self._processors = processors(said)
        self._model: Any = checkpoint.model
        self._lock = lock()

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

        What is None is as the model says; ``max_tokens`` is at most what the decoder holds. Raises ContextTooLong for a
        text that the encoder cannot hold, before any work, UsageError for numbers that make no sense, GenerationError
        where the model's scores are unusable.
        """
        found = self.write(texts, beams=beams, n_best=n_best, length_penalty=length_penalty, max_tokens=max_tokens)
        return [[(one.text, one.score) for one in best] for best in found]

    def write(
        self,
        texts: Sequence[str],
        *,
        beams: int | None = None,
        n_best: int = 1,
        length_penalty: float | None = None,
        max_tokens: int | None = None,
    ) -> list[list[Written]]:
        """``generate``, with whether each answer was cut."""
        given = {"beams": beams, "length_penalty": length_penalty, "max_tokens": max_tokens}
        params = self._params(n_best, {key: value for key, value in given.items() if value is not None})
        sources = [self._encode(text, place, len(texts)) for place, text in enumerate(texts)]
        order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
        found: dict[int, list[Written]] = {}
        for begin in range(0, len(order), self.max_batch):
            wave = order[begin : begin + self.max_batch]
            for place, best in zip(wave, self._search([sources[i] for i in wave], params), strict=True):
                found[place] = [self._written(one, params) for one in best]
        return [found[place] for place in range(len(texts))]

    def count_tokens(self, text: str) -> int:
        """How many tokens the text has for the encoder, without the special ones."""
        return len(self.tokenizer.encode(text, add_special=False))

    def _params(self, n_best: int, given: Mapping[str, Any]) -> BeamParams:
        said = {**self.defaults, **given}
        said["beams"] = given.get("beams", max(said["beams"], n_best))
        # The start token takes a place, and the last token is never read: it needs none.
        said["max_tokens"] = min(said["max_tokens"], self._longest)
        said["min_tokens"] = min(said["min_tokens"], said["max_tokens"])
        return BeamParams(n_best=n_best, **said)

    def _written(self, found: Hypothesis, params: BeamParams) -> Written:
        """An end token that is forced upon the last place says nothing of the text's end."""
        full = len(found.ids) == params.max_tokens
        cut = full and (bool(params.forced_last) or found.ids[-1] not in params.stop_ids)
        return Written(self.writer.decode(found.ids), found.score, cut)

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
