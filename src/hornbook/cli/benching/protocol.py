"""What ``hornbook bench`` says to the programs that it measures, and what they answer: one line of JSON each.

    {"load": MODEL, "threads": 2}                       -> {"name", "version", "seconds", "vocab_size", ...}
    {"measure": "decode", "batch", "tokens", "prompt"}  -> {"seconds": s}     of ``tokens`` steps of the whole batch
    {"measure": "prefill", "tokens"}                    -> {"seconds": s}     of a prompt, to the choice of the first token
    {"measure": "shared_prefix", "tokens", "tail"}      -> {"first": s, "second": s}
    {"measure": "memory", "tokens"}                     -> {"peak": bytes}    the process's peak, with a prompt of that length
    {"measure": "likelihood", "text"}                   -> {"logprob": nats, "tokens": n}

Each program is a process of its own that loads once and works only when it is told to, so that no two of them ever run at
once. It ends when its input does. What fails is answered as {"error": "..."}, and the next line is read.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hornbook.errors import UsageError


class Peer(ABC):
    """A program under measurement. Every prompt is made of new random ids, so that no cache of prompts can help."""

    name: str
    version: str
    features: str = ""
    vocab_size: int

    @abstractmethod
    def decode(self, batch: int, tokens: int, prompt: int) -> float:
        """Seconds of ``tokens`` steps of ``batch`` rows after prompts of ``prompt`` tokens, which are not counted."""

    @abstractmethod
    def prefill(self, tokens: int) -> float:
        """Seconds from a prompt of ``tokens`` tokens to the choice of the token after it."""

    @abstractmethod
    def shared_prefix(self, tokens: int, tail: int) -> tuple[float, float]:
        """Seconds to the first token of two prompts that begin with the same ``tokens`` tokens and end differently."""

    def likelihood(self, text: str) -> tuple[float, int]:
        """The natural log-likelihood of a text after the begin token, and how many tokens it has."""
        raise UsageError(f"{self.name} does not tell likelihoods here", "Measure another program.")

    @abstractmethod
    def close(self) -> None: ...


def prompt_ids(count: int, vocab_size: int) -> list[int]:
    """New random ids. The lowest, among which special tokens mostly are, are left out."""
    return [random.randrange(min(300, vocab_size // 2), vocab_size) for _ in range(count)]


def sampling() -> dict[str, Any]:
    """How every program chooses tokens, where it can: as people do, by chance among the likeliest."""
    return {"temperature": 0.8, "top_k": 40, "top_p": 0.95}


def peak_memory() -> int | None:
    """The most memory that this process has held, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    if sys.platform == "linux":  # where ru_maxrss is inherited from the process that started this one
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def serve(make: Callable[[str, int], Peer]) -> None:
    """Answer the lines of stdin on what was stdout; whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    peer: Peer | None = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if "load" in request:
                began = time.perf_counter()
                peer = make(request["load"], request["threads"])
                answer = {
                    "name": peer.name,
                    "version": peer.version,
                    "features": peer.features,
                    "vocab_size": peer.vocab_size,
                    "seconds": time.perf_counter() - began,
                }
            elif peer is None:
                raise RuntimeError("nothing was loaded")
            else:
                answer = _measure(peer, dict(request))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        print(json.dumps(answer), file=answers, flush=True)
    if peer is not None:
        peer.close()


def _measure(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    what = request.pop("measure")
    if what == "decode":
        return {"seconds": peer.decode(**request)}
    if what == "prefill":
        return {"seconds": peer.prefill(**request)}
    if what == "shared_prefix":
        first, second = peer.shared_prefix(**request)
        return {"first": first, "second": second}
    if what == "likelihood":
        logprob, tokens = peer.likelihood(**request)
        return {"logprob": logprob, "tokens": tokens}
    if what == "memory":
        peer.prefill(**request)
        return {"peak": peak_memory()}
    raise RuntimeError(f"nothing is known of {what!r}")
