"""Programs that try to get out, to stay, or to eat the machine, behind every wall that this machine has."""

from __future__ import annotations

import ast
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hornbook.errors import SandboxError, UsageError
from hornbook.evals.sandbox import kernel, probe, warden
from hornbook.evals.sandbox.layers import WALLS
from hornbook.evals.sandbox.sandbox import Sandbox

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="walls are Linux's; elsewhere docs/sandbox.md says what is not held"
)


@pytest.fixture(scope="module", params=WALLS)
def box(request: pytest.FixtureRequest) -> Sandbox:
    """Each wall, with what it was seen to hold here."""
    bare = Sandbox(request.param, frozenset(), {})
    try:
        return Sandbox(request.param, probe.tried(bare), {})
    except SandboxError as error:
        pytest.skip(error.what)


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A folder that every user may use: pytest's own are closed to the user that a program is."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        yield Path(place)


@pytest.fixture
def outside(box: Sandbox, anybodys: Path) -> Iterator[Path]:
    """A folder of this machine that anybody may read and write, with a secret in it, as a home folder has."""
    if box.missing:
        pytest.skip(f"{box.wall} does not hold {', '.join(box.missing)} on this machine")
    folder = anybodys / "home"
    (folder / ".ssh").mkdir(parents=True)
    (folder / ".ssh" / "id_rsa").write_text("the secret")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    yield folder
    assert (folder / ".ssh" / "id_rsa").read_text() == "the secret"
    assert [path.name for path in folder.rglob("*")] == [".ssh", "id_rsa"]
    assert folder.stat().st_mode & 0o777 == 0o777


# Each line of these programs is tried by itself; what it raises is printed, or what it got hold of
TRY = """
import ctypes, os, shutil, signal, socket, subprocess, sys
def attempt(action):
    try:
        print("GOT", action())
    except (Exception, SystemExit) as error:
        print(type(error).__name__)
"""


def tried(box: Sandbox, *lines: str, before: str = "") -> list[str]:
    program = TRY + before + "".join(f"\nattempt(lambda: {line})" for line in lines)
    run = box.run(program, seconds=8)
    assert run.outcome == "ok", run
    return run.stdout.splitlines()


IN_TMP = (
    """
import sys
from hornbook.evals.sandbox.sandbox import Sandbox
program = """
    + repr(
        """
import os, sys
print(sys.prefix)
for place in (sys.prefix, os.path.join(sys.prefix, "lib"), os.path.dirname(sys.prefix)):
    try:
        open(os.path.join(place, "mine"), "w")
        print("wrote")
    except OSError:
        print("kept")
print(os.path.exists(os.path.join(os.path.dirname(sys.prefix), "secret")))
"""
    )
    + """
run = Sandbox(sys.argv[1], frozenset(), {}).run(program)
print([run.outcome, run.stderr, *run.stdout.split()])
"""
)


def test_an_environment_in_the_folder_of_temporary_files_runs_programs_too(box: Sandbox, anybodys: Path) -> None:
    """Where the sandbox puts a new, empty one over it: of the old one the environment is seen, and cannot be changed."""
    own = anybodys / "environment"
    venv.create(own, with_pip=False, symlinks=True)
    (anybodys / "secret").write_text("of the host")
    (packages,) = own.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text("\n".join(path for path in sys.path if os.path.isdir(path)))
    command = [str(own / "bin" / "python"), "-c", IN_TMP, box.wall]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    outcome, errors, prefix, *kept, secret = ast.literal_eval(done.stdout)
    assert (outcome, errors, prefix) == ("ok", "", str(own))
    assert kept == ["kept"] * 3 or "writing" in box.missing
    assert secret == "False" or box.wall == "restricted", "whose names can be seen"


