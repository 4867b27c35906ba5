"""A child process that parses what native code reads, so that a damaged file ends that process and not the program.

PDFium and calamine can abort on a file or fill the memory, and some large texts take hours. ``Worker.parse`` is
``parse_bytes``, but a file of ISOLATED, or a large one, goes to one child, started at the first of them (about 0.1 s)
and kept for the next, and what befalls it there is a ParseError. Where no child can be started (no processes, an
application frozen into one file) it is parsed here.

In: a line of JSON {"path", "size"} and the bytes of the file. Out: a line of JSON, the Document or the ParseError.
The child ends when its input does, so it never outlives its owner for longer than the file in hand may take.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import hornbook
from hornbook.errors import ParseError
from hornbook.retrieve.parse import FORMATS, parse_bytes
from hornbook.types import Document, Piece

ISOLATED = {suffix for suffix, format in FORMATS.items() if format.module in ("pdf", "sheets", "rtf")}
ISOLATED_BYTES = 256 << 10  # from this size on a file of any format: the slowest read 40 kB a second
SECONDS = 120.0  # for one file
MEMORY = 4 << 30  # bytes of address space beyond what the child starts with; only Linux tells and holds this
_START_SECONDS = 60.0  # a cold disk and a virus scanner
_LARGE = 32 << 20  # bytes: after such a file or document the child is ended, which gives its memory back
_READY = f"hornbook {hornbook.__version__}\n".encode()
_piece_values = attrgetter(*(field.name for field in fields(Piece)))


class Worker:
    """One child at a time, for one thread. Close it at the end; it starts another child where it is used again."""

    def __init__(self, command: Sequence[str] = (), *, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        # -P: a file json.py in the folder that a person works in must not be taken for Python's own
        own = [sys.executable, "-P", "-m", "hornbook.retrieve.parse.worker", str(seconds), str(memory)]
        self._command, self._seconds = command or own, seconds
        self._child: subprocess.Popen[bytes] | None = None
        # a frozen application's "executable" is the application, which must not be started again
        self._can_start = bool(command) or (bool(sys.executable) and not getattr(sys, "frozen", False))

    def parse(self, data: bytes, path: str | os.PathLike[str]) -> Document:
        """As parse_bytes. Raise ParseError, also where the reader crashes or passes its limit of time or memory."""
        suffix = Path(path).suffix.lower()
        if (suffix not in ISOLATED and len(data) < ISOLATED_BYTES) or (child := self._start()) is None:
            return parse_bytes(data, path)
        header = json.dumps({"path": os.fspath(path), "size": len(data)}).encode() + b"\n"
        answer = self._exchange(child, [header, data], self._seconds)
        if answer is None or not answer.endswith(b"\n"):
            self.close()
            if answer is None:
                raise ParseError(f"took longer than {self._seconds:g} s")
            raise ParseError(f"the {FORMATS.get(suffix, FORMATS['.txt']).name} reader stopped on it (damaged?)")
        if max(len(data), len(answer)) > _LARGE:
            self.close()
        said = json.loads(answer)
        if "what" in said:
            raise ParseError(said["what"], said["remedy"])
        return Document(**{**said, "pieces": tuple(Piece(*values) for values in said["pieces"])})

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                with suppress(OSError):  # what was not yet written is lost, and may be
                    stream.close()  # type: ignore[union-attr]

    def _start(self) -> subprocess.Popen[bytes] | None:
        """The child, ready for a file; None where none can be had, now and from then on."""
        if self._child is not None and self._child.poll() is not None:
            self.close()
        if self._child is None and self._can_start:
            pipe, hidden = subprocess.PIPE, subprocess.DEVNULL
            flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows; it also keeps Ctrl-C from the child
            with suppress(OSError, NotImplementedError):
                self._child = subprocess.Popen(self._command, -1, None, pipe, pipe, hidden, creationflags=flags)
            if self._child is None or self._exchange(self._child, [], _START_SECONDS) != _READY:
                self.close()
                self._can_start = False
        return self._child

    def _exchange(self, child: subprocess.Popen[bytes], parts: Sequence[bytes], seconds: float) -> bytes | None:
        """Send ``parts``; the line that comes back, cut short where the child ended, or None where it is late."""
        answer = [b""]

        def exchange() -> None:
            assert child.stdin and child.stdout
            with suppress(OSError, ValueError, MemoryError):  # the child ended, was closed, or says too much
                for part in parts:
                    child.stdin.write(part)
                child.stdin.flush()
                answer[0] = child.stdout.readline()

        thread = Thread(target=exchange, daemon=True)
        late = time.monotonic() + seconds
        thread.start()
        try:
            while thread.is_alive() and time.monotonic() < late:
                thread.join(0.1)  # short, because Windows delivers Ctrl-C only between waits
        except BaseException:  # Ctrl-C: the answer must not be taken for that of the next file
            self.close()
            raise
        return None if thread.is_alive() else answer[0]


def _serve(seconds: float, memory: int) -> None:
    """The child: answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's, who then ends this process
    alarm = signal.setitimer if hasattr(signal, "setitimer") else None
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    _limit(memory)
    requests: SimpleQueue[tuple[str, bytes]] = SimpleQueue()
    Thread(target=_receive, args=(requests,), daemon=True).start()
    answers.write(_READY)
    answers.flush()
    while True:
        path, data = requests.get()
        if alarm:  # for a child that hangs in native code after its owner was killed
            alarm(signal.ITIMER_REAL, seconds + 10)
        try:
            document = parse_bytes(data, path)
            said = {field.name: getattr(document, field.name) for field in fields(Document)}
            said["pieces"] = [_piece_values(piece) for piece in document.pieces]
        except ParseError as error:
            said = {"what": error.what, "remedy": error.remedy}
        if alarm:
            alarm(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        answers.flush()


def _receive(requests: SimpleQueue[tuple[str, bytes]]) -> None:
    """Take requests in; end the process, whatever it is doing, as soon as its owner is gone."""
    while header := sys.stdin.buffer.readline():
        about = json.loads(header)
        requests.put((about["path"], sys.stdin.buffer.read(about["size"])))
    os._exit(0)


def _limit(memory: int) -> None:
    """Hold this process to ``memory`` bytes more than it has, and leave no image of a crash on the disk."""
    with suppress(ImportError, OSError, ValueError):  # Windows, macOS, a system that holds it to less already
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    _serve(float(sys.argv[1]), int(sys.argv[2]))
