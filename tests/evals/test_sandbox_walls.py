"""What the walls are made of: which is taken, what is said where none holds, what the filter of system calls lets pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hornbook.errors import SandboxError
from hornbook.evals.sandbox import landlock, layers, probe, seccomp
from hornbook.evals.sandbox.sandbox import Sandbox

ALL = frozenset(probe.PROMISES)


@pytest.fixture
def walls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, frozenset[str]]], None]]:
    """Say what each wall would hold; a wall that is not named cannot be built."""

    def say(holds: dict[str, frozenset[str]]) -> None:
        def tried(box: Sandbox) -> frozenset[str]:
            if box.wall not in holds:
                raise SandboxError(f"{box.wall} is not here")
            return holds[box.wall]

        monkeypatch.setattr(probe, "tried", tried)
        monkeypatch.setattr(probe, "LINUX", True)

    probe._best.cache_clear()
    yield say
    probe._best.cache_clear()


def test_the_first_wall_that_holds_everything_is_taken(walls: Callable[..., None]) -> None:
    walls({"bubblewrap": ALL - {"memory"}, "namespaces": ALL, "restricted": ALL})
    box = Sandbox.find()
    assert (box.wall, box.missing) == ("namespaces", ())
    assert box.why_not == {"bubblewrap": "does not hold: memory"}


def test_too_little_is_an_error_that_says_what_why_and_how_to_get_it(
    walls: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    walls({"restricted": ALL - {"network", "reading"}})
    with pytest.raises(SandboxError) as caught:
        Sandbox.find()
    assert "network (nothing is reached" in caught.value.what and "reading" in caught.value.what
    assert "bubblewrap is not here" in caught.value.what
    assert "apt install bubblewrap" in caught.value.remedy and "--allow-unsafe-code" in caught.value.remedy
    box = Sandbox.find(allow_unsafe=True)
    assert (box.wall, box.missing) == ("restricted", ("network", "reading"))


def test_the_wall_that_holds_most_is_taken_where_none_holds_all(walls: Callable[..., None]) -> None:
    walls({"bubblewrap": ALL - {"memory"}, "restricted": frozenset({"killing"})})
    assert Sandbox.find(allow_unsafe=True).wall == "bubblewrap"


def test_no_wall_at_all_is_an_error_even_when_allowed(walls: Callable[..., None]) -> None:
    walls({})
    with pytest.raises(SandboxError, match="restricted is not here"):
        Sandbox.find(allow_unsafe=True)


def test_where_walls_are_unknown_it_is_said(walls: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    walls({"restricted": frozenset({"killing"})})
    monkeypatch.setattr(probe, "LINUX", False)
    with pytest.raises(SandboxError, match="bubblewrap: needs Linux") as caught:
        Sandbox.find()
    assert "Run it on Linux" in caught.value.remedy


def test_a_wall_that_cannot_be_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "command", lambda wall, limits, report: ["/bin/sh", "-c", "echo 'no room' >&2; exit 1"])
    with pytest.raises(SandboxError, match="no room"):
        Sandbox("restricted", frozenset(), {}).run("pass")
    monkeypatch.setattr(layers, "command", lambda wall, limits, report: ["/not/there"])
    with pytest.raises(SandboxError, match="cannot start"):
        Sandbox("restricted", frozenset(), {}).run("pass")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux")
def test_what_a_program_sees_is_python_and_nothing_of_a_person() -> None:
    home = os.path.expanduser("~")
    assert all(path not in (home, "/", "/etc", os.getcwd()) for path in layers.python_paths())
    assert not any(home.startswith(path + "/") for path in layers.python_paths() if home != "/")
    assert any(os.__file__.startswith(path) for path in layers.python_paths())


@pytest.mark.skipif(sys.platform != "linux", reason="it takes from Linux what others do not have")
def test_a_kernel_without_walls_is_found_out_and_its_limits_still_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: no Landlock, no filter, no list of processes. What does not hold must not be promised."""
    without = "from hornbook.evals.sandbox import kernel; kernel.LINUX = False; main(int"
    monkeypatch.setattr(layers, "BOOT", layers.BOOT.replace("main(int", without))
    box = Sandbox("restricted", frozenset(), {})
    assert probe.tried(box) <= {"memory"}
    assert box.run("while True: pass", seconds=0.3).outcome == "timeout"
    assert box.run("import os\nwhile True: os.write(1, bytes(1000))", output_bytes=1000).outcome == "output"
    assert box.run("print(6 * 7)").stdout == "42\n"