def running(marker: str) -> list[int]:
    """The processes of this machine that were given the marker as an argument of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def test_a_program_says_what_it_has_to_say(box: Sandbox) -> None:
    program = "import sys; print(sys.stdin.read().upper()); print('角书', file=sys.stderr); print(open('a/b.txt').read()); sys.exit(3)"
    run = box.run(program, stdin="straße 角", files={"a/b.txt": "naïve"})
    assert (run.stdout, run.stderr) == ("STRASSE 角\nnaïve\n", "角书\n")
    assert (run.exit_code, run.outcome, run.ok) == (3, "failed", False)
    assert 0 < run.seconds < 5


def test_input_ends_and_the_folder_holds_only_the_programs_own(box: Sandbox) -> None:
    run = box.run("import os, sys; print([sys.stdin.read(), os.listdir('.')], os.isatty(0))")
    assert run.stdout == "['', ['main.py']] False\n"


def test_nothing_of_ours_is_open(box: Sandbox) -> None:
    """Neither a pipe of the warden nor a folder from outside."""
    tries = "import os\nfor n in range(256):\n  try: os.fstat(n); print(n)\n  except OSError: pass"
    assert box.run(tries).stdout.split() == ["0", "1", "2"]


def test_a_file_can_be_imported_and_written(box: Sandbox) -> None:
    run = box.run(
        "import helper; open('out', 'w').write('x' * helper.n); print(len(open('out').read()))",
        files={"helper.py": b"n = 7"},
    )
    assert run.stdout == "7\n", run.stderr


@pytest.mark.parametrize("program", ["\ud83d", "x = '\0'", "print(", "\ufeffprint(", "﻿raise SystemExit('角')"])
def test_what_is_no_program_fails_as_python_says(box: Sandbox, program: str) -> None:
    run = box.run(program)
    assert run.outcome == "failed" and run.exit_code == 1 and run.stderr


def test_a_signal_that_ends_it_is_its_exit_code(box: Sandbox) -> None:
    run = box.run("import faulthandler; faulthandler._sigsegv()")
    assert (run.exit_code, run.outcome) == (-signal.SIGSEGV, "failed")


def test_ordinary_programs_run(box: Sandbox) -> None:
    program = """
import asyncio, getpass, json, math, random, socket, subprocess, sys, tempfile, threading, concurrent.futures, multiprocessing
async def one():
    await asyncio.sleep(0.01)
    return 1
assert asyncio.run(one()) == 1
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
print(subprocess.run([sys.executable, "-c", "print('child')"], capture_output=True, text=True).stdout.strip())
with tempfile.NamedTemporaryFile("w+") as file:
    file.write("x")
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(math.sqrt, [1, 4, 9])))
assert len(open("/dev/urandom", "rb").read(8)) == 8
open("/dev/null", "w").write("x")
assert getpass.getuser() == "nobody"
if WALLS:
    assert socket.gethostname() == "sandbox"
    with multiprocessing.Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
random.seed(0)
print(json.dumps({"hash": hash("角") == hash("角"), "random": random.randrange(100)}))
try:
    import numpy
    print(numpy.linalg.norm(numpy.ones((50, 50)) @ numpy.ones((50, 50))))
except ImportError:
    print(2500.0)
"""
    run = box.run(program.replace("WALLS", str(box.wall != "restricted")))
    assert run.stdout.split() == ["thread", "child", "6.0", '{"hash":', "true,", '"random":', "49}", "2500.0"], run
    assert run.outcome == "ok"


def test_the_same_program_does_the_same_twice(box: Sandbox) -> None:
    program = "print(hash('a'), list({'a', 'b', 'c', 'd'}))"
    assert box.run(program).stdout == box.run(program).stdout


def test_a_short_program_costs_little_more_than_python(box: Sandbox) -> None:
    """Counted in processor time, which neighbours on a busy machine disturb least."""

    def cheapest(action: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            action()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    program = "import json, math, random"
    alone = cheapest(lambda: subprocess.run([sys.executable, "-B", "-s", "-c", program], check=True))
    assert cheapest(lambda: box.run(program)) - alone < 0.1


# time


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(60)",
        "import signal\nfor s in range(1, 64):\n  try: signal.signal(s, signal.SIG_IGN)\n  except Exception: pass\nwhile True: signal.pause()",
        "import os\nos.fork()\nos.kill(os.getpid(), 19)\nwhile True: pass",
    ],
    ids=["sleeps", "ignores every signal", "stops itself"],
)
def test_time_ends(box: Sandbox, program: str) -> None:
    began = time.monotonic()
    run = box.run(program, seconds=0.5)
    assert run.outcome == "timeout" and run.seconds < 2
    assert time.monotonic() - began < 5


def test_computing_ends_even_on_many_processors_and_in_children_that_died(box: Sandbox) -> None:
    program = """
