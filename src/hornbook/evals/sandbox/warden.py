"""The process inside the walls that starts one program, counts what it uses, ends it, and kills all that it left behind.

    host                       warden (process 1 of the box, or the one that gets every orphan)      program
     |--order (JSON)---------->|--write files, fork, walls, limits---------------------------------->|
     |   (pipe stays open)     |--every 20 ms: processes, memory, CPU, files; the clock; the host----|
     |<------------------------|---------------- output, straight to the host's pipes ---------------|
     |<--report (JSON)---------|<-----------------------------------------------------ends-----------|
                               |--kills whatever is left, however often it forked

Run by a bare Python: ``python -I -S -c "...main(report)"``; the order comes on standard input, which is also the line to
the host: when it closes, the host is gone or wants no more, and so all is killed.
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import time
from contextlib import suppress
from typing import Any

from hornbook.evals.sandbox import kernel, landlock, limits, namespaces, seccomp
from hornbook.evals.sandbox.limits import Limits

PULSE = 0.02  # seconds between two counts
PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")
NOBODY = 65534  # a user that owns nothing
NPROC_IN_BOX = (5, 14)  # from this Linux on, RLIMIT_NPROC counts in each user namespace for itself
BRAKE = 128  # tasks beyond its share before the kernel refuses more, where it counts all of a user's together


def main(report: int) -> None:
    """Carry out one order; say on the pipe ``report`` how it went."""
    try:
        os.set_inheritable(report, False)
        order = _receive()
        answer = _Box(order).run()
    except Exception as error:  # whatever it is, the host must learn it
        answer = {"error": f"{type(error).__name__}: {error}"}
    os.write(report, json.dumps(answer).encode() + b"\n")
    os._exit(0)


def _receive() -> dict[str, Any]:
    size = int.from_bytes(_exactly(8), "big")
    order: dict[str, Any] = json.loads(_exactly(size))
    return order


def _exactly(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            raise EOFError("the host went away")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class _Box:
    """One program and what it starts."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.limits = Limits(*order["limits"])
        self.wall: str = order["wall"]
        self.apart = self.wall != "none"  # are all processes that can be seen here the program's?
        self.reaped_cpu = 0.0
        self.status: int | None = None

    def run(self) -> dict[str, Any]:
        """{"exit": code or None, "why": the limit that was met or "", "seconds", "memory", "cpu", "full": is the disk?}"""
        for number in range(1, signal.NSIG):
            with suppress(OSError, ValueError):  # process 1 gets no signal that it has no handler for
                signal.signal(number, signal.SIG_DFL)
        if self.wall == "namespaces":
            namespaces.enter(namespaces.View(*self.order["view"]), self.limits)
        if kernel.LINUX:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # nobody of the same user may look into this process
            if not self.apart:
                kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._lay_out()
        self.proc = os.open("/proc", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY) if kernel.LINUX else -1
        self.began = time.monotonic()
        self.child = self._start()
        try:
            why = self._watch()
            seconds = time.monotonic() - self.began
        finally:
            self._kill_all()
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        return {"exit": code, "why": why, "seconds": seconds, "cpu": self.reaped_cpu, "full": self._disk(0.98)}

    # the folder

    def _lay_out(self) -> None:
        folder = self.order["folder"]
        os.makedirs(folder, exist_ok=True)
        files = {name: base64.b64decode(data) for name, data in self.order["files"].items()}
        for name, data in files.items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
        if os.geteuid() == 0:
            for parent, _, names in os.walk(folder):
                for path in (parent, *(os.path.join(parent, name) for name in names)):
                    with suppress(OSError):  # a root of nothing but itself: everything is its own already
                        os.chown(path, NOBODY, NOBODY)
        self.input = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        if self.order["stdin"]:
            path = os.path.join(folder, ".stdin")
            with open(path, "xb") as file:
                file.write(base64.b64decode(self.order["stdin"]))
            self.input = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.unlink(path)

    # the program

    def _start(self) -> int:
        failed, fails = os.pipe()
        child = os.fork()
        if not child:
            try:
                self._become_program()
            except BaseException as error:
                os.write(fails, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(127)
        os.close(fails)
        with open(failed, "rb") as pipe:
            if message := pipe.read():
                os.waitpid(child, 0)
                raise OSError(message.decode(errors="replace"))
        os.close(self.input)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 1)  # the pipes are the program's: when it and its children are dead, the host sees them close
        os.dup2(null, 2)
        return child

    def _become_program(self) -> None:
        os.setsid()
        os.dup2(self.input, 0)
        os.chdir(self.order["folder"])
        os.umask(0o022)
        user, group = os.geteuid(), os.getegid()
        if user == 0:
            with suppress(PermissionError):
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                user, group = NOBODY, NOBODY
        limits.apply(self.limits, processes=self._share(user, group))
        if landlock.version():
            readable = ("/",) if self.apart else self.order["readable"]
            devices = [f"/dev/{name}" for name in namespaces.DEVICES]
            writable = ["/tmp"] if self.apart else [self.order["folder"]]
            landlock.restrict(readable, [*writable, *devices])
        if seccomp.supported():
            signals = self.apart or landlock.version() >= landlock.SIGNALS_SINCE
            seccomp.restrict(attributes=self.apart, signals=signals)
        command = self.order["command"]
        os.execve(command[0], command, self.order["environment"])

    def _share(self, user: int, group: int) -> int | None:
        """How many tasks the kernel should allow this user: exact in a user namespace of its own, else a brake."""
        if not kernel.LINUX:
            return None
        version = tuple(int(part) for part in os.uname().release.split(".")[:2])
        if version >= NPROC_IN_BOX and self.apart:
            try:
                kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or /proc/self would not be ours after another user became us
                kernel.unshare(kernel.CLONE_NEWUSER)
                namespaces.be_user("self", user, group, self.proc)
                return self.limits.processes
            except OSError:
                pass
        return None

    # the watch

    def _watch(self) -> str:
        """Until the program ends or must. Which limit it met, "" for none, "host" when nobody wants it any more."""
        waiter = select.poll()
        waiter.register(0, select.POLLIN)
        handle = os.pidfd_open(self.child) if hasattr(os, "pidfd_open") else -1
        if handle >= 0:
            waiter.register(handle, select.POLLIN)
        deadline = self.began + self.limits.seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "seconds"
            ready = waiter.poll(max(1, min(PULSE, left) * 1000))
            self._reap()
            if self.status is not None:
                return ""
            if any(place == 0 for place, _ in ready):
                return "host"
            if why := self._over():
                return why

    def _reap(self) -> bool:
        """Take in every child that ended, orphans too. False when there is no child left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            self.reaped_cpu += usage.ru_utime + usage.ru_stime
            if pid == self.child:
                self.status = status

    def _members(self) -> list[int]:
        """Every process of the box but this one."""
        if not kernel.LINUX:
            return []
        if self.apart:
            own = os.getpid()
            return [pid for name in os.listdir(self.proc) if name.isdigit() and (pid := int(name)) != own]
        found: list[int] = []
        ahead = [os.getpid()]
        while ahead:
            parent = ahead.pop()
            with suppress(OSError):
                for thread in os.listdir(f"/proc/{parent}/task"):
                    with open(f"/proc/{parent}/task/{thread}/children") as file:
                        children = [int(pid) for pid in file.read().split()]
                    found += children
                    ahead += children
        return found

    def _over(self) -> str:
        tasks, cpu, resident = 0, self.reaped_cpu, 0
        members = self._members()
        for pid in members:
            with suppress(OSError):
                tasks_of, cpu_of, resident_of = self._use(pid)
                tasks, cpu, resident = tasks + tasks_of, cpu + cpu_of, resident + resident_of
        if tasks > self.limits.processes:
            return "processes"
        if resident > self.limits.memory and sum(map(self._proportional, members)) > self.limits.memory:
            return "memory"
        if cpu > self.limits.cpu_seconds:
            return "cpu"
        return "disk" if self._disk(1.0) and not self.apart else ""

    def _use(self, pid: int) -> tuple[int, float, int]:
        """(threads, CPU seconds with those of its dead children, bytes in memory) of one process: proc(5), stat."""
        with open(os.open(f"{pid}/stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc), "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[17]), sum(map(int, fields[11:15])) / TICK, int(fields[21]) * PAGE

    def _proportional(self, pid: int) -> int:
        """Bytes in memory, those that n processes share counted as an n-th: forks share most of what they have."""
        try:
            with open(os.open(f"{pid}/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc), "rb") as file:
                sizes = dict(line.split()[:2] for line in file.readlines()[1:])
            return int(sizes[b"Pss:"]) * 1024
        except (OSError, KeyError):
            with suppress(OSError):
                return self._use(pid)[2]
            return 0

    def _disk(self, share: float) -> bool:
        """Are the files of the folder beyond this share of what they may take?"""
        if self.apart:
            place = os.statvfs("/tmp")
            used, files = (place.f_blocks - place.f_bfree) * place.f_frsize, place.f_files - place.f_ffree
            return used >= share * self.limits.disk or files >= share * self.limits.files
        used = files = 0
        for parent, folders, names in os.walk(self.order["folder"]):
            files += len(folders) + len(names)
            for name in names:
                with suppress(OSError):
                    used += os.lstat(os.path.join(parent, name)).st_blocks * 512
            if used > share * self.limits.disk or files > share * self.limits.files:
                return True
        return False

    # the end

    def _kill_all(self) -> None:
        """Until nothing is left: what forks while it is killed is killed too."""
        until = time.monotonic() + 5
        while time.monotonic() < until:
            if self.apart:
                with suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)  # all at once, and none of them but us comes from outside
            else:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.child, signal.SIGKILL)
                for blow in (signal.SIGSTOP, signal.SIGKILL):  # what stands still has no more children
                    for pid in self._members():
                        with suppress(ProcessLookupError, PermissionError):
                            os.kill(pid, blow)
            if not self._reap():
                return
            time.sleep(0.001)
