"""A wall is believed when a program that tries to get over it was held: on this machine, under this user, now."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from functools import cache
from pathlib import Path

from hornbook.errors import SandboxError
from hornbook.evals.sandbox.kernel import LINUX
from hornbook.evals.sandbox.layers import WALLS
from hornbook.evals.sandbox.sandbox import Sandbox
from hornbook.forking import lock

PROMISES = {
    "network": "nothing is reached, not even this machine",
    "reading": "no file is read but Python's and the program's own",
    "writing": "no file is written but the program's own",
    "processes": "no process is signalled but the program's own",
    "memory": "memory is bounded",
    "killing": "nothing of it runs on when it has ended",
}

# Says as JSON what it could not do. The folder holds a file "secret" and a socket "door"; a server listens on the port; the process is ours.
TRIES = """
import json, os, socket, sys, time
folder, port, pid, memory = sys.stdin.read().split("\\n")
held = {}

def held_back(name, *attempts):
    held[name] = True
    for attempt in attempts:
        try:
            attempt()
            held[name] = False
        except (OSError, MemoryError):
            pass

def connect():
    with socket.socket() as tcp:
        tcp.settimeout(1)
        tcp.connect(("127.0.0.1", int(port)))

def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"", ("127.0.0.1", int(port)))

def speak():
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(folder + "/door")

def signal_somebody():
    if os.getpid() != int(pid) and os.path.exists("/proc/self/stat") and not os.path.exists(f"/proc/{pid}/stat"):
        raise ProcessLookupError
    os.kill(int(pid), 0)

secret = folder + "/secret"
held_back("network", connect, send, speak)
held_back("reading", lambda: open(secret).read(), lambda: os.listdir(folder))
held_back("writing", lambda: open(folder + "/new", "w"), lambda: os.chmod(secret, 0o666), lambda: os.truncate(secret, 0))
held_back("processes", signal_somebody)
held_back("memory", lambda: bytearray(int(memory)))
print(json.dumps(held), flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(5)
    os._exit(0)
"""
MEMORY_MB = 128

_lock = lock()


def best() -> Sandbox:
    """The first wall that keeps every promise, else the one that keeps most. Tried once a process and user."""
    with _lock:
        return _best(os.geteuid())


@cache
def _best(user: int) -> Sandbox:
    found: list[Sandbox] = []
    why_not: dict[str, str] = {}
    for wall in WALLS:
        if not LINUX and wall != "restricted":
            why_not[wall] = "needs Linux"
            continue
        try:
            found.append(Sandbox(wall, tried(Sandbox(wall, frozenset(), {})), dict(why_not)))
        except SandboxError as error:
            why_not[wall] = error.what
            continue
        if not found[-1].missing:
            break
        why_not[wall] = f"does not hold: {', '.join(found[-1].missing)}"
    if not found:
        raise SandboxError("no program can be run here: " + "; ".join(why_not.values()), "See docs/sandbox.md.")
    return max(found, key=lambda box: len(box.isolates))


def tried(box: Sandbox) -> frozenset[str]:
    """The promises that a program behind this wall could not break.

    Raises:
        SandboxError: no program could be started behind it.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hornbook-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as door,
    ):
        os.chmod(folder, 0o777)
        secret = Path(folder, "secret")
        secret.write_text("secret")
        secret.chmod(0o666)
        door.bind(f"{folder}/door")
        door.listen()
        os.chmod(f"{folder}/door", 0o777)
        port = server.getsockname()[1]
        given = "\n".join([folder, str(port), str(os.getpid()), str(2 * MEMORY_MB << 20)])
        run = box.run(TRIES, stdin=given, memory_mb=MEMORY_MB)
        if run.outcome != "ok":
            raise SandboxError(
                f"a first program failed behind {box.wall}: {(run.stderr or run.outcome).strip()[-200:]}"
            )
        held = {name for name, kept in json.loads(run.stdout).items() if kept}
    return frozenset(held if run.left_running else {*held, "killing"})


def refusal(box: Sandbox) -> SandboxError:
    """What is missing on this machine, and how to get it."""
    missing = "; ".join(f"{name} ({PROMISES[name]})" for name in box.missing)
    reasons = "; ".join(f"{wall}: {why}" for wall, why in box.why_not.items())
    return SandboxError(f"programs of a model cannot be contained here. Not held: {missing}. {reasons}", _remedy())


def _remedy() -> str:
    last = "or accept the risk: --allow-unsafe-code (allow_unsafe=True)"
    if not LINUX:
        return f"Run it on Linux, in a virtual machine for example, {last}."
    ways = [] if shutil.which("bwrap") else ["install bubblewrap (apt install bubblewrap)"]
    for name, good in (
        ("kernel/unprivileged_userns_clone", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0"),
        ("user/max_user_namespaces", ""),
    ):
        path = Path("/proc/sys", name)
        if path.exists() and (value := path.read_text().strip()) != good and (good or value == "0"):
            ways.append(f"sysctl -w {name.replace('/', '.')}={good or 10000}")
    if not ways:
        ways = ["allow user namespaces (a container: --security-opt seccomp=unconfined, or a privileged one)"]
    return f"As root: {', or '.join(ways)}; {last}."
