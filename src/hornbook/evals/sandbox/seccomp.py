"""A filter of system calls (seccomp BPF): what a program of a model never needs, and what could reach out of its box.

Refused calls fail with EPERM, so that a program gets a Python exception and no mystery; calls of another machine's or
another ABI's numbering kill it. The filter is inherited by everything that the program starts and cannot be taken off.
Form of a filter: Linux, Documentation/userspace-api/seccomp_filter.rst; numbers: asm/unistd_64.h, asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import struct

from hornbook.evals.sandbox import kernel

ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
NEWEST = 466  # calls with a higher number came after this file and are unknown to it

# name: (x86_64, aarch64); None: that machine never had it
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # the network, all kinds of it
    "socket": (41, 198),
    # other processes: their memory, their files, their state
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "perf_event_open": (298, 241), "lookup_dcookie": (212, 18),
    # mounts, roots, namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    # the kernel and the machine
    "bpf": (321, 280), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "syslog": (103, 116), "acct": (163, 89), "iopl": (172, None),
    "ioperm": (173, None), "modify_ldt": (154, None), "vhangup": (153, 58), "sethostname": (170, 161),
    "setdomainname": (171, 162), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # memory that no process and no folder answers for, so that no limit would see it
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "remap_file_pages": (216, 234),
}  # fmt: skip

# Where no wall stands between the program and its user's files and processes, what Landlock lets pass: modes, owners
# and dates of the ones, priority and processors of the others
ATTRIBUTES: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "truncate": (76, 45), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "setxattrat": (463, 463), "removexattrat": (466, 466),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
}  # fmt: skip
# ... and between it and the processes of its user
SIGNALS: dict[str, tuple[int | None, int | None]] = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
}  # fmt: skip
CLONE, CLONE3 = (56, 220), 435
SOCKETPAIR, PRLIMIT64, IOCTL, FCNTL, PERSONALITY = (53, 199), (302, 261), (16, 29), (72, 25), (135, 92)
NAMESPACES = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWCGROUP | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
)  # fmt: skip
TYPING = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: ioctls that type into the terminal of whoever started us
OWNING = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: ioctls that name who gets a signal when a pipe has data
F_OWNING = (8, 15)  # F_SETOWN, F_SETOWN_EX: fcntl's way to the same
AF_UNIX = 1

EPERM, ENOSYS = 1, 38
ALLOW, KILL = 0x7FFF0000, 0x80000000  # SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = (
    0x20,
    0x15,
    0x35,
    0x45,
    0x06,
)  # BPF_LD|W|ABS, BPF_JMP|JEQ, JGE, JSET, BPF_RET


def _refuse(error: int) -> int:
    return 0x00050000 | error  # SECCOMP_RET_ERRNO


def supported() -> bool:
    """Does this file know the machine's numbers? Whether the kernel takes a filter shows when it is given one."""
    return kernel.LINUX and kernel.MACHINE in ARCHITECTURE


def program(machine: str, *, attributes: bool, signals: bool) -> list[tuple[int, int, int, int]]:
    """The filter as instructions (code, steps when true, steps when false, operand).

    ``attributes``: may it change those of files and processes? ``signals``: may it send any?
    """
    column = list(ARCHITECTURE).index(machine)
    word = {name: 16 + 8 * place for place, name in enumerate(("first", "second", "third"))}  # low half, little-endian
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, ARCHITECTURE[machine]), (_RETURN, 0, 0, KILL), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":  # the x32 numbering, which would go round every rule below
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, KILL)]
    code += [(_AT_LEAST, 0, 1, NEWEST + 1), (_RETURN, 0, 0, _refuse(ENOSYS))]
    # glibc falls back to clone, whose flags can be seen; those of clone3 lie in memory
    code += [(_EQUAL, 0, 1, CLONE3), (_RETURN, 0, 0, _refuse(ENOSYS))]
    for numbers in [
        *REFUSED.values(),
        *([] if attributes else ATTRIBUTES.values()),
        *([] if signals else SIGNALS.values()),
    ]:
        number = numbers[column]
        if number is not None:
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _refuse(EPERM))]

    def when(call: tuple[int, int], argument: str, test: int, *values: int, met: int, else_: int) -> None:
        """For one call: ``met`` when its argument passes the test with any of the values, ``else_`` otherwise."""
        code.extend([(_EQUAL, 0, 2 * len(values) + 2, call[column]), (_LOAD, 0, 0, word[argument])])
        for value in values:
            code.extend([(test, 0, 1, value), (_RETURN, 0, 0, met)])
        code.append((_RETURN, 0, 0, else_))

    refuse = _refuse(EPERM)
    when(CLONE, "first", _ANY_BIT, NAMESPACES, met=refuse, else_=ALLOW)
    when(SOCKETPAIR, "first", _EQUAL, AF_UNIX, met=ALLOW, else_=refuse)  # a pipe with two ends, which asyncio needs
    when(PRLIMIT64, "first", _EQUAL, 0, met=ALLOW, else_=refuse)  # a process's own limits only
    when(PERSONALITY, "first", _EQUAL, 0, 0xFFFFFFFF, met=ALLOW, else_=refuse)
    when(IOCTL, "second", _EQUAL, *TYPING, *(() if signals else OWNING), met=refuse, else_=ALLOW)
    if not signals:
        when(FCNTL, "second", _EQUAL, *F_OWNING, met=refuse, else_=ALLOW)
    return [*code, (_RETURN, 0, 0, ALLOW)]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def restrict(*, attributes: bool, signals: bool) -> None:
    """Filter the calls of this process and of all it will start, for good. OSError where the kernel has no filters."""
    code = b"".join(
        struct.pack("=HBBI", *step) for step in program(kernel.MACHINE, attributes=attributes, signals=signals)
    )
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_SECCOMP, 2, ctypes.byref(_Program(len(code) // 8, code)))  # SECCOMP_MODE_FILTER