import os, time
while True:
    if os.fork() == 0:
        until = time.process_time() + 0.1
        while time.process_time() < until: pass
        os._exit(0)
    os.wait()
"""
    run = box.run(program, seconds=20, cpu_seconds=0.6)
    assert run.outcome == "timeout" and run.seconds < 15


# what stays behind


def test_grandchildren_do_not_outlive_it(box: Sandbox) -> None:
    marker = uuid.uuid4().hex
    program = f"""
import os, signal, sys, time
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", "{marker}"])
        os._exit(0)
time.sleep(0.3)
print("done")
"""
    began = time.monotonic()
    run = box.run(program)
    assert (run.outcome, run.stdout) == ("ok", "done\n")
    assert time.monotonic() - began < 8 and not run.left_running
    assert not running(marker)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_nothing_outlives_its_host(box: Sandbox, blow: signal.Signals, anybodys: Path) -> None:
    marker = uuid.uuid4().hex
    inner = (
        f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', '{marker}'])"
    )
    host = (
        f"import tempfile; tempfile.tempdir = {str(anybodys)!r}\n"
        "from hornbook.evals.sandbox.sandbox import Sandbox\n"
        f"Sandbox({box.wall!r}, frozenset(), {{}}).run_many([{inner!r}] * 5, workers=2, seconds=50)"
    )
    process = subprocess.Popen([sys.executable, "-c", host], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while len(running(marker)) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(blow)
    process.wait(timeout=20)
    while (running(marker) or any(anybodys.iterdir())) and time.monotonic() < until:
        time.sleep(0.02)
    assert not running(marker) and not any(anybodys.iterdir())


def test_the_kernel_refuses_one_process_too_many(box: Sandbox) -> None:
    if box.wall == "restricted" or kernel.version() < warden.NPROC_IN_BOX:
        pytest.skip("the kernel counts all processes of a user together here")
    program = """
import os, time
for n in range(1, 50):
    try:
        if os.fork() == 0: time.sleep(60)
    except BlockingIOError:
        print(n); break
"""
    assert box.run(program, processes=7).stdout == "7\n"  # itself and six more
    assert [run.stdout for run in box.run_many([program] * 3, workers=3, processes=5)] == ["5\n"] * 3  # each for itself


BOMBS = {
    "forks": "import os\nfor _ in range(700):\n  try: os.fork()\n  except OSError: pass",
    "forks and hides": """
import os, signal
for s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)
for _ in range(700):
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
    except OSError: pass
