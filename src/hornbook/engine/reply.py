"""What one answer says: its tokens become text that is certain, and its end is found.

    id -> an end token?  -> Decoder -> StopMatcher -> Token(text, id, logprob, finish_reason)

The plain generator and the engine both speak through this, so that they cut their answers in the same places.
"""

from __future__ import annotations

from typing import Protocol

from hornbook.engine.stops import StopMatcher
from hornbook.types import FinishReason, SamplingParams, Token


class Decoder(Protocol):
    """Ids to text that is certain, as text.stream.StreamDecoder does it."""

    def push(self, id: int) -> str: ...

    def flush(self) -> str: ...


class Reply:
    """One answer under way. ``room``: the most tokens that it may have; ``stop_ids``: those that end it."""

    def __init__(self, params: SamplingParams, room: int, decoder: Decoder, stop_ids: frozenset[int]) -> None:
        self.room = room
        self._decoder = decoder
        self._stops = StopMatcher(params.stop)
        self._ends = frozenset() if params.ignore_eos else stop_ids

    def accept(
        self,
        id: int,
        logprob: float | None = None,
        top_logprobs: tuple[tuple[int, float], ...] | None = None,
        *,
        whole: bool = False,
    ) -> Token:
        """Take the chosen token; return what a listener may hear of it. ``whole``: a grammar lets nothing follow it."""
        self.room -= 1
        ended = id in self._ends
        text = "" if ended else self._stops.push(self._decoder.push(id))
        reason: FinishReason | None = None
        if ended or whole or self._stops.stopped:
            reason = "stop"
        elif self.room <= 0:
            reason = "length"
        if reason and not self._stops.stopped:
            text += self._stops.push(self._decoder.flush())
            reason = "stop" if self._stops.stopped else reason
            text += self._stops.flush()
        return Token(text, id, logprob, reason, top_logprobs)

    def cut(self) -> str:
        """The answer ends here, unfinished: release the text that was held back."""
        text = self._stops.push(self._decoder.flush())
        return text + self._stops.flush()
