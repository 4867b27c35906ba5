"""Hornbook under its own measure: the public API as anybody uses it, from ``load`` to ``generate``.

A call of ``generate`` reads its prompts and writes; so the steps alone are what it takes to write N + 1 tokens less what it
takes to write one, each with prompts of its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from hornbook import __version__
from hornbook.cli.benching.protocol import Peer, prompt_ids, sampling, serve
from hornbook.errors import UsageError
from hornbook.llm import LocalLLM, load
from hornbook.settings import Settings
from hornbook.types import SamplingParams


class Ours(Peer):
    name = "hornbook"
    version = __version__

    def __init__(self, model: str, threads: int, draft: str = "auto") -> None:
        llm = load(model, draft=draft, settings=Settings.load(threads=threads, offline=True))
        if not isinstance(llm, LocalLLM):
            raise UsageError(f"{llm.name} is not a language model that runs here", "bench measures such a model alone.")
        self.llm = llm
        self.features = llm.runs_on
        self.vocab_size = llm.tokenizer.vocab_size

    def _write(self, prompts: Sequence[Sequence[int]], tokens: int) -> float:
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, logprobs=False, seed=0, **sampling())
        began = time.perf_counter()
        answers = self.llm.generate(list(prompts), params)
        seconds = time.perf_counter() - began
        if any(len(answer.token_ids) != tokens for answer in answers):
            raise RuntimeError(f"an answer has not the {tokens} tokens that it was asked for")
        return seconds

    def _prompts(self, batch: int, tokens: int) -> list[list[int]]:
        return [prompt_ids(tokens, self.vocab_size) for _ in range(batch)]

    def decode(self, batch: int, tokens: int, prompt: int) -> float:
        reading = self._write(self._prompts(batch, prompt), 1)
        return self._write(self._prompts(batch, prompt), tokens + 1) - reading

    def prefill(self, tokens: int) -> float:
        return self._write(self._prompts(1, tokens), 1)

    def shared_prefix(self, tokens: int, tail: int) -> tuple[float, float]:
        (prefix,) = self._prompts(1, tokens)
        first, second = (self._write([prefix + end], 1) for end in self._prompts(2, tail))
        return first, second

    def likelihood(self, text: str) -> tuple[float, int]:
        (score,) = self.llm.score([("", text)])
        return score.logprob, score.tokens

    def close(self) -> None:
        self.llm.close()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--draft", default="auto")
    given = options.parse_args()
    serve(lambda model, threads: Ours(model, threads, given.draft))
