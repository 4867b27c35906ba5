"""What a program may use, and the limits of these that the kernel holds for each process (setrlimit)."""

from __future__ import annotations

import resource

SLACK = 2 << 30  # bytes of addresses beyond the memory: shared libraries, reserved arenas and stacks take no memory


class Limits:
    """Of the whole program with all that it starts. Sizes in bytes, times in seconds."""

    def __init__(
        self,
        *,
        seconds: float = 10.0,  # on the clock
        cpu_seconds: float = 10.0,  # of all processors together
        memory: int = 512 << 20,  # of all processes together, the files of the folder not counted
        processes: int = 16,  # with threads, at one time
        output: int = 1 << 20,  # standard output and error together
        disk: int = 64 << 20,  # all files of the folder together, and any one of them
        files: int = 4096,  # files and folders in the folder
        open_files: int = 256,  # of each process
    ) -> None:
        self.seconds = seconds
        self.cpu_seconds = cpu_seconds
        self.memory = memory
        self.processes = processes
        self.output = output
        self.disk = disk
        self.files = files
        self.open_files = open_files


def apply(limits: Limits, *, processes: int | None) -> None:
    """Hold this process, and what it starts, to the limits that a kernel knows. Nothing here can be raised again.

    ``processes`` is RLIMIT_NPROC, which counts the tasks of a user in a user namespace: None leaves it alone.
    RLIMIT_DATA is what counts as memory, and not RLIMIT_AS: threads and allocators reserve addresses they never touch.
    """
    cpu = max(1, round(limits.cpu_seconds + 0.5))
    wanted: dict[str, tuple[int, int]] = {
        "RLIMIT_CPU": (cpu, cpu + 1),  # SIGXCPU, which can be caught, and a second later SIGKILL
        "RLIMIT_DATA": (limits.memory, limits.memory),
        "RLIMIT_AS": (limits.memory + SLACK, limits.memory + SLACK),
        "RLIMIT_FSIZE": (limits.disk, limits.disk),
        "RLIMIT_NOFILE": (limits.open_files, limits.open_files),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_MEMLOCK": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
    }
    if processes is not None:
        wanted["RLIMIT_NPROC"] = (processes, processes)
    for name, (soft, hard) in wanted.items():
        kind = getattr(resource, name, None)  # macOS knows fewer
        if kind is None:
            continue
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        try:
            resource.setrlimit(kind, (soft, hard))
        except (ValueError, OSError):
            if name not in ("RLIMIT_AS", "RLIMIT_DATA"):  # macOS refuses these two; docs/sandbox.md says so
                raise