@pytest.mark.skipif(not landlock.version() or not seccomp.supported(), reason="nothing to take away")
@pytest.mark.parametrize(
    ("gone", "lost"),
    [
        ("landlock.version = lambda: 0", {"reading", "writing"}),  # signals are the filter's then
        ("seccomp.supported = lambda: False", {"network", "writing"}),  # UDP, Unix sockets; modes of files
    ],
    ids=["Landlock", "the filter of calls"],
)
def test_older_kernels_lose_what_they_lose_and_walls_make_up_for_it(
    gone: str, lost: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without = f"from hornbook.evals.sandbox import landlock, seccomp; {gone}; main(int"
    monkeypatch.setattr(layers, "BOOT", layers.BOOT.replace("main(int", without))
    held = probe.tried(Sandbox("restricted", frozenset(), {}))
    if gone.startswith("seccomp") and os.geteuid() == 0:
        lost = lost - {"writing"}  # modes of root's files are not nobody's to change
    assert held == ALL - lost
    try:
        assert probe.tried(Sandbox("namespaces", frozenset(), {})) == ALL
    except SandboxError as error:
        pytest.skip(error.what)


def test_a_python_that_must_be_told_where_its_library_lies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.path.join(sys.base_prefix, "lib")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/somebody/else:{own}")
    assert layers.libraries() == {"LD_LIBRARY_PATH": own}
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somebody/else")
    assert layers.libraries() == {}


# A plain user: root's tests start again as nobody, with a Python that nobody may read


def _readable_python() -> str:
    for python in (sys.executable, shutil.which("python3", path="/usr/bin") or ""):
        try:
            done = subprocess.run(
                [python, "-c", "import sys, hornbook; print(*sys.version_info[:2])"],
                **_AS_NOBODY, capture_output=True, text=True, timeout=30,
            )  # fmt: skip
        except OSError:
            continue
        if done.returncode == 0 and tuple(map(int, done.stdout.split())) >= (3, 11):
            return python
    pytest.skip("no Python that a plain user may read")


_AS_NOBODY = {
    "user": 65534, "group": 65534, "extra_groups": (), "cwd": "/",
    "env": {"PYTHONPATH": str(Path(layers.HOUSE).parent), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"},
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="the other tests ran as a plain user already")
@pytest.mark.parametrize("wall", layers.WALLS)
def test_walls_hold_for_a_plain_user(wall: str) -> None:
    program = f"""
from hornbook.errors import SandboxError
from hornbook.evals.sandbox import probe
from hornbook.evals.sandbox.sandbox import Sandbox
box = Sandbox({wall!r}, frozenset(), {{}})
try:
    print("held", *sorted(probe.tried(box)))
except SandboxError as error:
    print("skip", error.what)
else:
    bomb = "import os\\nfor _ in range(2000):\\n  try: os.fork()\\n  except OSError: pass\\nprint(len(os.listdir('/proc')))"
    run = box.run(bomb, seconds=2)
    print(run.outcome in ("ok", "timeout", "processes", "output", "failed"), run.left_running)
    print(box.run("x = []\\nwhile True: x.append(bytes(1 << 20))", memory_mb=64).outcome)
    print(box.run("f = open('big', 'wb')\\nwhile True: f.write(b'x' * (1 << 20))", disk_mb=4).outcome)
"""
    done = subprocess.run(
        [_readable_python(), "-c", program], **_AS_NOBODY, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    first, *rest = done.stdout.splitlines() or [done.stderr]
    if first.startswith("skip"):
        pytest.skip(first)
    assert first.split() == ["held", *sorted(ALL)], done.stderr
    assert rest == ["True False", "memory", "disk"]


@pytest.mark.skipif(not landlock.version() or not seccomp.supported(), reason="what is left in a container needs both")
def test_a_container_without_rights_and_namespaces_still_contains_programs() -> None:
    box = ["bwrap", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--dev-bind", "/", "/"]
    try:
        subprocess.run([*box, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no bubblewrap that could play the container: {error}")
    look = "from hornbook.evals.sandbox.sandbox import Sandbox; box = Sandbox.find(); print(box.wall, *box.why_not)"
    done = subprocess.run([*box, sys.executable, "-c", look], capture_output=True, text=True)
    assert done.stdout == "restricted bubblewrap namespaces\n", done.stderr


# The filter, interpreted as the kernel does: it must be right on machines that no test here runs on


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None, **may: bool) -> str:
    """What the filter says to one system call."""
    known = seccomp.ARCHITECTURE[machine] if architecture is None else architecture
    words = [
        number,
        known,
        0,
        0,
        *[word for value in (*arguments, 0, 0, 0) for word in (value & 0xFFFFFFFF, value >> 32)],
    ]
    code = seccomp.program(machine, **{"attributes": True, "signals": True, **may})
    at = value = 0
    while True:
        kind, true, false, operand = code[at]
        at += 1
        if kind == 0x06:
            return {0x7FFF0000: "allow", 0x80000000: "kill", 0x50001: "refuse", 0x50026: "unknown"}[operand]
        if kind == 0x20:
            value = words[operand // 4]
        else:
            met = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[kind]
            at += true if met else false


NUMBERS = {  # read, write, openat, mmap, execve, exit_group, futex
    "x86_64": (0, 1, 257, 9, 59, 231, 202),
    "aarch64": (63, 64, 56, 222, 221, 94, 98),
}


@pytest.mark.parametrize("machine", NUMBERS)
def test_the_filter_lets_programs_work_and_refuses_what_leads_out(machine: str) -> None:
    column = list(seccomp.ARCHITECTURE).index(machine)
    assert [verdict(machine, number) for number in NUMBERS[machine]] == ["allow"] * 7
    refused = [numbers[column] for numbers in seccomp.REFUSED.values()]
    assert {verdict(machine, number) for number in refused if number is not None} == {"refuse"}
    clone, socketpair, prlimit, ioctl, fcntl, personality = (
        getattr(seccomp, name)[column] for name in ("CLONE", "SOCKETPAIR", "PRLIMIT64", "IOCTL", "FCNTL", "PERSONALITY")
    )
    assert [verdict(machine, clone, flags) for flags in (17, 0x3D0F00, 0x10000011)] == ["allow", "allow", "refuse"]
    assert [verdict(machine, socketpair, family) for family in (1, 2)] == ["allow", "refuse"]
    assert [verdict(machine, prlimit, who) for who in (0, 1)] == ["allow", "refuse"]
    assert [verdict(machine, ioctl, 1, what) for what in (0x5401, 0x5412, 0x541C)] == ["allow", "refuse", "refuse"]
    assert [verdict(machine, ioctl, 1, 0x8901, signals=may) for may in (True, False)] == ["allow", "refuse"]
    assert [verdict(machine, fcntl, 1, 8, signals=may) for may in (True, False)] == ["allow", "refuse"]
    assert [verdict(machine, fcntl, 1, what, signals=False) for what in (1, 3)] == ["allow", "allow"]
    assert [verdict(machine, personality, what) for what in (0, 0xFFFFFFFF, 0x40000)] == ["allow", "allow", "refuse"]


@pytest.mark.parametrize("machine", NUMBERS)
def test_the_filter_is_stricter_where_nothing_else_stands(machine: str) -> None:
    column = list(seccomp.ARCHITECTURE).index(machine)
    for table, name in ((seccomp.ATTRIBUTES, "attributes"), (seccomp.SIGNALS, "signals")):
        numbers = [numbers[column] for numbers in table.values() if numbers[column] is not None]
        assert {verdict(machine, number) for number in numbers} == {"allow"}
        assert {verdict(machine, number, **{name: False}) for number in numbers} == {"refuse"}


def test_calls_of_another_numbering_end_the_program() -> None:
    assert verdict("x86_64", 0, architecture=0x40000003) == "kill"  # 32-bit calls
    assert verdict("x86_64", 0x40000000 + 41) == "kill"  # x32's socket
    assert verdict("aarch64", 41, architecture=seccomp.ARCHITECTURE["x86_64"]) == "kill"
    assert verdict("x86_64", 435) == verdict("aarch64", 435) == "unknown"  # clone3
    assert verdict("x86_64", 9999) == "unknown"
