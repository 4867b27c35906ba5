"""The process inside the walls that starts one program, counts what it uses, ends it, and kills all that it left behind.

    host                       warden (process 1 of the box, or the one that gets every orphan)      program
     |--order---------------->|--write files, fork, walls, limits----------------------------------->|
     |   (pipe stays open)    |--every 20 ms: processes, memory, CPU, files; the clock; the host-----|
     |<-----------------------|---------------- output, straight to the host's pipes ----------------|
     |<--report---------------|<------------------------------------------------------ends-----------|
                              |--kills whatever is left, however often it forked

Run by a bare Python (layers.BOOT). The order comes on standard input, which is also the line to the host: when it closes,
the host is gone or wants no more, and all is killed. Imports here are time before every program: few, and small.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import time
from contextlib import suppress

from hornbook.evals.sandbox import kernel, landlock, limits, namespaces, seccomp
from hornbook.evals.sandbox.limits import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PULSE = 0.02  # seconds between two counts
PULSES_PER_WALK = 5  # where the folder is no file system of its own, its files are counted one by one
LONGEST = 1024  # characters of a path: folders in folders beyond it are made to hide something
PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")
NOBODY = 65534  # a user that owns nothing
NPROC_IN_BOX = (5, 14)  # from this Linux on, RLIMIT_NPROC counts in each user namespace for itself
BRAKE = 256  # tasks of a user beyond which the kernel refuses more, where it counts all of a user's together
STDIN = ".stdin"  # the name of the program's input, until it is opened
READ = os.O_RDONLY | os.O_CLOEXEC


def main(report: int) -> None:
    """Carry out one order; say on the pipe ``report`` that the program began, and how it ended or why it could not."""
    try:
        os.set_inheritable(report, False)
        box = Box(marshal.loads(_exactly(int.from_bytes(_exactly(8), "big"))))
        box.set_up()
        os.write(report, b"began\n")
        answer = "done " + box.run()
    except Exception as error:  # whatever it is, the host must learn it
        answer = f"error {type(error).__name__}: {error}".replace("\n", " ")
    os.write(report, answer.encode() + b"\n")
    os._exit(0)


def _exactly(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            raise EOFError("the host went away")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Box:
    """One program and what it starts. ``order``: what sandbox.Sandbox.run sends."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.limits = Limits(**order["limits"])
        self.apart = order["wall"] != "restricted"  # are all processes that can be seen here the program's?
        self.cpu = 0.0  # seconds, of all that ended
        self.status: int | None = None
        self.pulses = 0

    def set_up(self) -> None:
        """Enter the walls, lay out the folder."""
        for number in range(1, signal.NSIG):
            with suppress(OSError, ValueError):  # SIGKILL, SIGSTOP, and those of the C library
                signal.signal(number, signal.SIG_DFL)  # process 1 gets no signal that it has no handler for
        os.umask(0o022)
        if self.order["wall"] == "namespaces":
            namespaces.enter(self.order["places"], self.order["links"], self.limits)
        if kernel.LINUX:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # nobody of the same user may look into this process
            self.proc = os.open("/proc", READ | os.O_DIRECTORY)
            if not self.apart:
                kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        try:
            self._lay_out()
        except BaseException:
            self._clear()
            raise

    def run(self) -> str:
        """The program's whole life: "exit-code limit seconds full". The limit that it met or "none"; "full" or "roomy"."""
        began = time.monotonic()
        try:
            self.child = self._start()
            try:
                why = self._watch(began + self.limits.seconds)
                seconds = time.monotonic() - began
            finally:
                self._kill_all()
            code = -signal.SIGKILL if self.status is None else os.waitstatus_to_exitcode(self.status)
            return f"{int(code)} {why} {seconds:.6f} {'full' if self._disk(0.98) else 'roomy'}"
        finally:
            self._clear()

    # the folder

    def _lay_out(self) -> None:
        folder = self.order["folder"]
        os.mkdir(folder, 0o700)
        for name, data in self.order["files"].items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(data)
        self.drops = self._can_be_nobody(folder)
        if self.drops:
            for parent, _, names in os.walk(folder):
                for path in (parent, *(os.path.join(parent, name) for name in names)):
                    os.chown(path, NOBODY, NOBODY)
        self.input = os.open(os.devnull, READ)
        if self.order["stdin"]:
            path = os.path.join(folder, STDIN)
            with open(path, "xb") as file:
                file.write(self.order["stdin"])
            self.input = os.open(path, READ)
            os.unlink(path)

    def _clear(self) -> None:
        """Remove the folder where it is one of the machine's own: here, so that it goes even when the host was killed.

        Its program may have tried to keep it: rights taken away, folders in folders beyond any path's length. What lies
        in a subfolder is lifted out before the subfolder goes, so that no path is ever longer than two names.
        """
        waiting = [] if self.apart else [self.order["folder"]]
        lifted = 0
        while waiting:
            place = waiting.pop()
            with suppress(OSError):  # where killing does not hold, what still runs may be writing
                os.chmod(place, 0o700)
                with os.scandir(place) as entries:
                    inside = list(entries)
                for entry in inside:
                    if entry.is_dir(follow_symlinks=False):
                        os.chmod(entry.path, 0o700)  # a folder that may not be written cannot be moved
                        lifted += 1
                        waiting.append(f"{self.order['folder']}-{lifted}")
                        os.rename(entry.path, waiting[-1])
                    else:
                        os.unlink(entry.path)
                os.rmdir(place)

    def _can_be_nobody(self, folder: str) -> bool:
        """Can the program be another user than root? A container's root may have few rights, or be its only user."""
        if not kernel.LINUX or os.geteuid() != 0 or not kernel.has_right(kernel.CAP_SETGID, kernel.CAP_SETUID):
            return False
        try:
            os.chown(folder, NOBODY, NOBODY)
        except OSError:
            return False
        return True

    def _only_root_reads_python(self) -> bool:
        """Does Python lie in root's home folder, say? Where there are walls, the paths to it were made anew."""
        named = self.order["command"][0]
        for path in (named, os.path.realpath(named)):
            while path != "/":
                if not os.stat(path).st_mode & 0o001:
                    return True
                path = os.path.dirname(path)
        return False

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
        if kernel.LINUX:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or its own /proc/self would not be its own
            with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
                score.write("1000")  # should the machine itself run out of memory, this goes first
        os.chdir(self.order["folder"])
        right: int | None = None
        if self.drops:
            if self._only_root_reads_python():
                right = kernel.CAP_DAC_READ_SEARCH  # to read what Landlock leaves it; its writing is nobody's
                kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        limits.apply(self.limits, processes=self._share())
        if kernel.LINUX:
            kernel.drop_rights(right)
        if landlock.version():
            folder = self.order["folder"]
            readable, writable = (["/"], ["/tmp"]) if self.apart else (self.order["readable"], [folder])
            landlock.restrict(readable, [*writable, *(f"/dev/{name}" for name in namespaces.DEVICES)])
        if seccomp.supported():
            signals = self.apart or landlock.version() >= landlock.SIGNALS_SINCE
            seccomp.restrict(attributes=self.apart, signals=signals)
        command = self.order["command"]
        os.execve(command[0], command, self.order["environment"])

    def _share(self) -> int | None:
        """How many tasks the kernel should allow: exact in a user namespace of its own, else a brake."""
        if not kernel.LINUX:
            return None
        if self.apart and kernel.version() >= NPROC_IN_BOX:
            user, group = os.geteuid(), os.getegid()
            with suppress(OSError):  # then the watch counts, as it does everywhere
                kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # again: becoming another user took it away
                kernel.unshare(kernel.CLONE_NEWUSER)
                namespaces.be_user("self", user, group, self.proc)
                return self.limits.processes
        return self._tasks_of_user() + BRAKE

    def _tasks_of_user(self) -> int:
        count = 0
        for name in os.listdir(self.proc):
            if name.isdigit():
                with suppress(OSError):  # it ended meanwhile
                    if os.stat(name, dir_fd=self.proc).st_uid == os.geteuid():
                        count += len(os.listdir(f"/proc/{name}/task"))
        return count

    # the watch

    def _watch(self, deadline: float) -> str:
        """Until the program ends or must. Which limit it met, or "none"; "host" when nobody wants it any more."""
        waiter = select.poll()
        waiter.register(0, select.POLLIN)
        if kernel.LINUX:
            with suppress(OSError):  # Linux before 5.3: the end is seen a pulse later
                waiter.register(os.pidfd_open(self.child), select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "seconds"
            ready = waiter.poll(max(1, min(PULSE, left) * 1000))
            self._reap()
            if self.status is not None:
                return "none"
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
            self.cpu += usage.ru_utime + usage.ru_stime
            if pid == self.child:
                self.status = status

    def _members(self) -> list[int]:
        """Every process of the box but this one."""
        if not kernel.LINUX:
            return []
        if self.apart:
            return [pid for name in os.listdir(self.proc) if name.isdigit() and (pid := int(name)) != os.getpid()]
        found: list[int] = []
        ahead = [os.getpid()]
        while ahead:
            parent = ahead.pop()
            with suppress(OSError):  # it ended meanwhile: its children are ours now, and found at the next count
                for thread in os.listdir(f"/proc/{parent}/task"):
                    with open(f"/proc/{parent}/task/{thread}/children") as file:
                        children = [int(pid) for pid in file.read().split()]
                    found += children
                    ahead += children
        return found

    def _over(self) -> str:
        tasks, cpu, resident = 0, self.cpu, 0
        members = self._members()
        for pid in members:
            tasks_of, cpu_of, resident_of = self._use(pid)
            tasks, cpu, resident = tasks + tasks_of, cpu + cpu_of, resident + resident_of
        if tasks > self.limits.processes:
            return "processes"
        if resident > self.limits.memory and sum(map(self._proportional, members)) > self.limits.memory:
            return "memory"
        if cpu > self.limits.cpu_seconds:
            return "cpu"
        self.pulses += 1
        looks = self.apart or self.pulses % PULSES_PER_WALK == 0
        return "disk" if looks and self._disk(1.0) else ""

    def _read(self, path: str) -> bytes:
        with open(os.open(path, READ, dir_fd=self.proc), "rb") as file:
            return file.read()

    def _use(self, pid: int) -> tuple[int, float, int]:
        """(threads, CPU seconds with those of its dead children, bytes in memory) of one process: proc(5), stat."""
        try:
            fields = self._read(f"{pid}/stat").rpartition(b")")[2].split()
        except OSError:
            return 0, 0.0, 0  # it ended meanwhile
        return int(fields[17]), sum(map(int, fields[11:15])) / TICK, int(fields[21]) * PAGE

    def _proportional(self, pid: int) -> int:
        """Bytes in memory, those that n processes share counted as an n-th: forks share most of what they have."""
        try:
            sizes = dict(line.split()[:2] for line in self._read(f"{pid}/smaps_rollup").splitlines()[1:])
            return int(sizes[b"Pss:"]) * 1024
        except OSError:
            return self._use(pid)[2]

    def _disk(self, share: float) -> bool:
        """Do the files of the folder take more than this share of what they may?"""
        if self.apart:
            place = os.statvfs("/tmp")
            used, files = (place.f_blocks - place.f_bfree) * place.f_frsize, place.f_files - place.f_ffree
        else:
            used, files = self._count()
        return used > share * self.limits.disk or files > share * self.limits.files

    def _count(self) -> tuple[int, int]:
        """Bytes and files in a folder that is no file system of its own, as far as they can matter."""
        used = files = 0
        ahead = [self.order["folder"]]
        while ahead and files <= self.limits.files:
            place = ahead.pop()
            if len(place) > LONGEST:
                return used, self.limits.files + 1
            try:
                with os.scandir(place) as entries:
                    for entry in entries:
                        files += 1
                        if entry.is_dir(follow_symlinks=False):
                            ahead.append(entry.path)
                        else:
                            used += entry.stat(follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                pass  # gone meanwhile
            except OSError:  # unreadable: it may hold anything
                return used, self.limits.files + 1
        return used, files

    # the end

    def _kill_all(self) -> None:
        """Until nothing is left: what forks while it is killed is killed too."""
        until = time.monotonic() + 5
        while time.monotonic() < until:
            if self.apart:
                self._send(-1, signal.SIGKILL)  # to all at once, and none of them but us comes from outside
            elif kernel.LINUX:
                for blow in (signal.SIGSTOP, signal.SIGKILL):  # what stands still has no more children
                    for pid in self._members():
                        self._send(pid, blow)
            else:
                self._send(-self.child, signal.SIGKILL)  # its process group: what left that is out of our sight
            if not self._reap():
                return
            time.sleep(0.001)

    def _send(self, to: int, blow: int) -> None:
        with suppress(ProcessLookupError, PermissionError):  # already dead
            os.kill(to, blow)
