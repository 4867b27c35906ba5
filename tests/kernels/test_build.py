"""The native library as it was installed: it loads, says what it is, and where it is not there Hornbook says why."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from check_native import NATIVE, of_setup, own_machine

from hornbook.errors import KernelError, UsageError
from hornbook.kernels import library as library_file
from hornbook.kernels.library import ABI, Library, library, what_to_do, why_not
from hornbook.kernels.weight import TYPES, Weight
from hornbook.settings import Settings

X86, ARM = ["avx512vnni", "avx2"], ["neon"]


@pytest.fixture
def kernels() -> Iterator[Library]:
    found = library(Settings())
    if found is None:
        if shutil.which("c++") and library_file.PATH.exists():
            pytest.fail(f"the kernels were built and cannot be used: {why_not()}")
        pytest.skip(f"no native kernels: {why_not()}")
    yield found
    found.hb_set_isa(b"auto")
    found.hb_set_threads(0)


def test_where_a_compiler_is_the_kernels_were_built() -> None:
    if shutil.which("c++") is None and not library_file.PATH.exists():
        pytest.skip("no C++ compiler here")
    assert library_file.PATH.exists(), "run: python setup.py build_ext --inplace, or install Hornbook again"


def test_the_interface_is_the_headers(kernels: Library) -> None:
    header = (NATIVE / "hornbook.h").read_text("utf-8")
    assert f"#define HB_ABI {kernels.hb_abi()} " in header and kernels.hb_abi() == ABI
    declared = {
        line.split("(")[0].split()[-1].lstrip("*") for line in header.splitlines() if line.startswith("HB_API ")
    }
    assert declared == set(library_file._FUNCTIONS), "each function of the header is declared to ctypes, and no other"
    for name, type in TYPES.items():
        assert f"HB_{name} = {type.number}" in header
        assert kernels.hb_can_pack(type.number)


def test_every_instruction_set_that_is_here_can_be_forced_and_no_other(kernels: Library) -> None:
    x = np.linspace(-1, 1, 64, dtype=np.float32)[None]
    rows = np.linspace(1, -1, 20 * 64, dtype=np.float32).reshape(20, 64)
    expected = x @ rows.T
    taken = []
    for isa in [*X86, *ARM, "portable"]:
        try:
            kernels.hb_set_isa(isa.encode())
        except KernelError as error:
            assert isa in str(error)
            continue
        assert kernels.isa == isa
        taken.append(isa)
        np.testing.assert_allclose(Weight(kernels, "F32", 20, 64, rows).linear(x), expected, atol=1e-5)
    assert "portable" in taken
    assert not set(taken) & set(ARM if own_machine() == "x86_64" else X86)
    kernels.hb_set_isa(b"auto")
    assert kernels.isa == taken[0], "the fastest"
    with pytest.raises(KernelError, match="sse17"):
        kernels.hb_set_isa(b"sse17")
    assert kernels.isa == taken[0]


def test_settings_choose_the_instruction_set_and_the_threads(kernels: Library) -> None:
    assert library(Settings(isa="portable", threads=3)) is kernels
    assert (kernels.isa, kernels.threads) == ("portable", 3)
    with pytest.raises(UsageError, match="HORNBOOK_ISA") as caught:
        library(Settings(isa="sse17"))
    assert "sse17" in caught.value.what
    with pytest.raises(UsageError, match="1,000 threads .*HORNBOOK_THREADS"):
        library(Settings(isa="portable", threads=1000))
    library(Settings())
    assert kernels.isa != "portable" or own_machine() not in ("x86_64", "arm64")
    assert 1 <= kernels.threads <= 256
    with pytest.raises(UsageError, match="threads"):
        Settings.load(threads=-1)


def test_a_machine_without_the_library_works_and_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library_file, "PATH", tmp_path / "_native.so")
    assert library(Settings()) is None
    assert "not built" in why_not(Settings())
    assert "compiler" in what_to_do(Settings())


def test_a_damaged_library_is_not_fatal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "_native.so"
    broken.write_bytes(b"\x7fELF, and then nothing")
    monkeypatch.setattr(library_file, "PATH", broken)
    assert library(Settings()) is None
    assert "cannot be loaded" in why_not(Settings())


def test_a_library_of_another_interface_is_refused(
    kernels: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library_file, "PATH", Path(shutil.copy(library_file.PATH, tmp_path)))
    monkeypatch.setattr(library_file, "ABI", ABI + 1)
    assert library(Settings()) is None
    assert f"interface {ABI}, this Hornbook needs {ABI + 1}" in why_not(Settings())


def test_the_kernels_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORNBOOK_NATIVE", "0")
    assert library() is None
    assert "HORNBOOK_NATIVE" in why_not() and "HORNBOOK_NATIVE" in what_to_do()


def test_loading_needs_no_torch() -> None:
    program = (
        "import sys; from hornbook.kernels.library import library; import hornbook.kernels.weight; library();"
        "print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def _in_a_child(answers: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    kernels = library(Settings(threads=2))
    weight = Weight(kernels, "F32", 512, 512, np.ones((512, 512), np.float32))
    answers.put(float(weight.linear(np.ones((64, 512))).sum()))


@pytest.mark.skipif(not hasattr(multiprocessing, "get_context") or sys.platform == "win32", reason="no fork here")
def test_a_forked_child_computes_with_threads_of_its_own(kernels: Library) -> None:
    library(Settings(threads=2))
    ones = np.ones((512, 512), np.float32)
    assert Weight(kernels, "F32", 512, 512, ones).linear(ones[:64]).sum() == 512 * 512 * 64  # the pool is awake
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_in_a_child, args=(answers,))
    child.start()
    assert answers.get(timeout=60) == 512 * 512 * 64
    child.join(60)
    assert child.exitcode == 0


def test_a_weight_refuses_what_does_not_fit(kernels: Library) -> None:
    rows = np.zeros((4, 32), np.float32)
    for arguments in [
        ("Q4_9", 4, 32, rows),
        ("F32", 5, 32, rows),
        ("F32", 0, 32, rows),
        ("Q4_0", 4, 33, rows),
        ("Q4_0", 1, 32, np.zeros(17, np.uint8)),
        ("F32", 2, 32, rows, [0, 4]),
        ("F32", 2, 32, rows, [0, -1]),
        ("F32", 2, 32, rows, [0]),
    ]:
        with pytest.raises(KernelError):
            Weight(kernels, *arguments)
    weight = Weight(kernels, "F32", 2, 32, rows, [3, 3])
    for x in (np.zeros((1, 31)), np.zeros(())):
        with pytest.raises(KernelError):
            weight.linear(x)
    with pytest.raises(KernelError):
        weight.linear(rows, bias=np.zeros(3))
    with pytest.raises(KernelError):
        weight.unpack(1, 2)
    assert weight.linear(np.zeros((0, 32))).shape == (0, 2)


def test_failures_keep_the_librarys_words(kernels: Library) -> None:
    with pytest.raises(KernelError, match="hb_pack: .+"):
        kernels.hb_pack(99, 1, 32, 0, None)


def test_the_wheel_holds_the_library_and_the_source_distribution_its_sources() -> None:
    root = NATIVE.parents[3]
    assert "recursive-include src/hornbook/kernels/native *.cpp *.h *.inc" in (root / "MANIFEST.in").read_text("utf-8")
    assert {path.suffix for path in NATIVE.iterdir()} <= {".cpp", ".h", ".inc"}
    built = {path.name for path in NATIVE.glob("isa_*.cpp")}
    assert built == set(of_setup("ISAS")), "setup.py knows the flags of each instruction set"
    assert "include-package-data = false" in (root / "pyproject.toml").read_text("utf-8")
