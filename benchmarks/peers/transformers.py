"""transformers as a peer of ``hornbook bench``: torch, the weights of the GGUF file as float32, its own cache and attention.

A decode step is one forward pass of the whole batch and an argmax, without the loop of ``generate``, which is slower; nothing is drawn.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from hornbook.cli.benching.protocol import Peer, prompt_ids, serve


class Transformers(Peer):
    name = "transformers float32"

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        path = Path(model)
        where: dict[str, Any] = {} if path.is_dir() else {"gguf_file": path.name}
        folder = str(path if path.is_dir() else path.parent)
        made = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where)
        self.model: Any = made.requires_grad_(False)  # it comes set to evaluate
        self.vocab_size = self.model.config.get_text_config().vocab_size

    def _run(self, rows: list[list[int]] | torch.Tensor, cache: Any) -> torch.Tensor:
        """-> each row's next token [B, 1]."""
        out = self.model(torch.as_tensor(rows), past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = out.logits[:, -1]
        return logits.argmax(-1, keepdim=True)

    @torch.inference_mode()
    def decode(self, batch: int, tokens: int, prompt: int) -> float:
        cache = transformers.DynamicCache()
        last = self._run([prompt_ids(prompt, self.vocab_size) for _ in range(batch)], cache)
        began = time.perf_counter()
        for _ in range(tokens):
            last = self._run(last, cache)
        return time.perf_counter() - began

    @torch.inference_mode()
    def prefill(self, tokens: int) -> float:
        ids = prompt_ids(tokens, self.vocab_size)
        began = time.perf_counter()
        self._run([ids], transformers.DynamicCache())
        return time.perf_counter() - began

    @torch.inference_mode()
    def shared_prefix(self, tokens: int, tail: int) -> tuple[float, float]:
        prefix, cache = prompt_ids(tokens, self.vocab_size), transformers.DynamicCache()
        began = time.perf_counter()
        self._run([prefix], cache)
        kept = copy.deepcopy(cache)
        self._run([prompt_ids(tail, self.vocab_size)], cache)
        first = time.perf_counter() - began
        began = time.perf_counter()
        self._run([prompt_ids(tail, self.vocab_size)], kept)
        return first, time.perf_counter() - began

    def close(self) -> None:
        """Nothing is held but memory."""


if __name__ == "__main__":
    serve(Transformers)
