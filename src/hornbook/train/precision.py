"""In which numbers a model is trained. Whatever they are, what the optimizer adds its updates to is float32: an update is
often less than a thousandth of its weight, and bfloat16 does not tell 1 from 1.003.

                       weights     passes      gradients            optimizer adds to
    float32            float32     float32     float32              the weights
    bfloat16           bfloat16    bfloat16    float32, summed up   a float32 copy of the weights, which are cut from it
    bfloat16-autocast  float32     bfloat16    float32              the weights
    float16            float32     float16     float32, scaled      the weights (arXiv 1710.03740: the loss is scaled up)

``bfloat16`` holds 2 + 4 bytes a trained weight and reads half as many in each pass; ``bfloat16-autocast`` holds 4 and casts
in each pass. Weights that are not trained keep the type in which the model was loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hornbook.errors import UsageError


class Precision(Protocol):
    """How passes, gradients and updates are computed."""

    def take(self, named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
        """What the optimizer is to be made for: the parameters, or the float32 copies that stand for them."""
        ...

    def passes(self, device: torch.device) -> AbstractContextManager[object]:
        """Around the passes forward."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to those of the step."""
        ...

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Make the step's gradients, all of which are there, those of the loss itself."""
        ...

    def accepts(self, norm: float) -> bool:
        """Whether the step's gradient can be used; otherwise the same batches are to be gone through again."""
        ...

    def settle(self) -> None:
        """Bring to the model what the optimizer has changed."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep besides the parameters that ``take`` gave, as JSON."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Plain:
    """Weights as they are, and passes as they are or cast down to ``passing``."""

    def __init__(self, passing: torch.dtype | None = None) -> None:
        self.passing = passing

    def take(self, named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
        return dict(named)

    def passes(self, device: torch.device) -> AbstractContextManager[object]:
        return nullcontext() if self.passing is None else torch.autocast(device.type, self.passing)

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss)

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        pass

    def accepts(self, norm: float) -> bool:
        return True

    def settle(self) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        assert not state, f"a state of another precision: {sorted(state)}"


class Copied(Plain):
    """Weights in ``dtype`` with a float32 copy of each that is trained (its "master").

    As soon as a gradient of a weight is there it is added to the copy's, in float32, and let go.
    """

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.dtype = dtype
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # the model's, its copy

    @torch.no_grad()
    def take(self, named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
        taken = {}
        for name, weight in named:
            copy = nn.Parameter(weight.detach().float().clone())
            weight.data = weight.data.to(self.dtype)
            weight.register_post_accumulate_grad_hook(lambda weight, copy=copy: _hand_over(weight, copy))  # type: ignore[no-untyped-call]
            self._pairs.append((weight, copy))
            taken[name] = copy
        return taken

    @torch.no_grad()
    def settle(self) -> None:
        for weight, copy in self._pairs:
            weight.copy_(copy)


class Scaled(Plain):
    """Passes in float16, whose gradients vanish below 6e-8: the loss is multiplied by a number that keeps them above it.

    Where a gradient overflows the number is halved and the same batches are gone through again, so that no step is lost;
    after ``patience`` steps without an overflow it is doubled.
    """

    def __init__(self, scale: float = 2.0**16, patience: int = 2000) -> None:
        super().__init__(torch.float16)
        self.scale, self.patience, self.steady = scale, patience, 0

    def backward(self, loss: Tensor) -> None:
        torch.autograd.backward(loss * self.scale)

    @torch.no_grad()
    def unscale(self, parameters: Iterable[Tensor]) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(1.0 / self.scale)

    def accepts(self, norm: float) -> bool:
        if not math.isfinite(norm) and self.scale > 1.0:
            self.scale, self.steady = self.scale / 2, 0
            return False
        self.steady += 1
        if self.steady >= self.patience:
            self.scale, self.steady = min(self.scale * 2, 2.0**24), 0
        return True

    def state(self) -> dict[str, Any]:
        return {"scale": self.scale, "steady": self.steady}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.scale, self.steady = state["scale"], state["steady"]


PRECISIONS = {
    "float32": Plain,
    "bfloat16": Copied,
    "bfloat16-autocast": lambda: Plain(torch.bfloat16),
    "float16": Scaled,
}


def make(name: str) -> Precision:
    """Raises UsageError for a name that is not in PRECISIONS."""
    if name not in PRECISIONS:
        raise UsageError(f"there is no precision {name!r}", f"There are: {', '.join(PRECISIONS)}.")
    made: Precision = PRECISIONS[name]()
    return made


def _hand_over(weight: Tensor, copy: Tensor) -> None:
    assert weight.grad is not None
    if copy.grad is None:
        copy.grad = weight.grad.float()
    else:
        copy.grad += weight.grad
    weight.grad = None
