"""The native code under sanitizers, and for processors that are not at hand. Run it after a change to kernels/native:

    python tests/kernels/check_native.py sanitize    the driver, then tests/kernels, with ASan and UBSan    (g++ on Linux)
    python tests/kernels/check_native.py threads     the driver with ThreadSanitizer
    python tests/kernels/check_native.py avx512      AVX-512 VNNI, each intrinsic emulated, on any x86 with AVX2
    python tests/kernels/check_native.py neon        64-bit ARM emulated      (Debian: g++-aarch64-linux-gnu, qemu-user)

native_driver.cpp calls every kernel in buffers of exactly the right size and compares each instruction set with the
portable one. The driver with ASan alone is in the suite (test_build_driver.py); the rest needs packages or minutes.
"""

from __future__ import annotations

import ast
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "src" / "hornbook" / "kernels" / "native"
DRIVER = Path(__file__).with_name("native_driver.cpp")
SANITIZERS = [
    "-O1",
    "-g1",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
]


def of_setup(name: str) -> Any:
    """The value of a constant of setup.py, which cannot be imported where setuptools is old or absent."""
    for node in ast.parse((ROOT / "setup.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise LookupError(name)


def build(
    folder: Path,
    machine: str,
    *,
    compiler: str = "g++",
    flags: Sequence[str] = (),
    without: Collection[str] = (),
    emulated: str = "",
    library: bool = False,
) -> Path:
    """Compile the native code for ``machine`` ("x86_64", "arm64") into ``folder``, which is new or has what the same flags
    made: -> the driver, or the library.

    ``without``: instruction sets that are left out. ``emulated``: one whose intrinsics come from a header, so that it
    is compiled as AVX2 is.
    """
    known = of_setup("ISAS")
    left_out = {f"isa_{isa}.cpp" for isa in without}
    isas = {name: own for name, (where, own, _) in known.items() if where in ("", machine) and name not in left_out}
    if emulated:
        isas[f"isa_{emulated}.cpp"] = isas["isa_avx2.cpp"]
    defines = [f"-DHB_WITH_{Path(name).stem.removeprefix('isa_').upper()}=1" for name in isas]
    defines += [f"-DHB_EMULATED_{emulated.upper()}=1"] if emulated else []
    sources = [*(path for path in sorted(NATIVE.glob("*.cpp")) if path.name not in known), *map(NATIVE.joinpath, isas)]
    common = [*of_setup("UNIX"), *defines, "-fPIC", f"-I{NATIVE}"]

    def compile_one(source: Path) -> str:
        made = folder / f"{source.stem}.o"
        if not made.exists():  # the driver and the library are of the same objects
            run([compiler, *common, *isas.get(source.name, []), *flags, "-c", str(source), "-o", str(made)])
        return str(made)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(compile_one, sources if library else [*sources, DRIVER]))
    target = folder / ("_native.so" if library else "driver")
    run([compiler, *flags, "-pthread", *(["-shared"] if library else []), *made, "-o", str(target)])
    return target


def run(command: list[str], **environment: str) -> str:
    """Its output; what it says is shown where it fails."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-8000:]}")
    return done.stdout


def own_machine() -> str:
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine().lower())


def sanitize(folder: Path, arguments: list[str]) -> None:
    driver = build(folder, own_machine(), flags=SANITIZERS)
    print(run([str(driver)]), end="")
    package = folder / "package"
    shutil.copytree(ROOT / "src", package, ignore=shutil.ignore_patterns("_native.*", "__pycache__", "*.egg-info"))
    shutil.copy(build(folder, own_machine(), flags=SANITIZERS, library=True), package / "hornbook" / "kernels")
    names = ("libasan.so", "libstdc++.so.6")  # before Python's own, so that every allocation and exception is seen
    preload = " ".join(run(["g++", f"-print-file-name={name}"]).strip() for name in names)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=1800", *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": str(package),
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python lets its own objects live; the driver has looked for ours
    }
    raise SystemExit(subprocess.run(command, cwd=ROOT, env=environment).returncode)


def threads(folder: Path, arguments: list[str]) -> None:
    print(run([str(build(folder, own_machine(), flags=["-O1", "-g1", "-fsanitize=thread"]))]), end="")


def avx512(folder: Path, arguments: list[str]) -> None:
    emulation = Path(__file__).with_name("emulated_avx512.h")
    (folder / "immintrin.h").write_text(f'#pragma once\n#include_next <immintrin.h>\n#include "{emulation}"\n')
    driver = build(folder, "x86_64", flags=["-O1", f"-I{folder}", "-Wno-psabi"], emulated="avx512vnni")
    print(run([str(driver), "avx512vnni"]), end="")


def neon(folder: Path, arguments: list[str]) -> None:
    driver = build(folder, "arm64", compiler="aarch64-linux-gnu-g++", flags=["-O1", "-static"])
    print(run(["qemu-aarch64", "-cpu", "max", str(driver), "neon"]), end="")


CHECKS = {"sanitize": sanitize, "threads": threads, "avx512": avx512, "neon": neon}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in CHECKS:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as work:
        CHECKS[sys.argv[1]](Path(work), sys.argv[2:] or ["tests/kernels"])
