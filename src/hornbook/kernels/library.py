"""The native library: found, checked and described to ctypes.

    kernels = library()                      None where there is none; why_not() says why
    kernels.hb_step(model, cache, ctypes.byref(batch), out.ctypes.data)

Every function of native/hornbook.h is here under its own name. One that reports a failure raises KernelError with the
library's own words; only hb_step returns a code, for it may be 2 (cancelled). ctypes lets go of the GIL in each call.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from hornbook.errors import KernelError, UsageError
from hornbook.forking import lock
from hornbook.settings import Settings

ABI: Final = 5  # HB_ABI of the header that the declarations below follow
CANCELLED: Final = 2  # what hb_step returns where the flag of its batch was raised
PATH: Final = Path(__file__).with_name("_native.dll" if sys.platform == "win32" else "_native.so")


def _each(type: Any, names: str) -> list[Any]:
    return [(name, type) for name in names.split()]


class Op(Structure):
    """hb_op. Pointers are addresses (numpy: ``array.ctypes.data``); what they point at must outlive the model."""

    _fields_ = [
        *_each(c_int32, "kind a b out"),
        ("i", c_int32 * 8),
        ("f", c_float * 4),
        ("weight", c_void_p * 3),
        ("w", c_void_p * 3),
    ]


class Adapter(Structure):
    """hb_adapter."""

    _fields_ = [*_each(c_int32, "adapter site rank"), ("scale", c_float), *_each(c_void_p, "a b")]


class Batch(Structure):
    """hb_batch."""

    _fields_ = [
        *_each(c_int32, "tokens sequences max_pages rows"),
        *_each(c_void_p, "ids positions sequence pages lengths select adapter"),
        ("adapters", POINTER(Adapter)),
        ("adapter_count", c_int32),
        ("cancel", c_void_p),
    ]


class Sampling(Structure):
    """hb_sampling."""

    _fields_ = [("temperature", c_float), ("top_p", c_float), ("min_p", c_float), ("top_k", c_int32)]


class Choice(Structure):
    """hb_choice."""

    _fields_ = [
        *_each(c_void_p, "logits raw allowed"),
        ("uniform", c_double),
        ("how", Sampling),
        ("id", c_int32),
        ("logprob", c_float),
    ]


class Attention(Structure):
    """hb_attention."""

    _fields_ = [
        *_each(c_void_p, "q k v grad"),
        *[(f"{name}_strides", c_int64 * 3) for name in ("q", "k", "v", "grad")],
        *_each(c_void_p, "o lse dq dk dv"),
        *_each(c_int64, "rows heads key_heads tokens n"),
        ("scale", c_float),
    ]


class Term(Structure):
    """hb_term."""

    _fields_ = [*_each(c_void_p, "a b"), *_each(c_int64, "depth a_down a_along b_down b_along")]


class Product(Structure):
    """hb_product."""

    _fields_ = [
        ("terms", Term * 3),
        *_each(c_int64, "count m n activation"),
        *_each(c_void_p, "bias beside c sums"),
    ]


class MLP(Structure):
    """hb_mlp."""

    _fields_ = [
        *_each(c_void_p, "x up up_bias down down_bias beside dy h y dh dx"),
        *_each(c_int64, "rows n inner activation"),
    ]


# name -> (what it returns, what it takes). "status": an int of which all but 0 and CANCELLED are failures.
# "handle": an address of which 0 is a failure.
_FUNCTIONS: Final[dict[str, tuple[Any, list[Any]]]] = {
    "hb_abi": (c_int, []),
    "hb_error": (c_char_p, []),
    "hb_isa": (c_char_p, []),
    "hb_set_isa": ("status", [c_char_p]),
    "hb_set_threads": ("status", [c_int]),
    "hb_threads": (c_int, []),
    "hb_can_pack": (c_int, [c_int]),
    "hb_pack": ("handle", [c_int, c_int64, c_int64, c_void_p, c_void_p]),
    "hb_pack_experts": ("handle", [c_int, c_int64, c_int64, c_int64, c_void_p]),
    "hb_free": (None, [c_void_p]),
    "hb_weight_bytes": (c_int64, [c_void_p]),
    "hb_unpack": ("status", [c_void_p, c_int64, c_int64, c_void_p]),
    "hb_linear": ("status", [c_void_p, c_void_p, c_void_p, c_int64, c_void_p]),
    "hb_model_create": ("handle", [POINTER(Op), c_int32, c_void_p, c_int32]),
    "hb_model_free": (None, [c_void_p]),
    "hb_model_bytes": (c_int64, [c_void_p, c_int32, c_int32]),
    "hb_cache_create": ("handle", [c_int32] * 5),
    "hb_cache_free": (None, [c_void_p]),
    "hb_cache_page_bytes": (c_int64, [c_int32] * 4),
    "hb_cache_copy": ("status", [c_void_p, c_int32, c_int32]),
    "hb_cache_read": ("status", [c_void_p, c_int32, c_void_p]),
    "hb_step": ("status", [c_void_p, c_void_p, POINTER(Batch), c_void_p]),
    "hb_sample": (c_int32, [c_void_p, c_int64, c_void_p, POINTER(Sampling), c_double, c_void_p, POINTER(c_float)]),
    "hb_sample_rows": (None, [c_void_p, c_int64, c_int64]),
    "hb_train_norm": (None, [c_void_p, c_void_p, c_float, c_int64, c_int64, c_void_p, c_void_p]),
    "hb_train_norm_back": (None, [c_void_p] * 4 + [c_int64] * 2 + [c_void_p] * 2),
    "hb_train_centre": (None, [c_void_p] * 3 + [c_float] + [c_int64] * 2 + [c_void_p] * 2),
    "hb_train_centre_back": (None, [c_void_p] * 4 + [c_int64] * 2 + [c_void_p] * 4),
    "hb_train_product_columns": (c_int64, []),
    "hb_train_products": ("status", [POINTER(Product), c_int64]),
    "hb_train_mlp": ("status", [POINTER(MLP)]),
    "hb_train_gate": (None, [c_void_p, c_void_p, c_int, c_int64, c_int64, c_void_p]),
    "hb_train_gate_back": (None, [c_void_p] * 3 + [c_int, c_int64, c_int64, c_void_p, c_void_p]),
    "hb_train_turn": (None, [c_void_p] * 4 + [c_float] + [c_int64] * 6 + [c_int, c_void_p]),
    "hb_train_cross_entropy": (None, [c_void_p, c_void_p, c_int64, c_int64, c_float, c_float, c_int, c_void_p]),
    "hb_train_attend_fits": (c_int, [c_int64]),
    "hb_train_attend": ("status", [POINTER(Attention), c_int]),
    "hb_logprobs": ("status", [c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_void_p]),
}


class Library(ctypes.CDLL):
    """The loaded library, each function declared."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._asked: tuple[str, int] | None = ("auto", 0)
        self._setting_up = lock()
        if self.hb_abi() != ABI:
            raise KernelError(f"{path.name} has interface {self.hb_abi()}, this Hornbook needs {ABI}", _REBUILD)
        for name, (returns, takes) in _FUNCTIONS.items():
            function = getattr(self, name)
            function.argtypes = takes
            function.restype = {"status": c_int, "handle": c_void_p}.get(returns, returns)
            if returns == "status":
                function.errcheck = self._check_status
            elif returns == "handle":
                function.errcheck = self._check_handle

    @property
    def isa(self) -> str:
        """avx512vnni, avx2, neon or portable."""
        return str(self.hb_isa().decode())

    @property
    def threads(self) -> int:
        return int(self.hb_threads())

    def set_up(self, isa: str, threads: int) -> None:
        """Take "auto" or a named instruction set, and 0 (one for each physical core) or as many threads; at once where
        they are as before. Raises UsageError.
        """
        with self._setting_up:
            if self._asked == (isa, threads):
                return
            self._asked = None  # where the half of it fails, the next has to begin anew
            try:
                self.hb_set_isa(isa.encode())
            except KernelError as error:
                raise UsageError(
                    f"there are no {isa} kernels for this machine or in this build (HORNBOOK_ISA)",
                    "Unset it, and the fastest that there is will be taken.",
                ) from error
            try:
                self.hb_set_threads(threads)
            except KernelError as error:
                raise UsageError(
                    f"{threads:,} threads are more than the kernels take (HORNBOOK_THREADS)",
                    "Unset it, and there will be one for each core.",
                ) from error
            self._asked = isa, threads

    def _check_status(self, code: int, function: Any, arguments: tuple[Any, ...]) -> int:
        if code not in (0, CANCELLED):
            raise KernelError(f"{function.__name__}: {self.hb_error().decode(errors='replace')}")
        return code

    def _check_handle(self, address: int | None, function: Any, arguments: tuple[Any, ...]) -> int:
        if not address:
            raise KernelError(f"{function.__name__}: {self.hb_error().decode(errors='replace')}")
        return address


