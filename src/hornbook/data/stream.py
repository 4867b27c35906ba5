"""Streams: examples one after the other, in bounded memory, that can be left anywhere and gone on with exactly there.

    stream = Shuffled(Files(Source("corpus/*.jsonl.zst")), buffer=10_000, seed=7)
    for example in stream: ...            # one pass
    position = stream.state()             # JSON; after restore(position) another such stream gives the same rest

What every stream holds to: iterating goes on from where it stands to the end of its pass; it then stands at the beginning
of the next. After an example was given, the state is that behind it. A seed and a position decide all that follows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Any, Protocol, TypeVar

from hornbook.data.example import Example
from hornbook.data.read import Malformed, Skipped, Source, examples, files
from hornbook.errors import DataError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Stream(Protocol[T_co]):
    """``state()`` can be written as JSON; ``restore`` takes what it gave, also in another process."""

    def __iter__(self) -> Iterator[T_co]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Listed(Stream[T]):
    """What is in memory already."""

    def __init__(self, items: Sequence[T]) -> None:
        self.items = items
        self._at = 0

    def __iter__(self) -> Iterator[T]:
        while self._at < len(self.items):
            self._at += 1
            yield self.items[self._at - 1]
        self._at = 0

    def state(self) -> dict[str, Any]:
        return {"at": self._at}

    def restore(self, state: Mapping[str, Any]) -> None:
        if not 0 <= state["at"] <= len(self.items):
            raise DataError(
                f"the position is behind {state['at']} examples, of which there are {len(self.items)}",
                "Go on with the data that it began with, or begin anew.",
            )
        self._at = state["at"]


class Files(Stream[Example]):
    """The examples of a source, file by file. A position is refused where the files are others, or of another size."""

    def __init__(self, source: Source, *, malformed: Malformed = "stop", skipped: Skipped | None = None) -> None:
        self.source, self.malformed, self.skipped = source, malformed, skipped
        self._files = files(source)
        told = "\n".join(f"{path.name} {path.stat().st_size}" for path in self._files)
        self._told = hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._file, self._next = 0, (0, 0)

    def __iter__(self) -> Iterator[Example]:
        while self._file < len(self._files):
            path = self._files[self._file]
            reading = examples(path, self.source, malformed=self.malformed, skipped=self.skipped, start=self._next)
            for at in reading:
                self._next = (at.record, at.within + 1)
                yield at.example
            self._file, self._next = self._file + 1, (0, 0)
        self._file = 0

    def state(self) -> dict[str, Any]:
        return {"files": self._told, "file": self._file, "next": list(self._next)}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["files"] != self._told:
            raise DataError(
                f"the files of {self.source.path} are not those that the position was in",
                "Go on with the data that it began with, or begin anew.",
            )
        self._file, self._next = state["file"], (state["next"][0], state["next"][1])


class Kept(Stream[T]):
    """Those of a stream for which ``keep`` is true."""

    def __init__(self, stream: Stream[T], keep: Callable[[T], bool]) -> None:
        self.stream, self.keep = stream, keep

    def __iter__(self) -> Iterator[T]:
        return filter(self.keep, self.stream)

    def state(self) -> dict[str, Any]:
        return self.stream.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.stream.restore(state)


class Shuffled(Stream[T]):
    """Blocks of ``buffer`` examples, the order in each drawn anew in each pass; no more than one is in memory.

        stream   a b c d | e f g h | i j       -->    c a d b | h e g f | j i

    The first block of a pass has a length drawn by the seed, so that the blocks of two passes are cut differently. A
    position is that of a block and the place in it: after ``restore`` the block is read and ordered once more.
    """

    def __init__(self, stream: Stream[T], *, buffer: int, seed: int) -> None:
        if buffer < 1:
            raise DataError(f"a buffer of {buffer} holds nothing to shuffle", "Give a buffer of 1 or more.")
        self.stream, self.buffer, self.seed = stream, buffer, seed
        self._round, self._block, self._at = 0, 0, 0
        self._start = stream.state()

    def __iter__(self) -> Iterator[T]:
        self.stream.restore(self._start)
        source = iter(self.stream)
        ended = False
        while not ended:
            random = Random(f"{self.seed}/{self._round}/{self._block}")
            size = random.randint(1, self.buffer) if self._block == 0 else self.buffer
            block = list(islice(source, size))
            ended = len(block) < size
            random.shuffle(block)
            while self._at < len(block):
                self._at += 1
                yield block[self._at - 1]
            self._start = self.stream.state()
            self._block, self._at = self._block + 1, 0
        self._round, self._block = self._round + 1, 0

    def state(self) -> dict[str, Any]:
        return {"stream": self._start, "round": self._round, "block": self._block, "at": self._at}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.stream.restore(state["stream"])
        self._start = state["stream"]
        self._round, self._block, self._at = state["round"], state["block"], state["at"]
