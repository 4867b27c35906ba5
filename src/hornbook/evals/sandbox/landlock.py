"""Landlock: a process gives up, without any privilege, all files but some. Linux 5.13 and newer, where it is switched on.

Rights and their ABI versions: Linux, Documentation/userspace-api/landlock.rst. What it does not hold back: asking for a
file's size and dates (stat), and changing its owner, mode and dates; a user that owns none of them is the wall there.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from hornbook.evals.sandbox import kernel

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_AND_REMOVE = sum(1 << bit for bit in range(4, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15  # from ABI 2, 3 and 5 on
TCP = 1 << 0 | 1 << 1  # bind and connect, from ABI 4 on
SCOPES = 1 << 0 | 1 << 1  # abstract unix sockets and signals, from ABI 6 on
SIGNALS_SINCE = 6

READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # a rule for a single file may name no other


def version() -> int:
    """The kernel's Landlock ABI, 0 where there is none."""
    if not kernel.LINUX:
        return 0
    try:
        return kernel.syscall("landlock", kernel.LANDLOCK_CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Give up every file but those beneath these paths, for good; TCP and signals to others too where the ABI has them.

    Paths that do not exist are passed over: there is nothing there to allow.
    """
    abi = version()
    everything = READ | WRITE_FILE | MAKE_AND_REMOVE
    everything |= (REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0) | (IOCTL_DEV if abi >= 5 else 0)
    words = [everything, *([TCP] if abi >= 4 else []), *([SCOPES] if abi >= SIGNALS_SINCE else [])]
    attributes = struct.pack(f"={len(words)}Q", *words)
    rules = kernel.syscall(
        "landlock_create_ruleset", kernel.LANDLOCK_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0
    )
    try:
        for paths, access in ((readable, READ), (writable, everything & ~IOCTL_DEV)):
            for path in paths:
                _allow(rules, path, access & everything)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.syscall("landlock_restrict_self", kernel.LANDLOCK_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            access &= OF_FILES
        rule = struct.pack("=Qi", access, place)
        beneath = 1  # LANDLOCK_RULE_PATH_BENEATH
        kernel.syscall("landlock_add_rule", kernel.LANDLOCK_ADD_RULE, rules, beneath, ctypes.c_char_p(rule), 0)
    finally:
        os.close(place)
