"""What the C library does with the large blocks that a step frees: it keeps them for the next step, or gives them back.

Kept       the kernel need not clear gigabytes anew in each step, page by page, which takes a sixth of a step's time on a
           processor. But holes that nothing fits into stay: a LoRA on SmolLM2 with 2,048 tokens held 4.1 GB of which 2.4
           were in use (glibc before 2.38 does not even use a hole again for an aligned block of its own size).
Given back the process holds what is in use. For those who have chosen to spend time for memory: four bits, recomputation.

Both are thresholds of glibc's malloc (mallopt(3)); elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """For the rest of the process; -> whether the C library could be asked."""
    return _set(1 << 30, _MOST)


def give_back_freed_memory() -> bool:
    """For the rest of the process, of blocks of a megabyte and more; -> whether the C library could be asked."""
    return _set(1 << 20, 1 << 20)


def _set(mapped: int, trimmed: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018  (musl has a mallopt too, which does nothing)
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, mapped)) and bool(mallopt(_TRIM_THRESHOLD, trimmed))
