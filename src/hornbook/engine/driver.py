"""Many threads, one engine: each waits for its own answers, and one of those that wait steps for all.

    thread 1   next(stream) --leads--> step, step, step ... its own event --> hands over, returns
    thread 2   next(stream) --waits----------------> its event
    thread 3   next(stream) --waits------------------------------------------leads--> step, ...

There is no thread in the background: while nobody waits, nothing runs. A stream that is closed or dropped cancels what it
asked for, and its pages come back at once, or with the step that is running.

The child of a fork goes on with the thread that forked. Where nobody else stepped, that thread's streams go on in it too, and
known pages stay known. Where another thread did, its books are half-written: the child's engine begins anew, and streams
from before fail by name.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hornbook.engine.engine import Engine
from hornbook.engine.requests import Event, Handle, Request
from hornbook.errors import GenerationError, ModelClosed
from hornbook.forking import Lock, in_child, is_held, reopen


class Driver:
    """Lets any number of threads use one engine, which nobody else may step."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._lock = threading.RLock()  # which knows who holds it; it is never taken twice
        self._stepping = False
        self._leader = 0  # the thread that does, or has it alone
        self._reserved: set[int] = set()  # the threads that wait to have the engine alone
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._waiting: dict[Stream, None] = {}  # asleep, in the order they came
        self._idle = threading.Condition(self._lock)  # told when a step has ended
        in_child(self._begin_child)

    def ask(self, requests: Sequence[Request]) -> Stream:
        """Submit requests together. Raises what Engine.submit raises, before any work, and then asks for none of them."""
        stream = self.stream()
        try:
            for request in requests:
                self.join(stream, request)
        except BaseException:
            stream.close()
            raise
        return stream

    def stream(self) -> Stream:
        """A stream of nothing yet, which ``join`` adds requests to."""
        stream = Stream(self)
        self._streams.add(stream)
        return stream

    def join(self, stream: Stream, request: Request) -> Handle:
        """Submit a request whose events the stream gets, beside those that it has. Raises what Engine.submit raises."""
        return self.engine.submit(request, stream.add)

    @contextmanager
    def alone(self, *, at_once: bool = False) -> Iterator[Engine]:
        """The engine between two steps: to load or forget an adapter, to read its books. ``at_once``: nothing need come of the
        step that runs."""
        with self._lock:
            self._reserved.add(threading.get_ident())
            try:
                if at_once and self._stepping:
                    self.engine.stop()
                while self._stepping:
                    self._idle.wait()
            except BaseException:
                self._reserved.discard(threading.get_ident())
                self._idle.notify()  # what woke this one was meant for another then
                self._hand_over()
                raise
            self._reserved.discard(threading.get_ident())
            self._begin_step()
        try:
            yield self.engine
        finally:
            with self._lock:
                self._stepping = False
                self._idle.notify()
                self._hand_over()

    def close(self) -> None:
        """Free the model's memory. Streams that are open end with ModelClosed, and so does any later use."""
        with self.alone(at_once=True) as engine:
            engine.close()
        with self._lock:
            for stream in self._waiting:
                stream.awake.notify()

    # --- for streams

    def wait(self, stream: Stream) -> None:
        """Return when something has happened to the stream, or nothing more can. Raises ModelClosed."""
        with self._lock:
            try:
                while not stream.events and stream.open:
                    if self.engine.closed:
                        raise ModelClosed("the model was closed", "Load it again.")
                    if self._stepping or self._reserved:
                        self._sleep(stream)
                    else:
                        self._lead()
            finally:  # also where it is interrupted, just when it was woken to lead
                self._hand_over()

    def _sleep(self, stream: Stream) -> None:
        self._waiting[stream] = None
        try:
            stream.awake.wait()
        finally:
            self._waiting.pop(stream, None)

    def _lead(self) -> None:
        """One step for all. The lock is held before and after, and not meanwhile, whatever interrupts the step."""
        events: list[Event] = []
        self._begin_step()
        try:
            self._lock.release()
            try:
                events = self.engine.step()
            finally:
                _acquire(self._lock)
        finally:
            self._stepping = False
            self._deliver(events)
            self._idle.notify()

    def _begin_step(self) -> None:
        self._leader = threading.get_ident()
        self._stepping = True

    def forget(self, stream: Stream, *, patient: bool) -> None:
        """Cancel what a stream still waits for. ``patient``: wait for the lock, which a finaliser must not."""
        for handle in tuple(stream.open):
            self.engine.cancel(handle)
        stream.open.clear()
        if is_held(self._lock):  # by this very thread: a finaliser came in between; what it cancelled is found later
            return
        if self._lock.acquire(blocking=patient):
            try:
                if stream in self._waiting:  # another thread reads it
                    stream.awake.notify()
                self._hand_over()
            finally:
                self._lock.release()

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            stream = event.handle.listener() if event.handle.listener else None
            if stream is None or event.handle not in stream.open:
                continue
            stream.events.append(event)
            if event.last:
                stream.open.discard(event.handle)
            if stream in self._waiting:
                stream.awake.notify()

    def _hand_over(self) -> None:
        """Where nobody steps: take back what was cancelled meanwhile, and wake one that has nothing, so that it leads."""
        if self._stepping:
            return
        if self.engine.pending_cancels and not self.engine.closed:
            self._deliver(self.engine.sweep())
        for stream in self._waiting:
            if not stream.events:
                stream.awake.notify()
                return

    # --- in the child of a fork

    def _begin_child(self) -> None:
        """Only the thread that forked goes on here. What others had asked for is over; what they were in the middle of is
        half-done, and nothing of it is used."""
        me = threading.get_ident()
        was_held = reopen(self._lock)
        half_done = self._leader != me if self._stepping else was_held
        if half_done:
            self._stepping = False
            self.engine.begin_anew()
        self._reserved &= {me}
        with self._lock:
            for stream in list(self._streams):
                stream.awake.notify_all()  # a signal's handler may have forked during a wait, which then goes on here
                if half_done or stream.reader != me:
                    self._lose(stream)
            self._idle.notify_all()

    def _lose(self, stream: Stream) -> None:
        what = "the request was under way when this process forked from its parent, where it goes on"
        for handle in tuple(stream.open):
            self.engine.cancel(handle)
            error = GenerationError(what, "Ask again in this process, with the same model.")
            stream.events.append(Event(handle, error=error, last=True))
        stream.open.clear()
        self._waiting.pop(stream, None)


