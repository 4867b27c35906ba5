"""The walls that a machine may have, best first, and how the warden is started behind each of them.

bubblewrap   a small program made for this; allowed even where distributions forbid user namespaces to others
namespaces   the same walls, built by ourselves
restricted   no walls: an ordinary process that gave up what the kernel lets it give up (Landlock, a filter of calls)
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import hornbook
from hornbook.evals.sandbox import warden
from hornbook.evals.sandbox.limits import Limits
from hornbook.evals.sandbox.namespaces import DEVICE_LINKS, DEVICES, HOST, INSIDE_USER

Wall: TypeAlias = Literal["bubblewrap", "namespaces", "restricted"]
WALLS: tuple[Wall, ...] = ("bubblewrap", "namespaces", "restricted")

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
PREFIX_PARTS = ("bin", "lib", "lib64", "pyvenv.cfg")
HOUSE = str(Path(hornbook.__file__).parent)

# The warden's start: no site-packages (-S), nothing of the environment or the current folder (-I). Hornbook's own
# beginning is passed over: what it imports would cost more time than the warden itself.
BOOT = f"""
import sys
house = sys.modules["hornbook"] = type(sys)("hornbook")
house.__path__ = [sys.argv[1]]
from {warden.__name__} import main
main(int(sys.argv[2]))
"""


@cache
def python_paths() -> tuple[str, ...]:
    """The files and folders without which this Python cannot run a program, its packages with it; none of a person's.

    Of an environment only its ``bin`` and ``lib``: it often lies in somebody's project or home folder.
    """
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    prefixes.add(os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))))
    wanted = {os.path.join(prefix, part) for prefix in prefixes for part in PREFIX_PARTS}
    wanted |= {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return _outermost([*SYSTEM, *SYSTEM_FILES, *sorted(wanted)])


def _outermost(paths: list[str]) -> tuple[str, ...]:
    """Those that exist, each once, without those beneath another; a link's own path, and what it leads to as well."""
    wanted = {os.path.normpath(path) for path in paths if os.path.exists(path)}
    wanted |= {os.path.realpath(path) for path in wanted}
    kept: list[str] = []
    for path in sorted(wanted, key=lambda path: (path.count(os.sep), path)):
        if not any(path.startswith(other + os.sep) for other in kept if not os.path.islink(other)):
            kept.append(path)
    return tuple(kept)


def libraries() -> dict[str, str]:
    """What the loader must be told, where this Python finds its own library only by being told (LD_LIBRARY_PATH)."""
    told = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    seen = [path for path in told if any(Path(path).is_relative_to(place) for place in places())]
    return {"LD_LIBRARY_PATH": os.pathsep.join(seen)} if seen else {}


def links() -> tuple[tuple[str, str], ...]:
    """Those of ``python_paths`` that are links (``/lib`` -> ``usr/lib``), which stay links inside."""
    return tuple((path, os.readlink(path)) for path in python_paths() if os.path.islink(path))


def places() -> tuple[str, ...]:
    """Those that are not."""
    return tuple(path for path in python_paths() if not os.path.islink(path))


def command(wall: Wall, limits: Limits, report: int) -> list[str]:
    """What starts the warden behind a wall; it writes its report to the file descriptor ``report``."""
    interpreter = sys.executable
    start = [interpreter, "-I", "-S", "-B", "-c", BOOT, HOUSE, str(report)]
    if wall != "bubblewrap":
        return start
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise FileNotFoundError("bubblewrap (bwrap) is not installed")
    arguments = [bubblewrap, "--die-with-parent", "--as-pid-1", "--new-session"]
    arguments += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if os.geteuid() == 0:
        # the program gets another user (see namespaces.py), for which its warden keeps these rights, inside
        for right in ("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SYS_PTRACE"):
            arguments += ["--cap-add", right]
    else:
        arguments += ["--unshare-user", "--uid", str(INSIDE_USER), "--gid", str(INSIDE_USER)]
    # before what is shown, for an environment may lie in /tmp
    arguments += ["--size", str(limits.disk), "--perms", "1777", "--tmpfs", "/tmp"]
    for path in (*places(), HOUSE):
        for parent in reversed(Path(path).parents[:-1]):
            arguments += ["--dir", str(parent)]  # left to itself, bubblewrap makes some that only root may enter
        arguments += ["--ro-bind", path, path]
    for path, target in links():
        arguments += ["--symlink", target, path]
    arguments += ["--dir", "/dev", "--hostname", HOST]
    for name in DEVICES:
        arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for path, target in DEVICE_LINKS:
        arguments += ["--symlink", target, path]
    arguments += ["--proc", "/proc", "--remount-ro", "/", "--chdir", "/", "--"]
    return arguments + start
