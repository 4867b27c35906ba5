"""A plan run by the native kernels, on the processor and without torch: a whole step of a batch is one call.

    Plan + Packed.weights --NativePlan--> hb_model        Batch --run: hb_step--> logits [R, V]
                                          hb_cache: pages of keys and values

Every result of a token is the same bits whatever else is in its batch, however its sequence was cut into steps, and with
any number of threads (see native/hornbook.h).
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping
from typing import Literal

import numpy as np

from hornbook.checkpoint.packed import PackedTensor
from hornbook.engine.executor import PAGE, Batch, Floats, Stopped, check_pages
from hornbook.engine.native_adapters import NativeAdapters
from hornbook.engine.native_plan import NativePlan, obstacle
from hornbook.engine.plan import HeadNorm, Plan, Select, Turn
from hornbook.errors import GenerationError, KernelError, ModelClosed, UnsupportedModel, UsageError
from hornbook.forking import in_child
from hornbook.kernels import library
from hornbook.kernels.library import Library
from hornbook.settings import Settings

CacheType = Literal["float32", "float16", "int8"]
CACHE_TYPES: dict[CacheType, int] = {"float32": 0, "float16": 1, "int8": 2}


def supports(
    plan: Plan, weights: Mapping[str, PackedTensor] | None = None, settings: Settings | None = None
) -> str | None:
    """Why this model cannot run natively here ("the native kernels cannot run it: it holds ... as IQ2_XS"), or None."""
    if library.library(settings) is None:
        return f"there are no native kernels: {library.why_not(settings)}"
    reason = obstacle(plan, weights)
    return None if reason is None else f"the native kernels cannot run it: it {reason}"


def page_bytes(plan: Plan, cache: CacheType = "float32", settings: Settings | None = None) -> int:
    """The memory of one page of PAGE tokens; 0 for a model that keeps none."""
    if not plan.causal:
        return 0
    config = plan.config
    kernels = _kernels(settings)
    return int(kernels.hb_cache_page_bytes(config.layers, config.kv_heads, config.head_width, CACHE_TYPES[cache]))


class NativeExecutor:
    """See Executor. For a model that is not causal there are no pages: each sequence is whole in its batch.

    weights: by the Transformer's names, ``Packed.weights``; they are packed here and not needed after.
    pages: how many the cache has. cache: as what keys and values are kept.
    context_length: the longest text; None: the model's. Rotary scalings that follow the length take it.
    Raises UnsupportedModel where ``supports`` gives a reason, ModelFileError where a weight is not a finite number or a
    vector has not the plan's length, UsageError where so many pages cannot be counted.
    """

    def __init__(
        self,
        plan: Plan,
        weights: Mapping[str, PackedTensor],
        pages: int,
        *,
        cache: CacheType = "float32",
        context_length: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        if reason := supports(plan, weights, settings):
            raise UnsupportedModel(reason, "Run the model with torch.")
        if plan.causal and not 0 < pages < 2**31:
            raise UsageError(f"a cache of {pages:,} pages cannot be", "Set HORNBOOK_CACHE_MB to what there is.")
        config = plan.config
        self._kernels = kernels = _kernels(settings)
        self.plan, self.pages = plan, pages if plan.causal else 0
        self.name = f"native {kernels.isa}, {kernels.threads} thread{'s' if kernels.threads > 1 else ''}"
        self.vocab_size = config.vocab_size
        self.context_length = config.context_length if context_length is None else context_length
        # Tables of positions that no page can hold would only cost memory.
        self._positions = min(self.context_length, self.pages * PAGE) if plan.causal else self.context_length
        self._native = NativePlan(plan, weights, kernels, self._positions, self.context_length)
        self._adapters = NativeAdapters(plan, {name: tensor.shape for name, tensor in weights.items()})
        self._rows_are_selected = any(isinstance(op, Select) for op in plan.ops)
        self._width = plan.widths[_last(plan)]
        self._model: int | None
        self._create_model()
        self._cache = None
        if plan.causal:
            kind = CACHE_TYPES[cache]
            self._cache = kernels.hb_cache_create(config.layers, config.kv_heads, config.head_width, self.pages, kind)
            self._close_cache = weakref.finalize(self, kernels.hb_cache_free, self._cache)
            self._close_cache.atexit = False
        self.page_bytes = page_bytes(plan, cache, settings)
        self._out = np.empty((0, self._width), np.float32)
        self._laid, self._laid_at = np.empty(0, np.int32), 0
        self._stop = np.zeros(1, np.int32)  # looked at between two operations of a step
        self._at_work = False
        in_child(self._begin_child)

    @property
    def weight_bytes(self) -> int:
        """The memory of packed weights, vectors, tables and adapters; pages and scratch are not among it."""
        return self._native.bytes + self._adapters.bytes

    def run(self, batch: Batch) -> Floats:
        """See Executor; the final hidden states [T, C] where the plan has no Select."""
        self._open()
        # The kernels check what the numbers say; how many there are they cannot know.
        if not len(batch.ids) == len(batch.positions) == len(batch.sequence) or len(batch.pages) != len(batch.lengths):
            raise GenerationError("the arrays of a batch are not of one length")
        step = library.Batch(
            len(batch.ids), len(batch.lengths), batch.pages.shape[1], len(batch.select), *self._laid_out(batch)
        )
        if batch.adapters is not None:
            if len(batch.adapters) != len(batch.ids):
                raise GenerationError("the arrays of a batch are not of one length")
            numbers = np.ascontiguousarray(batch.adapters, np.int32)
            self._adapters.check(numbers)
            step.adapter = numbers.ctypes.data
            step.adapters, step.adapter_count = self._adapters.array, len(self._adapters.array)
        rows = len(batch.select) if self._rows_are_selected else len(batch.ids)
        if len(self._out) < rows:
            self._out = np.empty((rows, self._width), np.float32)
        out = self._out[:rows]
        self._native.reach(max(batch.positions.tolist(), default=0) + 1)
        step.cancel = self._stop.ctypes.data
        self._at_work = True
        try:
            if (
                self._kernels.hb_step(self._model, self._cache, ctypes.byref(step), out.ctypes.data)
                == library.CANCELLED
            ):
                raise Stopped
        except KernelError as error:
            raise GenerationError(f"the native kernels could not run a step: {error.what}", error.remedy) from error
        finally:
            self._at_work = False
            self._stop[0] = 0
        return out

    def _laid_out(self, batch: Batch) -> list[int]:
        """The batch's arrays one after the other in memory of our own; -> where each begins, in the order of hb_batch."""
        arrays = batch.ids, batch.positions, batch.sequence, batch.pages, batch.lengths, batch.select
        total = sum(array.size for array in arrays)
        if total > self._laid.size:
            laid = np.empty(2 * total, np.int32)
            self._laid, self._laid_at = laid, laid.ctypes.data  # both or neither, where another thread forks
        begins, at = [], 0
        for array in arrays:
            end = at + array.size
            self._laid[at:end] = array.reshape(-1)
            begins.append(self._laid_at + 4 * at)
            at = end
        return begins

    def stop(self) -> None:
        """See Executor."""
        self._stop[0] = 1

    def copy_page(self, source: int, target: int) -> None:
        """See Executor."""
        self._open()
        check_pages((source, target), self.pages)
        self._kernels.hb_cache_copy(self._cache, source, target)

    def add_adapter(self, weights: Mapping[str, tuple[Floats, Floats, float]]) -> int:
        """See Executor. Raises UsageError for an adapter of another model, before anything is kept."""
        self._open()
        return self._adapters.add(weights)

    def remove_adapter(self, number: int) -> None:
        """See Executor. Raises UsageError where there is none of that number."""
        self._open()
        self._adapters.remove(number)

    def scratch_bytes(self, tokens: int, rows: int) -> int:
        """See Executor: registers and what the kernels keep, and the logits."""
        self._open()
        out = (rows if self._rows_are_selected else tokens) * self._width * 4
        return int(self._kernels.hb_model_bytes(self._model, tokens, rows)) + out

    def close(self) -> None:
        """Give all memory back, not while ``run`` does; a second time does nothing."""
        if self._model is None:
            return
        self._close_model()
        if self._cache is not None:
            self._close_cache()
        self._model = self._cache = None
        self._native.close()
        self._out = np.empty((0, self._width), np.float32)

    def _create_model(self) -> None:
        widths, ops = self._native.widths, self._native.ops
        self._model = self._kernels.hb_model_create(ops, len(ops), widths.ctypes.data, len(widths))
        self._close_model = weakref.finalize(self, self._kernels.hb_model_free, self._model)
        # Python's end frees nothing: a thread that outlives it may be inside a step.
        self._close_model.atexit = False

    def _begin_child(self) -> None:
        """Where a thread was in the middle of a step when the process forked, its model is locked for ever, and its scratch
        perhaps half made: both are left where they are, and another model stands on the same weights."""
        if self._at_work and self._model is not None:
            self._close_model.detach()
            self._create_model()
            self._at_work = False
            self._stop[0] = 0

    def _open(self) -> None:
        if self._model is None:
            raise ModelClosed("the model was closed", "Load it again.")


def _last(plan: Plan) -> str:
    """The register of the answer."""
    op = plan.ops[-1]
    return op.a if isinstance(op, (HeadNorm, Turn)) else op.out


def _kernels(settings: Settings | None) -> Library:
    found = library.library(settings)
    if found is None:
        raise UnsupportedModel(
            f"there are no native kernels: {library.why_not(settings)}", library.what_to_do(settings)
        )
    return found
