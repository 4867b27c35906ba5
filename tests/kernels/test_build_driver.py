"""Every kernel in C++ under AddressSanitizer: no read or write past a buffer on any shape.

UndefinedBehaviorSanitizer and the rest of tests/kernels take minutes: check_native.py has them.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from check_native import build, own_machine, run

from hornbook.kernels.library import Adapter, Batch, Choice, Op, Sampling, library
from hornbook.settings import Settings

# What compiles in seconds: kernels work on buffers of the heap, and of the stack they use little.
FLAGS = ["-O0", "-g0", "-fsanitize=address", "--param=asan-stack=0"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("the driver is built with g++ on Linux")
    probe = ["g++", "-xc++", *FLAGS, "-", "-o", str(folder / "probe")]
    if subprocess.run(probe, input="int main() {}", capture_output=True, text=True).returncode:
        pytest.skip("this g++ has no sanitizer")
    kernels = library(Settings())
    without = set() if kernels is None or kernels.isa == "avx512vnni" else {"avx512vnni"}  # it takes long to compile
    return build(folder, own_machine(), flags=FLAGS, without=without)


def test_no_kernel_leaves_its_buffers_and_every_instruction_set_agrees(driver: Path) -> None:
    said = run([str(driver)])
    assert "portable: " in said
    print(said)


def test_structures_are_laid_out_as_the_compiler_has_them(driver: Path) -> None:
    structures = {"hb_op": Op, "hb_adapter": Adapter, "hb_batch": Batch, "hb_sampling": Sampling, "hb_choice": Choice}
    lines = run([str(driver), "--layout"]).splitlines()
    assert len(lines) > 15
    for line in lines:
        place, number = line.split()
        structure, _, field = place.partition(".")
        found = getattr(structures[structure], field).offset if field else ctypes.sizeof(structures[structure])
        assert found == int(number), place
