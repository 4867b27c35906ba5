"""Who owns which page of the cache, and which pages hold a beginning that another sequence can use.

A page holds the keys and values of 16 tokens. It is in one of three states:

    free    --take-->  owned (1 or more references)  --release-->  cached (its contents are known)  --evicted-->  taken anew
                                                     --release-->  free   (they are not: it is not full)

    sequence A   [The quick .. ] [brown fox .. ] [jumps            ]
    sequence B   [      ^      ] [      ^      ] [sleeps           ]     full pages are shared, the last is its own
                    2 owners        2 owners

A full page is *known* by its own 16 tokens and the known page before it, or the salt where it is the first; so that equal
keys mean an equal whole beginning, compared token by token, and no trust is put in a hash. A salt keeps apart what the
same tokens do not make equal, such as adapters.

Cached pages are evicted in the order of their last use. A sequence gives its pages back last page first, so that the
oldest page has no known successor, and what is evicted never leaves an orphan.

Source: vLLM's paged cache (Kwon et al. 2023, arXiv 2309.06180, sections 4.1 and 4.4), whole blocks as the unit of sharing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeAlias

from hornbook.engine.executor import PAGE

Key: TypeAlias = "tuple[int | tuple[Hashable], tuple[int, ...]]"  # (the page before, or (salt,); 16 tokens)


def pages_of(tokens: int) -> int:
    """How many pages so many tokens need."""
    return -(-tokens // PAGE)


class Pages:
    """The books of pages 0 .. count - 1. A sequence's own list of pages is called its table."""

    def __init__(self, count: int, *, share: bool = True) -> None:
        self.count = count
        self.share = share
        self.hit_tokens = 0  # that did not have to be computed
        self.changes = 0  # goes up whenever pages became available or known: time to look again for who waits for some
        self.reset()

    def reset(self) -> None:
        """All pages are free and nothing is known of any."""
        self.changes += 1
        self._free = list(range(self.count - 1, -1, -1))
        self._references = [0] * self.count
        self._key: list[Key | None] = [None] * self.count
        self._known: dict[Key, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # known, not owned; the longest unused first

    # --- numbers

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def cached(self) -> int:
        return len(self._cached)

    @property
    def used(self) -> int:
        return self.count - len(self._free) - len(self._cached)

    @property
    def available(self) -> int:
        """Pages that `take` can give."""
        return len(self._free) + len(self._cached)

    # --- taking and giving back

    def take(self, count: int) -> list[int] | None:
        """``count`` pages of one's own, or None where there are not so many: then nothing has changed."""
        if count > self.available:
            return None
        taken = []
        for _ in range(count):
            page = self._free.pop() if self._free else self._evict()
            self._references[page] = 1
            taken.append(page)
        return taken

    def release(self, table: list[int]) -> None:
        """Give back all pages of a table, and empty it."""
        while table:
            self._drop(table.pop())
        self.changes += 1

    def truncate(self, table: list[int], length: int) -> None:
        """Keep the pages of the first ``length`` tokens. What is cut must not have been published."""
        keep = pages_of(length)
        while len(table) > keep:
            self._drop(table.pop())
        assert length % PAGE == 0 or self._key[table[-1]] is None, "a known page cannot be filled in another way"
        self.changes += 1

    def fork(self, table: Sequence[int], length: int) -> tuple[list[int], tuple[int, int] | None] | None:
        """A second table for the same ``length`` tokens: full pages are shared, a partly filled one is to be copied.

        -> (table, (source, target) of the copy to be made or None), or None where no page is left for the copy.
        """
        full = length // PAGE
        copy = None
        own: list[int] = []
        if length % PAGE:
            taken = self.take(1)
            if taken is None:
                return None
            own, copy = taken, (table[full], taken[0])
        for page in table[:full]:
            self._references[page] += 1
        return [*table[:full], *own], copy

    def _hold(self, page: int) -> None:
        if not self._references[page]:
            del self._cached[page]
        self._references[page] += 1

    def _drop(self, page: int) -> None:
        self._references[page] -= 1
        if self._references[page]:
            return
        if self._key[page] is None:
            self._free.append(page)
        else:
            self._cached[page] = None

    def _evict(self) -> int:
        page, _ = self._cached.popitem(last=False)
        key = self._key[page]
        assert key is not None
        del self._known[key]
        self._key[page] = None
        return page

    # --- sharing

    def key(self, table: Sequence[int], ids: Sequence[int], salt: Hashable) -> Key:
        """Of the page after ``table``, whose pages are all full: what it would be known by once ``ids`` fill it."""
        begin = len(table) * PAGE
        return table[-1] if table else (salt,), tuple(ids[begin : begin + PAGE])

    def match(self, ids: Sequence[int], salt: Hashable, limit: int) -> list[int]:
        """Hold the known pages with which ``ids`` begins, at most those within the first ``limit`` tokens."""
        table: list[int] = []
        while (page := self.known_after(table, ids, salt, limit)) is not None:
            self._hold(page)
            table.append(page)
        return table

    def known_after(self, table: Sequence[int], ids: Sequence[int], salt: Hashable, limit: int) -> int | None:
        """The known page that goes on where ``table`` ends, all of it within the first ``limit`` tokens."""
        if not self.share or (len(table) + 1) * PAGE > limit:
            return None
        return self._known.get(self.key(table, ids, salt))

    def exchange(self, table: list[int], index: int, page: int) -> None:
        """Use the known ``page`` in the place of one's own ``table[index]``, which has the same contents or none yet."""
        self._hold(page)
        self._drop(table[index])
        table[index] = page
        self.changes += 1

    def publish(self, table: list[int], index: int, ids: Sequence[int], salt: Hashable) -> None:
        """Make page ``index`` of a table, which ``ids`` fill, known to others. The pages before it are known already.

        Where another page is known with the same contents, that one takes its place in the table and this one is dropped.
        """
        if not self.share:
            return
        page, key = table[index], self.key(table[:index], ids, salt)
        known = self._known.setdefault(key, page)
        if known != page:
            self.exchange(table, index, known)
        else:
            self._key[page] = key
            self.changes += 1

    def distrust(self, table: Sequence[int]) -> None:
        """Forget what the pages hold that no other table has, and every page that goes on from one of them."""
        doubtful = [page for page in table if self._references[page] == 1]
        if not any(self._key[page] is not None for page in doubtful):
            return
        successors: defaultdict[int, list[int]] = defaultdict(list)
        for (before, _), page in self._known.items():
            if isinstance(before, int):
                successors[before].append(page)
        while doubtful:
            page = doubtful.pop()
            doubtful += successors.pop(page, ())
            key = self._key[page]
            if key is not None:
                del self._known[key]
                self._key[page] = None
                if page in self._cached:
                    del self._cached[page]
                    self._free.append(page)

    # --- proof

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Hold the books against the tables of all sequences. Raises AssertionError where they differ."""
        owners: Counter[int] = Counter()
        for table in tables:
            assert len(set(table)) == len(table), f"a table has a page twice: {list(table)}"
            owners.update(table)
        for page, references in enumerate(self._references):
            assert references == owners[page], f"page {page} has {references} references and {owners[page]} owners"
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a page is free twice"
        assert not free & cached and not (free | cached) & set(owners), "a page is in two states"
        assert len(free) + len(cached) + len(owners) == self.count, "a page is in no state"
        assert all(self._key[page] is None for page in free), "a free page is known"
        assert all(self._key[page] is not None for page in cached), "a cached page is not known"
        assert {key: page for page, key in enumerate(self._key) if key is not None} == self._known
        age = {page: place for place, page in enumerate(self._cached)}
        for page in self._known.values():
            parent = self._key[page][0]  # type: ignore[index]
            if isinstance(parent, int):
                assert self._key[parent] is not None, f"page {page} is an orphan"
                if page in age:
                    assert age.get(parent, self.count) > age[page], (
                        f"page {parent} would be evicted before its successor"
                    )
                else:
                    assert owners[parent], f"page {page} is owned and its beginning is not"
