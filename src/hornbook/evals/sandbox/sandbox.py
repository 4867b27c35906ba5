"""Run a program that nobody has read: ``Sandbox.find().run(program)``.

    box = Sandbox.find()                       # the best isolation of this machine, tried; an error where it is not enough
    run = box.run("print(6 * 7)", seconds=5)
    run.outcome, run.stdout, run.exit_code     # ("ok", "42\n", 0)

What the program may see, and what holds on which machine: docs/sandbox.md.
"""

from __future__ import annotations

import marshal
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

from hornbook.errors import SandboxError, UsageError
from hornbook.evals.sandbox import layers, warden
from hornbook.evals.sandbox.layers import Wall
from hornbook.evals.sandbox.limits import Limits

Outcome: TypeAlias = Literal["ok", "failed", "timeout", "memory", "processes", "output", "disk"]

PROGRAM = "main.py"  # the program's own name in its folder
FOLDER = "/tmp/work"  # its folder, where it has a /tmp of its own
LAST_WORDS = 2.0  # seconds in which the pipes of the dead must close
GRACE = 30.0  # seconds that a warden may take beyond the program's time before it is taken for lost
OF_LIMIT: dict[str, Outcome] = {
    "seconds": "timeout", "cpu": "timeout", "memory": "memory", "processes": "processes", "disk": "disk",
}  # fmt: skip
OUT_OF_MEMORY = re.compile(rb"(^|[._])\w*MemoryError\b")


@dataclass(frozen=True)
class Run:
    """How one program ended."""

    stdout: str  # as much as was kept, not UTF-8 replaced
    stderr: str
    exit_code: int  # minus the signal's number where one ended it
    outcome: Outcome  # ok: exit code 0; failed: any other; else the limit it met
    seconds: float  # from its start to its end
    left_running: bool = False  # something of it outlived it; seen only where "killing" does not hold

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"


# Of the thread of one of many programs: a pipe that is closed when nobody wants their results any more
_ending: ContextVar[int | None] = ContextVar("ending", default=None)


class Options(TypedDict, total=False):
    """What ``run`` may be told, for many programs alike."""

    stdin: str
    files: Mapping[str, str | bytes]
    seconds: float
    cpu_seconds: float | None
    memory_mb: int
    processes: int
    output_bytes: int
    disk_mb: int


