"""System calls that Python has no name for, through ctypes. An error is an OSError, as everywhere else."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

LINUX = sys.platform == "linux"
MACHINE = os.uname().machine

# include/uapi/asm-generic/unistd.h: calls newer than 2019 have one number on every machine
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
MOUNT_SETATTR = 442
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38

PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 8, 24, 47

# include/uapi/linux/capability.h
CAP_DAC_READ_SEARCH, CAP_SETGID, CAP_SETUID, CAP_SETPCAP = 2, 6, 7, 8
_HEADER = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)  # _LINUX_CAPABILITY_VERSION_3, of this process

# include/uapi/linux/sched.h
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> tuple[int, int]:
    """Of the kernel: (6, 12)."""
    parts = "".join(letter if letter.isdigit() else " " for letter in os.uname().release).split()
    return int(parts[0]), int(parts[1])


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


def sethostname(name: str) -> None:
    _checked(_libc.sethostname(name.encode(), ctypes.c_size_t(len(name))), "sethostname")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    given = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _checked(_libc.mount(*given), f"mount {target}")


def umount(target: str) -> None:
    """Detach a mount, at once from sight and for good when its last user is gone (MNT_DETACH)."""
    _checked(_libc.umount2(target.encode(), 2), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    syscall("pivot_root", PIVOT_ROOT[MACHINE], ctypes.c_char_p(new.encode()), ctypes.c_char_p(old.encode()))


def has_right(*rights: int) -> bool:
    """Does this process hold all of these capabilities?"""
    sets = ctypes.create_string_buffer(24)  # two words each of effective, permitted, inheritable: low half, high half
    _checked(_libc.capget(ctypes.create_string_buffer(_HEADER), sets), "capget")
    held = int.from_bytes(sets.raw[:4], sys.byteorder)
    return all(held >> right & 1 for right in rights)


def drop_rights(keep: int | None = None) -> None:
    """Give up every capability but one, with no_new_privs for good, and over exec: a root that stays root is then none."""
    kept = 0 if keep is None else 1 << keep
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    with suppress(OSError):  # a plain user has no such right, and nothing to drop
        _set_rights(kept | 1 << CAP_SETPCAP, kept)
        for right in range(64):  # OSError past the last that this kernel has
            if right != keep:
                prctl(PR_CAPBSET_DROP, right)
    _set_rights(kept, kept)
    if keep is not None:
        prctl(PR_CAP_AMBIENT, 2, keep)  # PR_CAP_AMBIENT_RAISE


def _set_rights(held: int, inherited: int) -> None:
    low = [word.to_bytes(4, sys.byteorder) for word in (held, held, inherited)]  # effective, permitted, inheritable
    _checked(
        _libc.capset(ctypes.create_string_buffer(_HEADER), ctypes.create_string_buffer(b"".join(low), 24)), "capset"
    )
