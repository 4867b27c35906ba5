"""The models of one server: loaded when they are asked for, put away when nobody has used them for a while or room is needed.

    lease(name) --> Loaded, in use until it is released --> idle --keep_alive--> unloaded
                      |                                       ^ least recently used first, where another needs its memory
                      +-- not loaded: predicted need, room made, loaded once however many ask

All of it happens in the event loop, so that the books need no lock; what blocks is done in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anyio

from hornbook.checkpoint.machine import available
from hornbook.errors import UsageError
from hornbook.serve.errors import Busy, NoRoom
from hornbook.serve.loaded import Loaded, Resident, load_model, predicted
from hornbook.serve.metrics import Books, Metrics
from hornbook.serve.options import Options
from hornbook.serve.shelf import Listed, Shelf
from hornbook.serve.writing import Writer
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.checkpoint.store import Entry

log = logging.getLogger("hornbook.serve")
WANTED = 1.0  # seconds in which somebody must take what was loaded
CACHE_SHARE = 4  # where the memory of models is limited, keys and values of one get a part in so many of it, at most


@dataclass(frozen=True, slots=True)
class Running:
    """A model in memory. ``expires``: when it goes if nobody asks; None: not by itself, or it is in use."""

    name: str
    bytes: int
    users: int
    expires: datetime | None
    entry: Entry
    context_length: int


class Models:
    """``load`` and ``predict`` block; tests bring their own."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        metrics: Metrics,
        *,
        paths: tuple[Path, ...] = (),
        load: Callable[[Entry, Settings, int], Any] | None = None,
        predict: Callable[[Entry, Settings, int], int] | None = None,
    ) -> None:
        if options.memory is not None and not settings.cache_mb:
            settings = settings.model_copy(update={"cache_mb": max(16, options.memory / CACHE_SHARE / 2**20)})
        self.shelf = Shelf(settings, paths)
        self.settings = settings
        self.options = options
        self.metrics = metrics
        metrics.books = self._books
        self.more: list[Callable[[], Iterable[Listed]]] = []  # names that other rooms answer to
        self._load_model = load or load_model
        self._predict = predict or predicted
        self._residents: dict[str, Resident] = {}
        self._loading: dict[str, asyncio.Task[Resident]] = {}
        self._promised: dict[str, int] = {}  # to those that are being loaded
        self._going = 0  # bytes of those that are being unloaded
        self._room = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    # --- asking

    async def lease(
        self, name: str, *, kind: Literal["llm", "embedder"] | None = None, keep_alive: float | None = None
    ) -> Loaded:
        """The model of that name, in use until it is released; loaded now if it is not. ``keep_alive``: from then on, seconds
        that it stays unused (0: unloaded at once, below 0: for ever); None: as it was.

        Raises ModelNotFound, NoRoom with the numbers, UsageError where it is of the other kind, Busy when the server stops,
        and what loading raises.
        """
        self._loop = asyncio.get_running_loop()
        meaning = await anyio.to_thread.run_sync(self.shelf.find, name)
        if kind is not None and meaning.entry.kind not in (kind, "unknown"):
            wanted = {"llm": "a language model", "embedder": "an embedding model"}
            raise UsageError(f"{name} is not {wanted[kind]}", f"Name {wanted[kind]}.")
        resident = await self._resident(meaning.entry)
        try:
            if meaning.adapter is not None:
                await self._adapt(resident, *meaning.adapter)
            return Loaded(self, resident, meaning, keep_alive)
        except BaseException:
            self.give_back(resident)
            raise

    async def _resident(self, entry: Entry) -> Resident:
        """Loaded, and with one user more."""
        while True:
            if self._stopping:
                raise Busy("the server is being stopped", "Ask again when it runs.")
            resident = self._residents.get(entry.name)
            if resident is None:
                task = self._loading.get(entry.name)
                if task is None:
                    task = asyncio.ensure_future(self._bring(entry))
                    self._loading[entry.name] = task
                    task.add_done_callback(self._brought)
                await asyncio.shield(task)  # one who goes does not stop what others wait for
                continue
            resident.users += 1
            resident.expires = None
            if resident.timer is not None:
                resident.timer.cancel()
                resident.timer = None
            return resident

    def give_back(self, resident: Resident, keep_alive: float | None = None) -> None:
        resident.users -= 1
        assert self._loop is not None
        resident.used = self._loop.time()
        if keep_alive is not None:
            resident.keep = keep_alive
        if not resident.users:
            self._rest(resident)

    def _rest(self, resident: Resident) -> None:
        """Nobody uses it: it goes now, or later, or not at all."""
        assert self._loop is not None
        if resident.leaving or resident.keep == 0:
            self._put_away(resident)
        elif resident.keep > 0:
            resident.expires = datetime.now(UTC) + timedelta(seconds=min(resident.keep, 10**9))
            resident.timer = self._loop.call_later(resident.keep, self._put_away, resident)

    def soon(self, work: Callable[[], None]) -> None:
        """From any thread, a finaliser's too."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)

    # --- loading

    def _brought(self, task: asyncio.Task[Resident]) -> None:
        """A load has ended. Where all have gone who waited for it, its time runs from now, and its error is nobody's."""
        for name in [name for name, one in self._loading.items() if one is task]:
            del self._loading[name]
        if task.cancelled() or task.exception() is not None:
            return
        resident = task.result()

        def unwanted() -> None:
            if not resident.users and resident.timer is None:
                self._rest(resident)

        assert self._loop is not None
        self._loop.call_later(WANTED, unwanted)

    async def _bring(self, entry: Entry) -> Resident:
        need = await anyio.to_thread.run_sync(self._predict, entry, self.settings, self.options.max_running)
        async with self._room:  # one at a time makes room; loading itself goes side by side
            await self._make_room(entry.name, need)
            self._promised[entry.name] = need
        begun = asyncio.get_running_loop().time()
        try:
            model = await anyio.to_thread.run_sync(self._load_model, entry, self.settings, self.options.max_running)
        finally:
            del self._promised[entry.name]
        resident = Resident(entry, need, self.options.keep_alive, used=begun)
        if hasattr(model, "embed"):
            resident.embedder = model
        else:
            most = self.options.max_running + self.options.max_waiting
            resident.llm = model
            resident.writer = Writer(
                model,
                most=most,
                timeout=self.options.timeout_s,
                metrics=self.metrics,
                log_prompts=self.options.log_prompts,
            )
        self._residents[entry.name] = resident
        seconds = round(asyncio.get_running_loop().time() - begun, 3)
        log.info("loaded", extra={"model": entry.name, "seconds": seconds, "bytes": need})
        return resident

    async def _make_room(self, name: str, need: int) -> None:
        """Unload idle models, least recently used first, until the need fits; none at all where that would not help."""
        while True:
            free = await self._free()
            idle = sorted((r for r in self._residents.values() if not r.users), key=lambda r: r.used)
            if free is None or free >= need:
                return
            if free + sum(r.bytes for r in idle) < need:
                raise self._no_room(name, need, self.options.memory)
            log.info("unloading for room", extra={"model": idle[0].entry.name, "room_for": name})
            await self._unload(idle[0])

    async def _free(self) -> int | None:
        """Bytes that another model could have now; None where nobody can tell."""
        taken = sum(self._promised.values()) + self._going
        if self.options.memory is not None:
            return self.options.memory - taken - sum(r.bytes for r in self._residents.values())
        left = await anyio.to_thread.run_sync(available)
        return None if left is None else left - sum(self._promised.values())

    def _no_room(self, name: str, need: int, budget: int | None) -> NoRoom:
        busy = [r for r in self._residents.values() if r.users]
        told = ", ".join(f"{r.entry.name} {_gb(r.bytes)}" for r in busy)
        most = f"models may take {_gb(budget)}" if budget is not None else "this machine has less to give"
        what = f"{name} needs up to {_gb(need)} of memory; {most}" + (f", of which in use: {told}" if told else "")
        if busy:
            return NoRoom(what, "Try again when those are idle, or start the server with more --memory.")
        return NoRoom(what, "Start the server with more --memory, set HORNBOOK_CACHE_MB lower, or use a smaller model.")

    # --- unloading

    def _put_away(self, resident: Resident) -> None:
        task = asyncio.ensure_future(self._unload(resident))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unload(self, resident: Resident) -> None:
        if resident.users or self._residents.get(resident.entry.name) is not resident:
            return
        del self._residents[resident.entry.name]
        if resident.timer is not None:
            resident.timer.cancel()
        self._going += resident.bytes
        try:
            await anyio.to_thread.run_sync(resident.close)
        finally:
            self._going -= resident.bytes
        log.info("unloaded", extra={"model": resident.entry.name})

    async def unload(self, name: str) -> bool:
        """Put a model away: now, or when those who use it have done. -> whether it was loaded. Raises ModelNotFound."""
        meaning = await anyio.to_thread.run_sync(self.shelf.find, name)
        resident = self._residents.get(meaning.entry.name)
        if resident is None:
            return False
        if resident.users:
            resident.leaving = True
        else:
            await self._unload(resident)
        return True

    async def drain(self, seconds: float) -> bool:
        """Lease nothing more, and give what runs so much time; then end it with an error. -> whether all had ended by itself."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while any(r.users for r in self._residents.values()) and loop.time() < until:
            await asyncio.sleep(0.05)
        late = [r for r in self._residents.values() if r.users]
        for resident in late:
            if resident.writer is not None:
                resident.writer.fail(
                    Busy("the server was stopped before the answer was done", "Ask again when it runs.")
                )
        return not late

    async def close(self) -> None:
        """Unload everything, in use or not."""
        self._stopping = True
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        residents = list(self._residents.values())
        self._residents.clear()
        for resident in residents:
            if resident.timer is not None:
                resident.timer.cancel()
            await anyio.to_thread.run_sync(resident.close)
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- adapters

    async def _adapt(self, resident: Resident, name: str, folder: Path) -> None:
        """Have an adapter in a model's memory. Raises what reading it raises, UsageError where it is for another base."""
        if resident.llm is None:
            raise UsageError(f"{resident.entry.name} takes no adapters", "Leave the adapter out of the name.")
        async with resident.adapting:
            if name not in resident.adapters:
                await anyio.to_thread.run_sync(resident.llm.add_adapter, name, folder)
                resident.adapters[name] = folder

    async def forget_adapter(self, name: str) -> int:
        """Take an adapter out of every model's memory. -> of how many. Raises UsageError where requests use it."""
        count = 0
        for resident in list(self._residents.values()):
            async with resident.adapting:
                if name in resident.adapters and resident.llm is not None:
                    await anyio.to_thread.run_sync(resident.llm.remove_adapter, name)
                    del resident.adapters[name]
                    count += 1
        return count

    def with_adapter(self, name: str) -> list[str]:
        """The models that have an adapter in memory."""
        return [r.entry.name for r in self._residents.values() if name in r.adapters]

    # --- telling

    async def listed(self) -> list[Listed]:
        """Every name that can be asked for, by name."""

        def found() -> list[Listed]:
            return [*self.shelf.listed(), *(one for source in self.more for one in source())]

        return sorted(await anyio.to_thread.run_sync(found), key=lambda one: one.name)

    def running(self) -> list[Running]:
        return [
            Running(
                r.entry.name, r.bytes, r.users, r.expires, r.entry,
                r.llm.context_length if r.llm is not None else r.embedder.max_tokens if r.embedder is not None else 0,
            )
            for r in self._residents.values()
        ]  # fmt: skip

    def _books(self) -> list[Books]:
        return [Books(r.entry.name, r.bytes, r.stats()) for r in self._residents.values()]


def _gb(count: int | None) -> str:
    return f"{(count or 0) / 1e9:.2f} GB"