@dataclass(frozen=True)
class Sandbox:
    """One kind of isolation, tried on this machine. Safe to use from many threads."""

    wall: Wall
    isolates: frozenset[str]  # of probe.PROMISES, those that were seen to hold
    why_not: Mapping[str, str]  # of each better wall, why this machine does not have it

    @classmethod
    def find(cls, *, allow_unsafe: bool = False) -> Sandbox:
        """The best isolation that this machine has. It is tried once a process, with a program that tries to get out.

        ``allow_unsafe`` takes what there is where something does not hold.

        Raises:
            SandboxError: something does not hold: what, why, and what would help.
        """
        from hornbook.evals.sandbox import probe

        box = probe.best()
        if box.missing and not allow_unsafe:
            raise probe.refusal(box)
        return box

    @property
    def missing(self) -> tuple[str, ...]:
        """What does not hold here, of probe.PROMISES."""
        from hornbook.evals.sandbox.probe import PROMISES

        return tuple(name for name in PROMISES if name not in self.isolates)

    def run(
        self,
        program: str,
        *,
        stdin: str = "",
        files: Mapping[str, str | bytes] | None = None,
        seconds: float = 10,
        cpu_seconds: float | None = None,
        memory_mb: int = 512,
        processes: int = 16,
        output_bytes: int = 1 << 20,
        disk_mb: int = 64,
    ) -> Run:
        """Run a Python program in an empty folder of its own, with this Python and its packages, and wait for its end.

        ``files``: name -> content, laid into its folder first. ``cpu_seconds`` is of all its processes together, None:
        as ``seconds``, which is of the clock. All sizes are of the whole program, with all it starts. Its environment
        holds nothing of ours. Whatever it left running is dead when this returns.

        Raises:
            UsageError: a limit that no program can keep, a file name that leads out of the folder.
            SandboxError: the program could not be started: this machine is out of something.
        """
        cpu = seconds if cpu_seconds is None else cpu_seconds
        limits = Limits(
            seconds=float(seconds), cpu_seconds=float(cpu), memory=memory_mb << 20, processes=processes,
            output=output_bytes, disk=disk_mb << 20,
        )  # fmt: skip
        _check(limits)
        order: dict[str, Any] = {
            "wall": self.wall,
            "places": layers.places(),
            "links": layers.links(),
            "readable": layers.python_paths(),
            "limits": vars(limits),
            "command": [sys.executable, "-B", "-s", PROGRAM],
            "files": {name: _encoded(data) for name, data in {**_within(files or {}), PROGRAM: program}.items()},
            "stdin": _encoded(stdin),
        }
        given = sum(map(len, order["files"].values())) + len(order["stdin"])
        if given > limits.disk // 2:
            raise UsageError(
                f"{given:,} bytes of files and input for disk_mb={disk_mb}", "Allow at least twice as much."
            )
        if self.wall != "restricted":
            return self._run(order, limits, FOLDER)
        # made and removed by the warden, so that none is left of a host that was killed; the name cannot be guessed
        folder = os.path.join(tempfile.gettempdir(), f"hornbook-{uuid.uuid4().hex}")
        try:
            return self._run(order, limits, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # a warden that was killed could not

    def run_many(self, programs: Iterable[str], workers: int | None = None, **options: Unpack[Options]) -> list[Run]:
        """Each program by itself, ``workers`` at a time (None: one a processor), results in the order of programs."""
        ending, end = os.pipe()
        pool = ThreadPoolExecutor(workers or os.cpu_count(), initializer=_ending.set, initargs=(ending,))
        try:
            return list(pool.map(lambda program: self.run(program, **options), programs))
        finally:  # after a Control-C, or one that could not be started, the others are not waited for
            os.close(end)
            pool.shutdown(cancel_futures=True)
            os.close(ending)

    def _run(self, order: dict[str, Any], limits: Limits, folder: str) -> Run:
        order |= {"folder": folder, "environment": _environment(folder)}
        report = reports = -1
        try:
            report, reports = os.pipe()
            command = layers.command(self.wall, limits, reports)
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(reports,),
                start_new_session=True, cwd="/", env=layers.libraries(), bufsize=0,
            )  # fmt: skip
        except OSError as error:
            if report >= 0:
                os.close(report)
            raise SandboxError(f"the sandbox cannot start: {error}", "Free some processes, files or memory.") from error
        finally:
            if reports >= 0:
                os.close(reports)
        with Wire(process, report, limits) as wire:
            wire.send(order)
            return wire.receive()