class Stream:
    """The events of some requests, in the order they happen, each with its request's place. For one thread at a time."""

    def __init__(self, driver: Driver) -> None:
        self.events: deque[Event] = deque()
        self.open: set[Handle] = set()
        self.awake = threading.Condition(driver._lock)
        self.reader = threading.get_ident()  # the thread that reads it, or has asked for it
        self._driver = driver
        self._places: dict[Handle, int] = {}

    def add(self, handle: Handle) -> None:
        handle.listener = weakref.ref(self)  # the engine keeps no stream that its reader has dropped
        self._places[handle] = len(self._places)
        self.open.add(handle)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> tuple[int, Event]:
        """Raises ModelClosed where the engine was closed before the end."""
        self.reader = threading.get_ident()
        if not self.events:
            self._driver.wait(self)
        if not self.events:
            raise StopIteration
        event = self.events.popleft()
        return self._places[event.handle], event

    def take(self) -> list[Event]:
        """Everything that has happened, at least one event; none where nothing more can: for a reader of many requests, which
        come and go. Raises ModelClosed."""
        self.reader = threading.get_ident()
        if not self.events:
            self._driver.wait(self)
        taken: list[Event] = []
        while self.events:
            taken.append(self.events.popleft())
            if taken[-1].last:
                self._places.pop(taken[-1].handle, None)
        return taken

    def close(self) -> None:
        """Cancel what is not done. What has happened already can still be read."""
        if self.open:
            self._driver.forget(self, patient=True)

    def __del__(self) -> None:
        if self.open:
            self._driver.forget(self, patient=False)


def _acquire(lock: Lock) -> None:
    """Wait for the lock; an interruption (Ctrl-C) meanwhile is raised when it is held, for the books must be put in order."""
    interruption: BaseException | None = None
    while not is_held(lock):
        try:
            lock.acquire()
        except BaseException as error:  # it may have come just before the lock was had, or just after
            interruption = error
    if interruption is not None:
        raise interruption
