"""The native kernels: src/hornbook/kernels/native/*.cpp become one shared library beside kernels/library.py.

Everything else about the package stands in pyproject.toml. The library has a C interface and is loaded with ctypes, so
it needs neither Python's headers nor torch's, and one wheel serves every Python of a platform
(docs/decisions/0011-native-kernels.md). Where it cannot be compiled the package is installed without it.

    pip install .                           with them; HORNBOOK_NO_NATIVE=1 leaves them out
    python setup.py build_ext --inplace     into the source tree, what has changed
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, CompileError, LinkError

NATIVE = Path("src", "hornbook", "kernels", "native")
MODULE = "hornbook.kernels._native"
HEADERS = sorted(str(path) for pattern in ("*.h", "*.inc") for path in NATIVE.glob(pattern))

# The same bits on every machine: no contraction of a * b + c that the source does not ask for, no -ffast-math.
# tests/kernels/check_native.py reads UNIX and ISAS, for sanitizers and for processors that are not at hand.
UNIX = [
    "-O3", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-fvisibility-inlines-hidden",
    "-fno-wrapv", "-pthread", "-g0", "-Wall", "-Wextra",
]  # fmt: skip
MSVC = ["/O2", "/std:c++17", "/EHsc", "/fp:precise"]

# What isa_<name>.cpp is compiled with. In the order of linking: where two of them hold the same inline function, the
# linker keeps the first, which must be the one that runs on the weaker machine. -O1: loops over single lanes, which
# compilers at -O3 unroll for minutes, and which no machine that has vectors runs. gcc 12 takes the arguments that its own
# AVX-512 header leaves undefined on purpose for mistakes.
ISAS = {
    "isa_portable.cpp": ("", ["-O1"], []),
    "isa_neon.cpp": ("arm64", ["-march=armv8.2-a+dotprod"], []),
    "isa_avx2.cpp": ("x86_64", ["-mavx2", "-mfma", "-mf16c"], ["/arch:AVX2"]),
    "isa_avx512vnni.cpp": (
        "x86_64",
        [
            "-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni",
            "-Wno-maybe-uninitialized",
        ],
        ["/arch:AVX512"],
    ),
}  # fmt: skip


def machine() -> str:
    """What is compiled for: "x86_64", "arm64", or whatever the platform calls itself."""
    name = os.environ.get("ARCHFLAGS", "").removeprefix("-arch ") or platform.machine()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name.lower(), name.lower())


def sources() -> list[str]:
    """The files to compile, in the order of linking."""
    fitting = [name for name, (where, _, _) in ISAS.items() if where in ("", machine())]
    common = sorted(path.name for path in NATIVE.glob("*.cpp") if path.name not in ISAS)
    return [str(NATIVE / name) for name in [*common, *fitting] if (NATIVE / name).exists()]


class BuildNative(build_ext):
    """Compiles what has changed, on all processors, and puts each file in its place whole or not at all."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + (".dll" if sys.platform == "win32" else ".so")

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(ext)
        except (BaseError, CCompilerError, CompileError, LinkError, OSError) as error:
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # what an earlier build left is out of date
            bar = "*" * 100
            print(
                f"{bar}\nHornbook's native kernels could not be built: {error}\n"
                "Hornbook works without them: torch computes everything, which is slower. To have them, install a\n"
                f"C++17 compiler (g++, clang or Visual C++) and install Hornbook again.\n{bar}",
                file=sys.stderr,
            )
            raise CompileError(str(error)) from error  # which setuptools passes over where the extension is optional

    def _build(self, ext: Extension) -> None:
        msvc = self.compiler.compiler_type == "msvc"
        common = MSVC if msvc else UNIX
        names = {os.path.basename(source) for source in ext.sources} & set(ISAS)
        with_isas = [(f"HB_WITH_{Path(name).stem.removeprefix('isa_').upper()}", "1") for name in sorted(names)]
        key = zlib.crc32(repr((common, ISAS, with_isas, machine())).encode())
        folder = Path(self.build_temp, f"native-{key:08x}")
        folder.mkdir(parents=True, exist_ok=True)

        headers = max(os.path.getmtime(path) for path in ext.depends)
        objects = {source: folder / f"{Path(source).stem}.o" for source in ext.sources}
        stale = [
            source
            for source, done in objects.items()
            if self.force or not done.exists() or done.stat().st_mtime < max(headers, os.path.getmtime(source))
        ]
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:  # two builds at once do not see each other's halves

            def compile_one(source: str) -> None:
                flags = common + ISAS.get(os.path.basename(source), ("", [], []))[2 if msvc else 1]
                began = time.time()
                (made,) = self.compiler.compile([source], fresh, with_isas, extra_postargs=flags)
                os.utime(made, (began, began))  # what is edited meanwhile is newer
                os.replace(made, objects[source])

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(compile_one, stale))
            library = Path(fresh, target.name)
            link = [] if msvc else ["-pthread"]
            if sys.platform == "linux":
                link.append("-Wl,-z,defs")  # what is missing is found here and not when the library is loaded
            made = [str(path) for path in objects.values()]
            self.compiler.link_shared_object(made, str(library), target_lang="c++", extra_postargs=link)
            os.replace(library, target)


class PlatformWheel(bdist_wheel):
    """A wheel with a library in it belongs to a platform, but to no Python version."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, name = super().get_tag()
        if self.root_is_pure:
            return python, abi, name
        return "py3", "none", name.replace("universal2", platform.machine())


if sys.platform == "darwin":  # Python's own flags may ask for two processors at once; the kernels are of one
    os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")

by_hand = "build_ext" in sys.argv  # then a failure is one; in an installation it is not
kernels = Extension(MODULE, sources(), depends=HEADERS, language="c++", optional=not by_hand)
setup(
    ext_modules=[] if os.environ.get("HORNBOOK_NO_NATIVE") else [kernels],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