class Wire:
    """The host's end of one run: an order goes out, output and a report come in."""

    def __init__(self, process: subprocess.Popen[bytes], report: int, limits: Limits) -> None:
        self.process = process
        self.limits = limits
        self.report = report
        assert process.stdin and process.stdout and process.stderr
        self.order, self.out, self.err = process.stdin, process.stdout.fileno(), process.stderr.fileno()
        self.kept = {self.out: bytearray(), self.err: bytearray(), report: bytearray()}
        self.left_running = False  # does anything still hold the pipes when all should be dead?

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever happened, a Control-C too: the warden kills all when its order pipe closes; wait for that."""
        self.order.close()
        try:
            self.process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        os.close(self.report)

    def send(self, order: dict[str, Any]) -> None:
        message = marshal.dumps(order)
        data = memoryview(len(message).to_bytes(8, "big") + message)
        try:
            while data:
                data = data[self.order.write(data) :]
        except BrokenPipeError:
            pass  # the warden ended before it had read all: what it said of that comes with its output

    def receive(self) -> Run:
        began = time.monotonic()
        flooded = self._read(began + self.limits.seconds + GRACE)
        said = self.kept[self.report].decode(errors="replace")
        if said == "began\n":  # and then it was killed: by a kernel that is out of memory, or by what the program found
            return self._run(-9, "none", time.monotonic() - began, False, flooded)
        if not said.endswith("\n"):
            last = self.kept[self.err].decode(errors="replace").strip().rpartition("\n")[2]
            raise SandboxError(f"the sandbox broke: {last or 'it said nothing'}", "See docs/sandbox.md: what it needs.")
        kind, _, rest = said.removeprefix("began\n").strip().partition(" ")
        if kind == "error":
            raise SandboxError(f"the sandbox could not be set up: {rest}", "See docs/sandbox.md: what it needs.")
        code, why, seconds, full = rest.split()
        return self._run(int(code), why, float(seconds), full == "full", flooded)

    def _read(self, deadline: float) -> bool:
        """Keep what comes until all pipes are closed. True when there was more output than may be."""
        room = self.limits.output
        flooded = False
        with selectors.DefaultSelector() as waiter:
            for place in self.kept:
                waiter.register(place, selectors.EVENT_READ)
            ending = _ending.get()
            if ending is not None:
                waiter.register(ending, selectors.EVENT_READ)
            while waiter.get_map().keys() - {ending}:
                left = deadline - time.monotonic()
                if left <= 0:
                    self.left_running = True
                    break
                for key, _ in waiter.select(left):
                    if key.fd == ending:
                        waiter.unregister(ending)
                        self.order.close()
                        continue
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        waiter.unregister(key.fd)
                        if key.fd == self.report:  # all is dead by now, and so the pipes close at once
                            deadline = min(deadline, time.monotonic() + LAST_WORDS)
                        continue
                    if key.fd != self.report:
                        flooded = flooded or len(data) > room
                        data = data[:room]
                        room -= len(data)
                        if flooded and not self.order.closed:
                            self.order.close()  # enough: the warden ends it
                    self.kept[key.fd] += data
        return flooded

    def _run(self, code: int, why: str, seconds: float, full: bool, flooded: bool) -> Run:
        out, err = self.kept[self.out], self.kept[self.err]
        outcome: Outcome = "ok" if code == 0 and why == "none" else "failed"
        last = bytes(err.strip().rpartition(b"\n")[2])
        if flooded:
            outcome = "output"
        elif why != "none":
            outcome = OF_LIMIT.get(why, "failed")
        elif outcome == "failed" and OUT_OF_MEMORY.match(last.split(b":")[0]):
            outcome = "memory"
        elif outcome == "failed" and code == -24:  # SIGXCPU
            outcome = "timeout"
        elif outcome == "failed" and full:
            outcome = "disk"
        text = [bytes(part).decode("utf-8", "replace") for part in (out, err)]
        return Run(text[0], text[1], code, outcome, seconds, self.left_running)


def _environment(folder: str) -> dict[str, str]:
    """All that a program finds in its environment. A fixed hash seed: the same program does the same twice."""
    one = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return {
        **{
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": folder,
            "TMPDIR": folder,
            "USER": "nobody",
            "LANG": "C.UTF-8",
        },
        **{"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
        **one,
        **layers.libraries(),
    }


def _check(limits: Limits) -> None:
    if not (0 < limits.seconds < float("inf") and 0 < limits.cpu_seconds < float("inf")):
        raise UsageError(f"seconds={limits.seconds:g}, cpu_seconds={limits.cpu_seconds:g}: a program needs some time")
    if limits.memory < 32 << 20 or limits.disk < 1 << 20 or limits.processes < 1 or limits.output < 0:
        what = f"memory_mb={limits.memory >> 20}, disk_mb={limits.disk >> 20}, processes={limits.processes}"
        raise UsageError(f"{what}, output_bytes={limits.output}: too little", "Python needs 32 MB and one process.")


def _within(files: Mapping[str, str | bytes]) -> Mapping[str, str | bytes]:
    for name in files:
        parts = name.split("/")
        if name in (PROGRAM, warden.STDIN) or "\0" in name or any(part in ("", ".", "..") for part in parts):
            raise UsageError(
                f"{name!r} is no name for a file of a program", "Name files beneath its folder: data/a.csv"
            )
    return files


def _encoded(data: str | bytes) -> bytes:
    """Half of a surrogate pair, which models do write, is left for Python to refuse."""
    return data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
