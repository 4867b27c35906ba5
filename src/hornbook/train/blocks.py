"""How the blocks of a model are run while it is trained: forgetting what lies inside them, or compiled.

as they are     every product of a block is kept for the way back
recomputed      only what went into it; the way back runs the block once more (arXiv 1604.06174): memory for a third more
                work, and the same gradients, bit by bit, for the same is dropped out
compiled        fused by torch.compile, where there is a compiler
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hornbook.model.block import Block
from hornbook.model.packed import Packed


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """A context in which each block of ``model``, of its encoder too, keeps its input alone. It is of use in training; a pass
    without gradients keeps nothing anyway."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        block.forward = _forgetful(block.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own shows again


def _forgetful(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*given: Any, **more: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*given, **more)
        out: Tensor = checkpoint(forward, *given, use_reentrant=False, **more)
        return out

    return run


def compiled(model: nn.Module, device: torch.device, say: Callable[[str], object] = print) -> bool:
    """Have torch.compile compile each block of ``model``, in place, as it is first run; -> whether it can.

    A tiny program is tried first: where that fails (no compiler, a system that is not supported) the blocks stay as they
    are, and ``say`` is told. So they do, one by one, where only they cannot be compiled; torch logs that.
    """
    try:
        _try(device)
    except Exception as error:  # whatever is missing, the same training is done without
        reason = (str(error).strip().splitlines() or [""])[0]
        say(f"nothing is compiled, torch.compile fails here: {type(error).__name__}: {reason[:200]}")
        return False
    # The documents of a packed row have other lengths in every batch, and each would be another program: what is inside
    # the blocks is compiled around this call.
    if not getattr(Packed.attend, "_torchdynamo_disable", False):
        Packed.attend = torch.compiler.disable(Packed.attend)  # type: ignore[method-assign, no-untyped-call]
    torch._dynamo.config.suppress_errors = True
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    for module in model.modules():
        if isinstance(module, Block):
            module.compile()
    return True


def _try(device: torch.device) -> None:
    x = torch.ones(8, device=device, requires_grad=True)
    torch.compile(lambda x: (x * 2).tanh().sum())(x).backward()