""",
    "threads": "import threading, time\nfor _ in range(700): threading.Thread(target=time.sleep, args=(60,)).start()",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_of_processes_stays_small_and_dies(box: Sandbox, bomb: str) -> None:
    if "memory" in box.missing:
        pytest.skip("nothing bounds processes here")
    most, done = 0, threading.Event()
    marker = f"# {uuid.uuid4().hex}"

    def count() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, len([1 for name in os.listdir("/proc") if name.isdigit()]))

    before = len([1 for name in os.listdir("/proc") if name.isdigit()])
    counter = threading.Thread(target=count)
    counter.start()
    run = box.run(BOMBS[bomb] + "\n" + marker, seconds=1.5)
    done.set()
    counter.join()
    assert most - before < 500, run  # the kernel refuses more ("ok": it took no offence), or the warden ends it
    assert not run.left_running


# memory, output, disk


@pytest.mark.parametrize(
    "program",
    [
        "x = bytearray(1 << 30)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "import os\nfor _ in range(8):\n  if os.fork() == 0:\n    x = b'x' * (60 << 20); __import__('time').sleep(20)\n__import__('time').sleep(20)",
        "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor at in range(0, 1 << 30, 4096): m[at] = 1\n__import__('time').sleep(20)",
    ],
    ids=["one large piece", "many pieces", "many processes", "shared pages"],
)
def test_memory_ends(box: Sandbox, program: str) -> None:
    if "memory" in box.missing:
        pytest.skip("memory is not bounded here")
    run = box.run(program, memory_mb=128, seconds=15)
    assert run.outcome == "memory", run


def test_memory_that_forks_share_counts_once(box: Sandbox) -> None:
    program = "import os, time\nx = b'x' * (60 << 20)\nfor _ in range(8):\n  if os.fork() == 0: time.sleep(1); os._exit(0)\ntime.sleep(0.3)"
    assert box.run(program, memory_mb=128).outcome == "ok"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_ends_and_its_beginning_is_kept(box: Sandbox, stream: str) -> None:
    run = box.run(f"import sys\nwhile True: sys.{stream}.write('x' * 100000)", output_bytes=150_000)
    assert run.outcome == "output" and run.seconds < 5
    assert getattr(run, stream) == "x" * 150_000


def test_output_of_just_the_limit_is_kept_whole(box: Sandbox) -> None:
    run = box.run("import os; os.write(1, b'x' * 1000)", output_bytes=1000)
    assert (run.outcome, len(run.stdout)) == ("ok", 1000)


@pytest.mark.parametrize(
    "program",
    [
        "f = open('big', 'wb')\nwhile True: f.write(b'x' * (1 << 20))",
        "n = 0\nwhile True:\n  n += 1\n  open(f'f{n}', 'wb').write(b'x' * (1 << 20))",
        "import time\nfor n in range(4300): open(f'f{n}', 'wb').close()\ntime.sleep(60)",
        "import os, time\nfor n in range(DEPTH): os.mkdir('d'); os.chdir('d')\ntime.sleep(60)",
    ],
    ids=["one file", "many files", "empty files", "folders"],
)
def test_the_disk_does_not_fill(box: Sandbox, program: str) -> None:
    depth = "1500" if box.wall == "restricted" else "4300"  # longer than paths may be, or more than files may be
    run = box.run(program.replace("DEPTH", depth), disk_mb=16, seconds=8)
    assert run.outcome == "disk", run


def test_nothing_of_its_folder_is_left(box: Sandbox, anybodys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(anybodys))
    run = box.run(
        "import os; os.makedirs('a/b/c'); open('a/b/c/d', 'w').close(); os.makedirs('e/f', 0); print(os.getcwd())"
    )
    assert run.ok and list(anybodys.iterdir()) == []


# files of others


def test_files_outside_are_not_read(box: Sandbox, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "the secret")
    secret = outside / ".ssh" / "id_rsa"
    lines = tried(
        box,
        f"open({str(secret)!r}).read()",
        f"os.listdir({str(outside)!r})",
        f"(os.symlink({str(secret)!r}, 'link'), open('link').read())",
        f"(os.link({str(secret)!r}, 'hard'), open('hard').read())",
        f"open('../../../../../../../../..{secret}').read()",
        f"open('/proc/self/root{secret}').read()",
        f"open('/proc/{os.getpid()}/environ').read()",
        f"shutil.copy({str(secret)!r}, 'copy')",
        "open('/etc/shadow').read()",
        "os.listdir('/sys/kernel')",
        f"subprocess.run(['cat', {str(secret)!r}], check=True, stderr=subprocess.DEVNULL)",
    )
    assert not any("GOT" in line for line in lines), lines
    assert (
        "the secret"
        not in box.run(
            "import os; print(os.environ, open('/proc/self/environ').read() if os.access('/proc/self/environ', 4) else '')"
        ).stdout
    )


def test_files_outside_are_neither_written_nor_removed(box: Sandbox, outside: Path) -> None:
    home = str(outside)
    lines = tried(
        box,
        f"open({home!r} + '/new', 'w')",
        f"open({home!r} + '/.ssh/id_rsa', 'a')",
        f"open({home!r} + '/.ssh/id_rsa', 'w')",
        f"os.truncate({home!r} + '/.ssh/id_rsa', 0)",
        f"os.remove({home!r} + '/.ssh/id_rsa')",
        f"shutil.rmtree({home!r})",
        f"os.rename({home!r}, {home!r} + '2')",
        f"os.rename({home!r} + '/.ssh/id_rsa', 'mine')",
        f"os.mkdir({home!r} + '/new')",
        f"os.chmod({home!r}, 0)",
        f"os.utime({home!r})",
        f"(os.symlink({home!r}, 'door'), open('door/new', 'w'))",
        f"os.mkfifo({home!r} + '/fifo')",
        "open('/usr/new', 'w')",
        "open('/new', 'w')",
        "open(os.__file__, 'a')",
        "os.remove(os.__file__)",
        "open('/dev/shm/x', 'w').close()" if box.wall == "restricted" else "open('/dev/x', 'w')",
    )
    assert not any("GOT" in line for line in lines), lines


def test_the_kernels_own_files_are_not_written(box: Sandbox, outside: Path) -> None:
    lines = tried(
        box,
        "open('/proc/sys/kernel/core_pattern', 'w').write('x')",
        "open('/proc/sysrq-trigger', 'w').write('h')",
        "open('/proc/1/oom_score_adj', 'w').write('-1000')",
        "open('/proc/self/uid_map', 'w').write('0 0 1')",
        "open('/proc/1/mem', 'r+b')",
        "os.listdir('/proc/1/fd')",
        "os.listdir('/proc/1/root/')",
        "os.mknod('disk', 0o60666, os.makedev(254, 0))",
        "open('/dev/kmsg', 'w')",
    )
    assert not any("GOT" in line for line in lines), lines


# others


def test_no_network(box: Sandbox, outside: Path) -> None:
    name = f"hornbook-{uuid.uuid4().hex}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        port = server.getsockname()[1]
        lines = tried(
            box,
            f"socket.create_connection(('127.0.0.1', {port}), timeout=1)",
            "socket.create_connection(('192.0.2.1', 80), timeout=1)",
            "socket.getaddrinfo('example.org', 80)",
            f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
            "socket.socket(socket.AF_INET6, socket.SOCK_STREAM).bind(('::', 0))",
            f"socket.socket(socket.AF_UNIX).connect(chr(0) + {name!r})",
            "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
            "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
            "socket.socket(socket.AF_VSOCK)",
        )
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not any("GOT" in line for line in lines), lines


def test_others_are_not_signalled(box: Sandbox, outside: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"], user=65534 if os.geteuid() == 0 else None, cwd="/")
    try:
        lines = tried(
            box, f"os.kill({os.getpid()}, 0)", f"os.kill({bystander.pid}, 9)", f"os.killpg({os.getpgid(0)}, 0)"
        )
        run = box.run(
            "import os\nfor to in (os.getppid(), 1, -1):\n  try: os.kill(to, 9)\n  except OSError: pass\nprint('still')"
        )
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert not any("GOT" in line for line in lines), lines
    assert run.stdout == "still\n" or run.exit_code == -9  # kill(-1) may take the sender with it


def test_calls_that_lead_out_are_refused(box: Sandbox) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("numbers below are x86-64's")
    numbers = {"ptrace": 101, "mount": 165, "unshare": 272, "setns": 308, "bpf": 321, "io_uring_setup": 425}
    numbers |= {"userfaultfd": 323, "memfd_create": 319, "perf_event_open": 298, "keyctl": 250, "shmget": 29}
    program = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    program += "".join(
        f"print({name!r}, libc.syscall({number}, 0, 0, 0, 0, 0), ctypes.get_errno())\n"
        for name, number in numbers.items()
    )
    program += "print('clone', libc.syscall(56, 0x10000011, 0, 0, 0, 0), ctypes.get_errno())\n"
    program += "print('prlimit', libc.syscall(302, 1, 7, 0, 0), ctypes.get_errno())\n"
    assert box.run(program).stdout.splitlines() == [f"{name} -1 1" for name in (*numbers, "clone", "prlimit")]


# many, and wrong questions


def test_many_run_at_once_and_come_back_in_order(box: Sandbox) -> None:
    programs = [f"import time; time.sleep({0.4 if n % 3 == 0 else 0}); print({n})" for n in range(12)]
    programs[5] = "raise ValueError"
    began = time.monotonic()
    runs = box.run_many(programs, workers=4, seconds=9)
    assert [run.stdout for run in runs] == ["" if n == 5 else f"{n}\n" for n in range(12)]
    assert [run.outcome for run in runs].count("ok") == 11
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    "options",
    [
        {"seconds": 0},
        {"seconds": float("nan")},
        {"memory_mb": 1},
        {"processes": 0},
        {"files": {"../x": ""}},
        {"files": {"/etc/x": ""}},
        {"files": {"main.py": ""}},
        {"files": {".stdin": ""}},
        {"files": {"big": bytes(40 << 20)}},
        {"stdin": "x" * 600_000, "disk_mb": 1},
        {"files": {"a\0b": ""}},
        {"files": {"": ""}},
    ],
    ids=lambda options: str(options)[:40],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Sandbox("restricted", frozenset(), {}).run("pass", **options)  # type: ignore[arg-type]
