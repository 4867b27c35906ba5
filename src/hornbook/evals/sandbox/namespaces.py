"""A small world of our own: what bubblewrap builds, for machines that have none. Linux 5.12 and newer.

    outside                        inside
    host --> this process  --fork-->  process 1 of a new world: other mounts, processes, network, IPC, host name
             waits, and ends             its root: what Python needs (read-only), /tmp (new, bounded), /proc, /dev/null...
             when process 1 does

A plain user gets the right to do so in a user namespace of its own. Root does it as root and gives the program another
user: in a user namespace whose user is root outside, the kernel would not count its processes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Sequence

from hornbook.evals.sandbox import kernel
from hornbook.evals.sandbox.limits import Limits

MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
DEVICES = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS = (
    *(("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "fd/0"), ("/dev/stdout", "fd/1"), ("/dev/stderr", "fd/2")),
    ("/dev/shm", "/tmp"),  # semaphores and shared memory count as files of the folder
)

HOST = "sandbox"  # what the machine is called inside
INSIDE_USER = 1000  # who the program believes to be; the number means nothing outside


def enter(paths: Sequence[str], links: Sequence[tuple[str, str]], limits: Limits) -> None:
    """Go on inside, as process 1. The process that calls this never comes back: it ends as process 1 ends.

    Inside, of the machine's files only ``paths`` are seen, read-only, and ``links``: (path, where it leads).

    OSError where the kernel or its settings forbid it; nothing is half-done then but in this process.
    """
    worlds = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
    worlds |= kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
    try:
        if os.geteuid() != 0:
            raise PermissionError
        kernel.unshare(worlds)
    except PermissionError:  # a plain user, or a root of a container that is root of little
        user, group = os.geteuid(), os.getegid()
        kernel.unshare(worlds | kernel.CLONE_NEWUSER)
        be_user("/proc/self", user, group)
    child = os.fork()
    if child:
        _wait_for(child)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    _build_root(paths, links, limits)


def be_user(process: str, user: int, group: int, directory: int | None = None) -> None:
    """In a new user namespace, let ``user`` and ``group`` of outside be INSIDE_USER; ``process``: a folder of /proc."""
    for name, text in (
        ("setgroups", "deny"),
        ("gid_map", f"{INSIDE_USER} {group} 1"),
        ("uid_map", f"{INSIDE_USER} {user} 1"),
    ):
        place = os.open(f"{process}/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.write(place, text.encode())
        finally:
            os.close(place)


def _wait_for(child: int) -> None:
    os.closerange(
        0, os.sysconf("SC_OPEN_MAX")
    )  # the pipes belong to the inside: whoever reads them must see them close
    status = os.waitpid(child, 0)[1]
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _build_root(paths: Sequence[str], links: Sequence[tuple[str, str]], limits: Limits) -> None:
    """Twice another root: first an empty one that has the old root beneath it, then what stood up in it."""
    kernel.sethostname(HOST)
    kernel.mount("none", "/", "", MS_REC | MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/old")
    os.mkdir("/tmp/new")
    kernel.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    kernel.mount("tmpfs", "/new", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.makedirs("/new/tmp", exist_ok=True)  # before what is shown, for an environment may lie in /tmp
    bounds = f"size={limits.disk},nr_inodes={limits.files},mode=1777"
    kernel.mount("tmpfs", "/new/tmp", "tmpfs", MS_NOSUID | MS_NODEV, bounds)
    for path in paths:
        _show(path)
    for path, target in links:
        os.makedirs(os.path.dirname(f"/new{path}"), exist_ok=True)
        os.symlink(target, f"/new{path}")
    _devices()
    os.makedirs("/new/proc", exist_ok=True)
    kernel.mount("proc", "/new/proc", "proc", MS_NOSUID | MS_NODEV)
    os.chdir("/new")
    kernel.pivot_root(".", ".")
    kernel.umount(".")
    os.chdir("/")
    _read_only("/", recursive=False)


def _show(path: str) -> None:
    source, target = f"/old{path}", f"/new{path}"
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "x").close()
    kernel.mount(source, target, "", MS_BIND | MS_REC)
    _read_only(target, recursive=True)


def _read_only(path: str, *, recursive: bool) -> None:
    """Only mount_setattr (Linux 5.12) reaches the mounts beneath, and leaves flags alone that a plain user may not touch."""
    attributes = struct.pack("=4Q", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    where = ctypes.c_char_p(path.encode())
    kernel.syscall("mount_setattr", kernel.MOUNT_SETATTR, AT_FDCWD, where, flags, ctypes.c_char_p(attributes), 32)


def _devices() -> None:
    os.makedirs("/new/dev", exist_ok=True)
    for name in DEVICES:
        open(f"/new/dev/{name}", "x").close()
        kernel.mount(f"/old/dev/{name}", f"/new/dev/{name}", "", MS_BIND)
    for path, target in DEVICE_LINKS:
        os.symlink(target, f"/new{path}")
