"""The cross-entropy of a language head, without ever holding the scores of all places.

    hidden [N,C] --a few rows at a time--> logits [n,V] --loss--> and at once their gradient, in their place
                                                                     |-- @ weight --------> gradient of the rows
                                                                     '-- ' @ rows --added-> gradient of the weight

The whole logits of 2,048 places and 49,152 tokens are 400 MB, and their softmax and gradients as much again: here there are
as many rows at a time as ``CHUNK`` bytes hold. The gradient is taken on the way forward, so that nothing is computed twice;
where the head is frozen its gradient is not computed at all. (Known from Liger Kernel, arXiv 2410.10989, section 3.2.)

label smoothing e   the target is (1 - e) at the label plus e/V everywhere     arXiv 1512.00567, section 7
z-loss z            z * log(sum of exp(logits))^2 is added                     arXiv 2204.02311, section 5
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hornbook.kernels import training
from hornbook.model.heads import LanguageHead, softcap

PART = 4096  # rows of a table that are made wider at a time
CHUNK = {"cpu": 1 << 25, "cuda": 1 << 28}  # bytes of float32 logits at a time: on a processor what its last cache holds


def head_cross_entropy(
    head: LanguageHead, hidden: Tensor, table: Tensor, labels: Tensor, *, smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """The sum over all N of -log p(label), a float32 scalar; what the head's scores [N,V] would give.

    hidden [N,C], table [V,E] the token embedding, labels [N] long, all of them tokens; else ValueError (on a GPU, which is
    not waited for, torch's own assertion).
    """
    states = head.states(hidden)
    weight = table if head.tokens is None else head.tokens.weight
    if labels.device.type == "cpu" and labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(weight):
        raise ValueError(f"labels of {int(labels.min())} to {int(labels.max())}, and {len(weight)} tokens")
    total: Tensor = _HeadCrossEntropy.apply(states, weight, head.bias, labels, head.cap, smoothing, z_loss)  # type: ignore[no-untyped-call]
    return total


def cross_entropy(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """The same of whole logits [N,V], by definition: the reference."""
    logits = logits.float()
    total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    return total + z_loss * logits.logsumexp(-1).square().sum() if z_loss else total


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        cap: float | None,
        smoothing: float,
        z_loss: float,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[:3]
        # Under autocast the states come in another type; a table that is kept in a smaller one is widened a part at a time.
        matrix = weight if weight.element_size() < states.element_size() else weight.to(states.dtype)
        dstates = torch.empty_like(states) if wanted[0] else None
        dweight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        dbias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        rows = max(1, CHUNK.get(states.device.type, CHUNK["cuda"]) // (4 * len(weight)))
        losses = []
        for start in range(0, len(states), rows):
            some, its = states[start : start + rows], labels[start : start + rows]
            logits = _scores(some, matrix).float()
            if bias is not None:
                logits += bias
            if cap is not None:
                logits = softcap(logits, cap)
            bent = 1 - (logits / cap).square() if cap is not None and any(wanted) else None
            losses.append(_rows(logits, its, smoothing, z_loss, gradient=any(wanted)))
            if not any(wanted):
                continue
            if bent is not None:
                logits *= bent
            grad = logits.to(states.dtype)
            if dstates is not None:
                _back(grad, matrix, dstates[start : start + rows])
            if dweight is not None and grad.dtype == torch.float32:
                dweight.addmm_(grad.t(), some)
            elif dweight is not None:
                dweight += grad.t() @ some
            if dbias is not None:
                dbias += logits.sum(0)
        ctx.save_for_backward(
            dstates,
            None if dweight is None else dweight.to(weight.dtype),
            None if dbias is None or bias is None else dbias.to(bias.dtype),
        )
        return torch.cat(losses).double().sum().float() if losses else torch.zeros((), device=states.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """In place: what was taken on the way forward is used once, and torch refuses a second time."""
        scaled = [None if saved is None else saved.mul_(grad.to(saved.dtype)) for saved in ctx.saved_tensors]
        return *scaled, None, None, None, None


def _scores(states: Tensor, matrix: Tensor) -> Tensor:
    """states [n,C] times matrix' [C,V]."""
    if matrix.dtype == states.dtype:
        return states @ matrix.t()
    out = states.new_empty(len(states), len(matrix))
    for start in range(0, len(matrix), PART):
        out[:, start : start + PART] = states @ matrix[start : start + PART].to(states.dtype).t()
    return out


def _back(grad: Tensor, matrix: Tensor, out: Tensor) -> None:
    """grad [n,V] times matrix [V,C], into ``out`` [n,C]."""
    if matrix.dtype == grad.dtype:
        torch.mm(grad, matrix, out=out)
        return
    out.zero_()
    for start in range(0, len(matrix), PART):
        out.addmm_(grad[:, start : start + PART], matrix[start : start + PART].to(grad.dtype))


def _rows(logits: Tensor, labels: Tensor, smoothing: float, z_loss: float, *, gradient: bool) -> Tensor:
    """The loss of each row [n] of logits [n,V] float32, which become their own gradients where those are asked for."""
    kernels = training.native() if logits.device.type == "cpu" and logits.is_contiguous() else None
    if kernels is not None:
        losses = torch.empty(len(logits))
        labels = labels.contiguous()
        kernels.hb_train_cross_entropy(
            logits.data_ptr(), labels.data_ptr(), *logits.shape, smoothing, z_loss, int(gradient), losses.data_ptr()
        )
        return losses
    return plain_rows(logits, labels, smoothing, z_loss, gradient=gradient)


def plain_rows(logits: Tensor, labels: Tensor, smoothing: float, z_loss: float, *, gradient: bool) -> Tensor:
    """``_rows`` as torch does it."""
    sums = logits.logsumexp(-1)
    losses = sums - (1 - smoothing) * logits.gather(1, labels[:, None])[:, 0]
    if smoothing:
        losses -= smoothing * logits.mean(-1)
    if z_loss:
        losses += z_loss * sums.square()
    if gradient:
        logits.sub_(sums[:, None]).exp_()
        if z_loss:
            logits *= (1 + 2 * z_loss * sums)[:, None]
        if smoothing:
            logits -= smoothing / logits.shape[1]
        logits.scatter_add_(1, labels[:, None], torch.full_like(losses, smoothing - 1)[:, None])
    return losses
