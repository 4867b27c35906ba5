"""Several streams as one, each with its share of the examples.

    Mixed([code, prose], weights=[1, 3], seed=7, ended="repeat")     # of four examples about three are prose

When a stream has ended:  stop     the pass ends with it (nothing is seen twice, something perhaps not at all)
                          repeat   it begins anew, until all have been read to their end once
                          drop     the others go on with their shares, until all have ended (all is seen once)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, Literal, TypeAlias, TypeVar

from hornbook.data.stream import Stream
from hornbook.errors import DataError, UsageError

T = TypeVar("T")
Ended: TypeAlias = Literal["stop", "repeat", "drop"]


class Mixed(Stream[T]):
    """Each example is drawn from one of the streams, by weight. A stream that a pass left in its middle goes on there in
    the next one. ``taken``: how many examples of each stream this pass has given."""

    def __init__(
        self, streams: Sequence[Stream[T]], weights: Sequence[float], *, seed: int, ended: Ended = "stop"
    ) -> None:
        """Raises UsageError where weights and streams do not fit."""
        if len(streams) != len(weights) or not streams:
            raise UsageError(f"{len(streams)} streams have {len(weights)} weights", "Give each stream one weight.")
        if not all(0 < weight < float("inf") for weight in weights):
            raise UsageError(f"the weights are {list(weights)}", "A weight is a number above 0.")
        if ended not in ("stop", "repeat", "drop"):
            raise UsageError(f"{ended!r} is not what a mix does when a stream ends", "Say stop, repeat or drop.")
        self.streams, self.weights, self.seed, self.ended = list(streams), list(weights), seed, ended
        self._round = 0
        self._begin()

    def _begin(self) -> None:
        self.taken = [0] * len(self.streams)
        self._over = [False] * len(self.streams)  # read to its end in this pass

    def __iter__(self) -> Iterator[T]:
        sources = [iter(stream) for stream in self.streams]
        anew = [False] * len(sources)  # begun again, and nothing given since
        while (drawn := self._draw()) is not None:
            for example in sources[drawn]:
                self.taken[drawn] += 1
                anew[drawn] = False
                yield example
                break
            else:
                if anew[drawn]:
                    raise DataError("a stream of the mix has no examples", "Leave it out, or give it some.")
                sources[drawn] = iter(self.streams[drawn])
                self._over[drawn] = anew[drawn] = True
        self._round += 1
        self._begin()

    def _draw(self) -> int | None:
        """The stream of the next example; None where the pass has ended. The same for the same position, each time."""
        if all(self._over) or (self.ended == "stop" and any(self._over)):
            return None
        live = [not (over and self.ended == "drop") for over in self._over]
        weights = [weight if alive else 0.0 for weight, alive in zip(self.weights, live, strict=True)]
        random = Random(f"{self.seed}/{self._round}/{sum(self.taken)}")
        return random.choices(range(len(weights)), weights)[0]

    def state(self) -> dict[str, Any]:
        return {
            "streams": [stream.state() for stream in self.streams],
            "round": self._round,
            "taken": list(self.taken),
            "over": list(self._over),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if len(state["streams"]) != len(self.streams):
            raise DataError(
                f"the position is that of {len(state['streams'])} streams, here are {len(self.streams)}",
                "Go on with the data that it began with, or begin anew.",
            )
        for stream, position in zip(self.streams, state["streams"], strict=True):
            stream.restore(position)
        self._round, self.taken, self._over = state["round"], list(state["taken"]), list(state["over"])
