"""System calls that Python has no name for, through ctypes. An error is an OSError, as everywhere else."""

from __future__ import annotations

import ctypes
import os
import sys

LINUX = sys.platform == "linux"
MACHINE = os.uname().machine

# include/uapi/asm-generic/unistd.h: calls newer than 2019 have one number on every machine
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
MOUNT_SETATTR = 442
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38

# include/uapi/linux/sched.h
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x80

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _words(arguments: tuple[object, ...]) -> list[object]:
    """Integers as whole machine words: a variadic C function reads 64 bits of each."""
    return [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]


def syscall(name: str, number: int, *arguments: object) -> int:
    """One system call by its number; ``name`` is for the error."""
    return _checked(_libc.syscall(ctypes.c_long(number), *_words(arguments)), name)


def prctl(option: int, *arguments: object) -> None:
    given = [*_words(arguments), *[ctypes.c_long(0)] * (4 - len(arguments))]
    _checked(_libc.prctl(option, *given), f"prctl {option}")


def unshare(flags: int) -> None:
    """Leave namespaces that are shared with the parent. os.unshare exists from Python 3.12 on."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    given = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _checked(_libc.mount(*given), f"mount {target}")


def umount(target: str) -> None:
    """Detach a mount, at once from sight and for good when its last user is gone (MNT_DETACH)."""
    _checked(_libc.umount2(target.encode(), 2), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    syscall("pivot_root", PIVOT_ROOT[MACHINE], ctypes.c_char_p(new.encode()), ctypes.c_char_p(old.encode()))
