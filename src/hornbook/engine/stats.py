"""What an engine tells of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """Where the engine stands, and what it has done since it was made."""

    running: int
    waiting: int
    pages_free: int
    pages_cached: int
    pages_used: int
    steps: int
    prompt_tokens: int  # of prompts that were admitted, however they came into the cache
    hit_tokens: int  # of those that did not have to be computed
    computed_tokens: int  # that passed the model
    new_tokens: int
    preemptions: int
    drafted_tokens: int  # guesses that the model has judged
    kept_tokens: int  # and those of them that were right
    seconds: float  # in steps

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all answers together, over the time spent in steps."""
        return self.new_tokens / self.seconds if self.seconds else 0.0
