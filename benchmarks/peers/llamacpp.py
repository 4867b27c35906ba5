"""llama.cpp as a peer of ``hornbook bench``: its C interface through llama-cpp-python, no Python between two tokens but
the loop that asks for them.

It is given every advantage that its own llama-bench has: the batch of one step is one llama_decode, threads as told, flash
attention and the sizes of its batches as it sets them by itself. Tokens are chosen by its own samplers, with the same
parameters as everybody's.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as C

from hornbook.cli.benching.protocol import Peer, prompt_ids, sampling, serve

STEP = 64  # tokens whose logits are wanted at once: those of a large vocabulary take a megabyte each


class LlamaCpp(Peer):
    name = "llama.cpp"

    def __init__(self, model: str, threads: int) -> None:
        import llama_cpp

        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        self.features = C.llama_print_system_info().decode()
        self.threads = threads
        self._quiet = C.llama_log_callback(lambda level, text, data: None)
        C.llama_log_set(self._quiet, None)
        C.llama_backend_init()
        params = C.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = C.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        self.vocab_size = C.llama_vocab_n_tokens(C.llama_model_get_vocab(self.model))
        chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        chosen = sampling()
        for sampler in (
            C.llama_sampler_init_top_k(chosen["top_k"]),
            C.llama_sampler_init_top_p(chosen["top_p"], 1),
            C.llama_sampler_init_temp(chosen["temperature"]),
            C.llama_sampler_init_dist(0),
        ):
            C.llama_sampler_chain_add(chain, sampler)
        self.sampler = chain
        self.context: Any = None
        self.shape = (0, 0)

    def _open(self, rows: int, tokens: int) -> None:
        """A context for ``rows`` sequences of ``tokens`` tokens, emptied."""
        if self.shape != (rows, tokens):
            if self.context:
                C.llama_free(self.context)
            params = C.llama_context_default_params()
            params.n_ctx = rows * math.ceil(tokens / 256) * 256
            params.n_seq_max = rows
            params.n_threads = params.n_threads_batch = self.threads
            params.no_perf = True
            self.context = C.llama_init_from_model(self.model, params)
            if not self.context:
                raise RuntimeError(f"llama.cpp makes no context of {rows} x {tokens} tokens")
            self.shape = (rows, tokens)
        C.llama_memory_clear(C.llama_get_memory(self.context), True)

    def _run(self, ids: list[list[int]], start: list[int], rows: list[int] | None = None) -> list[int]:
        """Feed each row's ids at its place, 2,048 tokens at once; choose each row's next token."""
        flat = [
            (token, start[i] + place, i if rows is None else rows[i], place == len(row) - 1)
            for i, row in enumerate(ids)
            for place, token in enumerate(row)
        ]
        chosen = []
        for begin in range(0, len(flat), 2048):
            part = flat[begin : begin + 2048]
            batch = C.llama_batch_init(len(part), 0, 1)
            batch.n_tokens = len(part)
            for at, (token, position, row, last) in enumerate(part):
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
                batch.seq_id[at][0], batch.logits[at] = row, last
            if (code := C.llama_decode(self.context, batch)) != 0:
                raise RuntimeError(f"llama_decode gave {code}")
            chosen += [
                C.llama_sampler_sample(self.sampler, self.context, at) for at, item in enumerate(part) if item[3]
            ]
            C.llama_batch_free(batch)
        return chosen

    def decode(self, batch: int, tokens: int, prompt: int) -> float:
        self._open(batch, prompt + tokens + 1)
        ids = [prompt_ids(prompt, self.vocab_size) for _ in range(batch)]
        last = self._run(ids, [0] * batch)
        step = C.llama_batch_init(batch, 0, 1)
        step.n_tokens = batch
        for row in range(batch):
            step.n_seq_id[row], step.seq_id[row][0], step.logits[row] = 1, row, True
        began = time.perf_counter()
        for position in range(prompt, prompt + tokens):
            for row in range(batch):
                step.token[row], step.pos[row] = last[row], position
            if (code := C.llama_decode(self.context, step)) != 0:
                raise RuntimeError(f"llama_decode gave {code}")
            last = [C.llama_sampler_sample(self.sampler, self.context, row) for row in range(batch)]
        seconds = time.perf_counter() - began
        C.llama_batch_free(step)
        return seconds

    def prefill(self, tokens: int) -> float:
        self._open(1, tokens + 1)
        ids = prompt_ids(tokens, self.vocab_size)
        began = time.perf_counter()
        self._run([ids], [0])
        return time.perf_counter() - began

    def shared_prefix(self, tokens: int, tail: int) -> tuple[float, float]:
        self._open(2, tokens + tail + 1)
        prefix = prompt_ids(tokens, self.vocab_size)
        began = time.perf_counter()
        self._run([prefix + prompt_ids(tail, self.vocab_size)], [0])
        first = time.perf_counter() - began
        began = time.perf_counter()
        C.llama_memory_seq_cp(C.llama_get_memory(self.context), 0, 1, 0, tokens)
        self._run([prompt_ids(tail, self.vocab_size)], [tokens], rows=[1])
        return first, time.perf_counter() - began

    def likelihood(self, text: str) -> tuple[float, int]:
        vocab = C.llama_model_get_vocab(self.model)
        given = text.encode()
        found = (C.llama_token * (len(given) + 8))()
        count = C.llama_tokenize(vocab, given, len(given), found, len(found), False, False)
        ids = [C.llama_vocab_bos(vocab), *found[:count]]
        self._open(1, len(ids))
        total = 0.0
        for begin in range(0, count, STEP):
            part = ids[begin : min(begin + STEP, count)]
            batch = C.llama_batch_init(len(part), 0, 1)
            batch.n_tokens = len(part)
            for at, token in enumerate(part):
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, begin + at, 1
                batch.seq_id[at][0], batch.logits[at] = 0, True
            if (code := C.llama_decode(self.context, batch)) != 0:
                raise RuntimeError(f"llama_decode gave {code}")
            C.llama_batch_free(batch)
            shape = (len(part), self.vocab_size)
            logits = np.ctypeslib.as_array(C.llama_get_logits(self.context), shape).astype(np.float64)
            logits -= logits.max(1, keepdims=True)
            chosen = logits[np.arange(len(part)), ids[begin + 1 : begin + 1 + len(part)]]
            total += float((chosen - np.log(np.exp(logits).sum(1))).sum())
        return total, count

    def close(self) -> None:
        if self.context:
            C.llama_free(self.context)
        C.llama_model_free(self.model)


if __name__ == "__main__":
    serve(LlamaCpp)
