"""Low-rank adaptation: y = x W' + b + s (x A') B', of which only A [r, in] and B [out, r] are trained (arXiv 2106.09685, eq. 3).

    s      alpha / r, or alpha / sqrt(r): rsLoRA (arXiv 2312.03732, eq. 5)
    DoRA   the rows of W + s B A scaled to a trained length each (arXiv 2402.09353, eq. 5, its norm constant as in 4.3)
    PiSSA  A and B begin as W's own largest directions, and what they begin as is taken off (arXiv 2404.02948, eq. 2 to 4)

It stands around whatever has in_features and out_features, so a LoRA on weights of four bits is QLoRA, and no other class.
What a step costs is the base's two products (no gradient of W) and six thin ones; kept for it are x, which the base's
neighbours keep too, and x A'.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.adapt import lora_format, targets
from hornbook.adapt.attached import Attached
from hornbook.adapt.inject import Below, Part, module
from hornbook.adapt.low_rank import beside, weight_of
from hornbook.errors import UsageError
from hornbook.model.transformer import Transformer

INITS = ("kaiming", "gaussian", "orthogonal", "pissa")
SVD_STEPS = 4  # power iterations of PiSSA's randomised decomposition


@dataclass(frozen=True)
class LoRA:
    """``targets``: see targets.py. Patterns are of names, ours or theirs, as PEFT reads them: {"layers.0.*q_proj": 8}.

    train_also: modules of the model that are trained whole, as copies: "norms", "embeddings", or names of modules.
    init: how A and B begin; all but pissa change nothing at first, and pissa changes nothing either: see LoRAPart.
    Raises UsageError for settings that cannot be.
    """

    kind: ClassVar[str] = "lora"
    peft_type: ClassVar[str] = "LORA"

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str | Sequence[str] = targets.ALL
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False
    dora: bool = False
    init: str = "kaiming"
    train_also: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "train_also", tuple(self.train_also))
        ranks, alphas = [self.rank, *self.rank_pattern.values()], [self.alpha, *self.alpha_pattern.values()]
        if min(ranks) < 1:
            raise UsageError(
                f"a LoRA of rank {min(ranks)} has no weights", "Take a rank of 1 or more: 8 to 64 are usual."
            )
        if min(alphas) <= 0 or not all(map(math.isfinite, alphas)):
            raise UsageError(f"alpha is {min(alphas)}", "Take one above 0: the rank or twice the rank are usual.")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}", "Take one from 0 up to, not including, 1.")
        if self.init not in INITS:
            raise UsageError(f"there is no init {self.init!r}", f"Take one of: {', '.join(INITS)}.")
        if self.init == "orthogonal" and any(rank % 2 for rank in ranks):
            raise UsageError(f"orthogonal A and B need an even rank, not {ranks}", "Add or take one.")
        if self.init == "pissa" and self.dora:
            raise UsageError("DoRA's lengths are of W, which PiSSA takes apart", "Choose one of the two.")

    def attach(
        self, model: Transformer, *, name: str = "default", generator: torch.Generator | None = None
    ) -> Attached:
        paths = targets.linears(model, self.targets)
        theirs = targets.their_modules(model)
        parts = {}
        for path in paths:
            names = [path, *theirs.get(path, [])]
            rank = int(matched(self.rank_pattern, names, self.rank))
            scale = self.scale(rank, matched(self.alpha_pattern, names, self.alpha))
            base = module(model, path)
            parts[path] = LoRAPart(base, rank, scale, self.dropout, dora=self.dora, init=self.init, generator=generator)
        return Attached(model, self, name=name, parts=parts, replaced=targets.replaced(model, self.train_also))

    def scale(self, rank: int, alpha: float) -> float:
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    # --- PEFT's files

    def described(self, attached: Attached) -> dict[str, Any]:
        return lora_format.described(attached)

    def tensors(self, attached: Attached) -> dict[str, Tensor]:
        return lora_format.tensors(attached)

    @classmethod
    def read(cls, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], model: Transformer) -> LoRA:
        return cls(**lora_format.settings(raw, tensors, model))

    def fill(self, attached: Attached, tensors: Mapping[str, Tensor]) -> None:
        lora_format.fill(attached, tensors)


@dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA whose rows are scaled to trained lengths."""

    kind: ClassVar[str] = "dora"

    dora: bool = True


def matched(patterns: Mapping[str, float], names: Sequence[str], usual: float) -> float:
    """The value of the first pattern that one of a module's names ends with."""
    for pattern, value in patterns.items():
        try:
            if any(re.fullmatch(rf"(.*\.)?({pattern})", name) for name in names):
                return value
        except re.error as error:
            raise UsageError(f"{pattern!r} is no regular expression: {error}", "Name a module.") from error
    return usual


