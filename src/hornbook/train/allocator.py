"""Memory that a training step gives back, and the next one wants again, stays with the process.

A step's activations are large blocks. The C library maps each from the system and unmaps it when it is freed, so that every
step the kernel clears some gigabytes, page by page: a tenth to a fifth of the time of a step on a processor. With both
thresholds of glibc's malloc raised (mallopt(3)) freed blocks are kept and used again.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library to, for the rest of the process; -> whether it does. Only glibc has the question."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  (musl has a mallopt too, which does nothing)
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, _MOST))