_REBUILD = "Install a C++17 compiler (g++, clang, Visual C++), then: pip install --force-reinstall --no-deps ."


class _Found(NamedTuple):
    library: Library | None
    why_not: str


@cache
def _load(path: Path) -> _Found:
    """Once a process. A library that cannot be used is no failure: torch computes instead, and doctor says why."""
    if not path.exists():
        return _Found(None, "they were not built when Hornbook was installed")
    try:
        return _Found(Library(path), "")
    except KernelError as error:
        return _Found(None, error.what)
    except (
        OSError,
        AttributeError,
    ) as error:  # of another platform, damaged, or without a function that it should have
        return _Found(None, f"{path.name} cannot be loaded: {error}")


def library(settings: Settings | None = None) -> Library | None:
    """The native kernels, with the threads and the instruction set of the settings; None where there are none.

    Raises UsageError where the settings ask for an instruction set that this machine or this build has not.
    """
    settings = settings or Settings.load()
    found = _load(PATH).library if settings.native else None
    if found is not None:
        found.set_up(settings.isa, settings.threads)
    return found


def why_not(settings: Settings | None = None) -> str:
    """Why library() is None, in a few words; "" where it is not."""
    if not (settings or Settings.load()).native:
        return "they are turned off (HORNBOOK_NATIVE)"
    return _load(PATH).why_not


def what_to_do(settings: Settings | None = None) -> str:
    """How to come by the kernels where library() is None."""
    return (
        _REBUILD
        if (settings or Settings.load()).native
        else "Unset HORNBOOK_NATIVE, or remove native from config.toml."
    )
