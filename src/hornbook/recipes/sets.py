"""The recipe's data, encoded: what is learnt from and what is held out, each a table on disk in the run's folder.

    sources --read--> examples --split by document--> encode --> RUN/encoded/train, RUN/encoded/held-out

Encoded once: the same files, tokenizer and settings find their tables again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from hornbook.recipes.config import Recipe
from hornbook.recipes.job import Place

if TYPE_CHECKING:
    from hornbook.data.encode import Encoder
    from hornbook.data.encoded import Account
    from hornbook.data.example import Example
    from hornbook.data.feed import Feed
    from hornbook.data.table import Table
    from hornbook.text.tokenizer import Tokenizer
    from hornbook.train.batch import Batch

IN_MEMORY = 256 << 20  # bytes of files; larger ones are gone through twice, each example judged by itself
FeedOf = Callable[["Table", int], "Feed"]  # (table, seed) -> its batches


@dataclass
class Sets:
    """``few``: some of the held-out examples as they were read; ``skipped``: malformed lines that were passed over."""

    train: Table
    validation: Table | None
    feed_of: FeedOf
    seed: int
    skipped: int
    few: tuple[Example, ...] = ()
    rank: int = 0  # of processes that train together, which of the batches are this one's,
    world: int = 1  # of how many

    @property
    def account(self) -> Account:
        return self.train.account

    @property
    def held_out(self) -> int:
        return 0 if self.validation is None else self.validation.account.examples

    @cached_property
    def epoch_batches(self) -> int:
        return self.feed().epoch_batches

    def feed(self) -> Feed:
        return self._shared(self.feed_of(self.train, self.seed))

    def held_out_batches(self) -> Iterator[Batch]:
        assert self.validation is not None, "nothing was held out"
        return self._shared(self.feed_of(self.validation, 0)).once()

    def _shared(self, feed: Feed) -> Feed:
        feed.rank, feed.world = self.rank, self.world
        return feed

    def to_json(self) -> dict[str, Any]:
        """For the run's data.json."""
        held = None if self.validation is None else self.validation.account.to_json()
        return {
            "fingerprint": self.train.fingerprint,
            "train": self.account.to_json(),
            "held_out": held,
            "skipped": self.skipped,
        }


def make(
    recipe: Recipe,
    place: Place,
    encoder: Callable[[], Encoder],
    feed_of: FeedOf,
    tokenizer: Tokenizer,
    *,
    change: Callable[[Example], Example] = lambda example: example,
    said: str = "",
    few: int = 0,
) -> Sets:
    """Read, split, encode. ``change``: of each example before it is encoded, which ``said`` describes; ``few``: see Sets.

    Raises DataError as reading, splitting and encoding do.
    """
    from hornbook.data.read import files
    from hornbook.data.table import Table, fingerprint

    data, seed = recipe.data, recipe.training.seed
    reader = Reader(recipe)
    words = [encoder().identity, said, str(tokenizer.vocab_size), _identity(tokenizer)]
    words.append(json.dumps([data.model_dump(mode="json"), seed], sort_keys=True))
    sources = [*reader.train, *reader.validation]
    print_of = fingerprint([path for source in sources for path in files(source)], *words)
    folder = place.folder / "encoded"

    def table(name: str, examples: Callable[[], Iterable[Example]]) -> Table:
        found = Table.find(folder / name, f"{name} {print_of}")
        if found is not None:
            return found
        encode = encoder()
        rows = encode.many(map(change, examples()))
        return Table.write(
            folder / name,
            rows,
            fingerprint=f"{name} {print_of}",
            account=encode.account,
            vocab_size=tokenizer.vocab_size,
        )

    train = table("train", reader.learnt)
    validation = table("held-out", reader.held_out) if reader.holds_out else None
    skipped = folder / "skipped"  # lines, counted as the tables were made
    if not skipped.exists() or reader.count_skipped():
        skipped.write_text(str(reader.count_skipped()), "utf-8")
    shown = tuple(map(change, islice(reader.held_out(), few))) if few and reader.holds_out else ()
    return Sets(train, validation, feed_of, seed, int(skipped.read_text("utf-8")), shown)


class Reader:
    """The examples of a recipe's sources."""

    def __init__(self, recipe: Recipe) -> None:
        from hornbook.data.read import Source

        def taken(sources: Sequence[Any]) -> list[Source]:
            return [Source(s.path, s.shape, s.fields, s.weight, s.split) for s in sources]

        self.data, self.seed = recipe.data, recipe.training.seed
        self.train = taken(self.data.train)
        apart = self.data.validation
        self.validation = taken(apart) if isinstance(apart, list) else []
        self.share: float | int = 0 if isinstance(apart, list) else apart
        self._skipped: set[str] = set()
        self._sides: tuple[list[Example], list[Example]] | None = None

    @property
    def holds_out(self) -> bool:
        return bool(self.validation) or self.share > 0

    def learnt(self) -> Iterator[Example]:
        """What is learnt from."""
        return self._side(held_out=False) if self.share else self._mixed()

    def held_out(self) -> Iterator[Example]:
        return self._all(self.validation) if self.validation else self._side(held_out=True)

    def count_skipped(self) -> int:
        return len(self._skipped)

    def _all(self, sources: Sequence[Any]) -> Iterator[Example]:
        from hornbook.data.read import read

        return read(sources, malformed=self.data.malformed, skipped=self._skip)

    def _skip(self, at: object, why: str) -> None:
        self._skipped.add(str(at))

    def _mixed(self) -> Iterator[Example]:
        """All sources, one behind the other or, where their weights differ, mixed by them."""
        from hornbook.data.mix import Mixed
        from hornbook.data.stream import Files

        weights = [source.weight for source in self.train]
        if len(set(weights)) == 1:
            return self._all(self.train)
        streams = [Files(source, malformed=self.data.malformed, skipped=self._skip) for source in self.train]
        return iter(Mixed(streams, weights, seed=self.seed, ended=self.data.ended))

    def _side(self, *, held_out: bool) -> Iterator[Example]:
        from hornbook.data import split
        from hornbook.data.read import files

        size = sum(path.stat().st_size for source in self.train for path in files(source))
        if isinstance(self.share, float) and size > IN_MEMORY:
            share = self.share
            return (one for one in self._mixed() if split.held_out(one, share, self.seed) == held_out)
        if self._sides is None:
            self._sides = split.split(self._mixed(), self.share, self.seed)
        return iter(self._sides[held_out])


def _identity(tokenizer: Tokenizer) -> str:
    """What tells one tokenizer from another."""
    return hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest()
