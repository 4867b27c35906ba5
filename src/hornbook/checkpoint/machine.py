"""How much memory this machine has to give now: what the system calls available, within the limit of a container."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_CGROUP = Path("/sys/fs/cgroup")


class Room(NamedTuple):
    """Bytes that are free on a device, and what it is called."""

    name: str
    free: int


def room(device: str) -> Room | None:
    """The room on "cpu", "cuda" or "cuda:1"; Apple's GPU shares that of the processor. None where it cannot be told."""
    if device.startswith("cuda"):
        import torch

        left, _ = torch.cuda.mem_get_info(device)
        return Room(torch.cuda.get_device_name(device), left)
    free = available()
    return None if free is None else Room("this machine", free)


def give_back() -> None:
    """Hand what was freed, and is kept for later by C's allocator, to the system: where glibc is."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another allocator than glibc's
            ctypes.CDLL(None).malloc_trim(0)


def available() -> int | None:
    """Bytes of main memory that a program could take now without others being pushed to disk."""
    if sys.platform == "win32":
        return _windows()
    if sys.platform == "darwin":
        return _macos()
    found = [free for free in (_meminfo(Path("/proc/meminfo")), _container(_CGROUP)) if free is not None]
    return min(found, default=None)


def _meminfo(path: Path) -> int | None:
    try:
        for line in path.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _container(folder: Path) -> int | None:
    """What cgroup version 2 leaves: the limit less what is used, of which cached files count as free."""
    try:
        limit = (folder / "memory.max").read_text("ascii").strip()
        if limit == "max":
            return None
        used = int((folder / "memory.current").read_text("ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
        return max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def _macos() -> int | None:
    """Free, inactive, speculative and purgeable pages, as vm_stat counts them."""
    try:
        said = subprocess.run(["vm_stat"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    pages = 0
    for line in said.splitlines():
        name, _, count = line.partition(":")
        if name in ("Pages free", "Pages inactive", "Pages speculative", "Pages purgeable"):
            pages += int(count.strip(" ."))
    return pages * os.sysconf("SC_PAGE_SIZE") if pages else None


def _windows() -> int | None:
    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "t1", "f1", "t2", "f2", "extended")),
        )

    status = Status(length=ctypes.sizeof(Status))
    library = getattr(ctypes, "windll").kernel32  # noqa: B009 - only there on Windows
    return int(status.free) if library.GlobalMemoryStatusEx(ctypes.byref(status)) else None