class LoRAPart(Part):
    """At one linear layer: ``down`` is A [r, in], ``up`` is B [out, r], ``magnitude`` DoRA's lengths [out].

    PiSSA's beginnings stay as ``start``, frozen, and are taken off again: the base's weight is never touched, and the
    gradients are those of the paper.
    """

    magnitude: nn.Parameter | None
    start_down: Tensor | None
    start_up: Tensor | None
    squares: Tensor  # of the rows of W, for DoRA

    def __init__(
        self, base: nn.Module, rank: int, scale: float, dropout: float = 0.0, *,
        dora: bool = False, init: str = "kaiming", generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.rank, self.scale, self.dropout = rank, scale, dropout
        self._ground = (base,)  # no module of this part's own
        down, up = begun(init, rank, base, scale, generator)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.register_buffer("start_down", down.clone() if init == "pissa" else None, persistent=False)
        self.register_buffer("start_up", up.clone() if init == "pissa" else None, persistent=False)
        lengths = weight_of(base).detach().float().norm(dim=1) if dora else None
        self.register_buffer("squares", None if lengths is None else lengths.square(), persistent=False)
        self.magnitude = None if lengths is None else nn.Parameter(lengths.clone())

    def pair(self) -> tuple[Tensor, Tensor]:
        """The A and B that are run: for PiSSA those trained beside those taken off."""
        if self.start_down is None or self.start_up is None:
            return self.down, self.up
        return torch.cat((self.down, self.start_down)), torch.cat((self.up, -self.start_up), dim=1)

    def forward(self, below: Below, x: Tensor) -> Tensor:
        down, up = self.pair()
        rate = self.dropout if self.training else 0.0
        if self.magnitude is None:
            return beside(below, x, down, up, self.scale, rate)
        base, ratio = self._ground[0], self.ratio()
        if below is base and rate == 0.0:
            # c (W x + s B A x) + b: one pass over what the sum is, none over W x alone.
            changed = beside(below, x, down, up, self.scale, 0.0, bias=False)
            bias, ratio = getattr(base, "bias", None), ratio.to(changed.dtype)
            return changed * ratio if bias is None else torch.addcmul(bias.to(changed.dtype), changed, ratio)
        ratio = ratio.to(x.dtype)
        dropped = F.dropout(x, rate) if rate else x
        unbiased = F.linear(dropped, weight_of(base, x.dtype))
        change = F.linear(F.linear(dropped, down.to(x.dtype)), up.to(x.dtype)) * self.scale
        return below(x) + (ratio - 1) * unbiased + ratio * change

    def ratio(self) -> Tensor:
        """DoRA's m / |W + s B A|, by rows [out]; the norm has no gradient.

        |w + s b A|^2 = |w|^2 + 2 s (w A') b' + s^2 b (A A') b', so that no matrix of W's size is made.
        """
        assert self.magnitude is not None, "only DoRA has lengths"
        with torch.no_grad():
            down, up = self.down.float(), self.up.float()
            cross = (weight_of(self._ground[0]).float() @ down.T * up).sum(1)
            square = (up @ (down @ down.T) * up).sum(1)
            norm = (self.squares + 2 * self.scale * cross + self.scale**2 * square).clamp_min(0).sqrt()
        return self.magnitude / norm

    def folded(self, base: nn.Module) -> dict[str, Tensor]:
        down, up = self.pair()
        changed = torch.addmm(weight_of(base).float(), up.float(), down.float(), alpha=self.scale)
        return {"weight": changed if self.magnitude is None else changed * self.ratio()[:, None]}


def begun(
    init: str, rank: int, base: nn.Module, scale: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """A [r, in] and B [out, r] before training, float32 on the base's device."""
    out, width = int(base.out_features), int(base.in_features)  # type: ignore[arg-type]
    kept = next(chain(base.parameters(), base.buffers()))
    like: dict[str, Any] = {"device": kept.device, "dtype": torch.float32}

    def drawn(*shape: int) -> Tensor:
        # The same numbers on every device: a generator of torch belongs to one.
        return torch.randn(*shape, generator=generator).to(**like)

    up = torch.zeros(out, rank, **like)
    if init == "kaiming":  # as torch's Linear begins: uniform up to 1 / sqrt(in)
        return ((torch.rand(rank, width, generator=generator) * 2 - 1) / math.sqrt(width)).to(**like), up
    if init == "gaussian":
        return drawn(rank, width) / rank, up
    if init == "orthogonal":  # the rows of Q are orthogonal, so B A = 0 though neither is
        q = torch.linalg.qr(drawn(rank, rank))[0]
        return (drawn(width, rank // 2) @ q[0::2]).T.contiguous() / 10, drawn(out, rank // 2) @ q[1::2] / 10
    values = weight_of(base).detach().float()
    if rank > min(values.shape):
        raise UsageError(f"a matrix of {out} x {width} has no {rank} directions", "Take a lower rank.")
    # Randomised (arXiv 0909.4061): random test vectors and power iterations.
    span = torch.linalg.qr(values @ drawn(width, min(rank + 8, *values.shape)))[0]
    for _ in range(SVD_STEPS):
        span = torch.linalg.qr(values @ torch.linalg.qr(values.T @ span)[0])[0]
    u, s, v = torch.linalg.svd(span.T @ values, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return (v[:rank] * root[:, None]).contiguous(), ((span @ u[:, :rank]) * root).contiguous()
