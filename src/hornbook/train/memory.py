"""How much memory a training has taken, and what to lower where there is too little."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from hornbook.errors import TrainingError
from hornbook.train.batch import Batch

_REFUSED = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def peak(device: torch.device) -> int:
    """Bytes: the most that was held at once so far, by tensors on an accelerator, by the whole process on a processor."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
        if found is not None:
            return int(found[1]) * 1024
    except OSError:
        pass  # not Linux
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def explained(optimizer: torch.optim.Optimizer, batches: Sequence[Batch], step: int) -> Iterator[None]:
    """Turn "out of memory" inside a step into a TrainingError that says where the memory is and what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        known = isinstance(error, torch.OutOfMemoryError | MemoryError) or _REFUSED.search(str(error))
        if not known:
            raise
        raise _too_little(optimizer, batches, step) from error


def _too_little(optimizer: torch.optim.Optimizer, batches: Sequence[Batch], step: int) -> TrainingError:
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    states = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    rows, length = max((tuple(batch.ids.shape) for batch in batches), key=lambda shape: shape[0] * shape[1])
    weights, gradients = _size(trained), _size(p.grad for p in trained if p.grad is not None)
    kept = _size(states) or 2 * weights  # Adam's, which come with the first step
    lower = [f"training.tokens below {rows * length:,}, say {max(1, rows * length // 2):,}, with twice the accumulate"]
    lower.append("activation_checkpointing: true")
    if optimizer.__class__.__name__ != "AdamW8bit":
        lower.append(f"optimizer: adamw8bit (its states: {kept / 4e6:,.0f} MB in place of {kept / 1e6:,.0f})")
    lower.append("adapter: {kind: lora} (hardly a gradient or a state)")
    return TrainingError(
        f"out of memory{_where(trained)} in step {step}, with a micro-batch of {rows} x {length:,} tokens; trained weights "
        f"take {weights / 1e6:,.0f} MB, gradients {max(gradients, weights) / 1e6:,.0f}, the optimizer's states {kept / 1e6:,.0f}",
        f"Lower one, first things first: {'; '.join(lower)}.",
    )


def _where(trained: Sequence[Tensor]) -> str:
    device = trained[0].device if trained else torch.device("cpu")
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    return f" on {device} ({total / 1e9:.1f} GB, {free / 1e9:.1f} free, {torch.cuda.max_memory_allocated(device) / 1e9:.1f} at its peak)"


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
