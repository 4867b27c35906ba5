"""What a layer does to each token alone: the two-matrix MLP (arXiv 1706.03762, eq. 2), its gated form (2002.05202), or a
mixture of such experts of which a router picks a few for each token (2401.04088)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.kernels import products, sublayers, training
from hornbook.model.config import Experts, ModelConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,  # by the error function
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class FeedForward(nn.Module):
    """[..., C] -> [..., C]; ``inner``: the width inside, the configuration's where none is given."""

    def __init__(self, config: ModelConfig, inner: int | None = None) -> None:
        super().__init__()
        width, bias = config.width, config.feedforward_bias
        inner = config.feedforward_width if inner is None else inner
        self.gate = nn.Linear(width, inner, bias=bias) if config.gated else None
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)
        self.activation, self.activation_name = ACTIVATIONS[config.activation], config.activation

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            if products.served(x, self.up, self.down):
                return products.mlp(x, self.up, self.down, self.activation_name)
            inner = self.activation(self.up(x))
        else:
            gate, up = self.gate(x), self.up(x)
            fused = training.serves(gate, up)
            inner = training.gated(gate, up, self.activation_name) if fused else self.activation(gate) * up
        out: Tensor = self.down(inner)
        return out

    def beside(self, x: Tensor, norm: nn.LayerNorm) -> Tensor | None:
        """x + self(norm(x)) as one function, where that is possible (kernels/sublayers.py)."""
        if self.gate is None and products.bare(self) and sublayers.serves(x, norm, self.up, self.down):
            return sublayers.fed(x, norm, self.up, self.down, self.activation_name)
        return None


class Mixture(nn.Module):
    """[B,T,C] -> [B,T,C]: sum over the chosen experts of weight * expert(x), and the shared expert where there is one.

    The experts' matrices stand one behind the other: gate and up [E,I,C], down [E,C,I].
    """

    def __init__(self, config: ModelConfig, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        self.router = nn.Linear(config.width, experts.count, bias=False)
        inward = torch.empty(experts.count, experts.width, config.width)
        self.gate, self.up = nn.Parameter(inward), nn.Parameter(inward.clone())
        self.down = nn.Parameter(torch.empty(experts.count, config.width, experts.width))
        for weight in (self.gate, self.up, self.down):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        self.activation = ACTIVATIONS[config.activation]
        self.shared = FeedForward(config, experts.shared_width) if experts.shared_width else None
        gated = experts.shared_width and experts.shared_gate
        self.shared_gate = nn.Linear(config.width, 1, bias=False) if gated else None

    def forward(self, x: Tensor, routing: list[Tensor] | None = None) -> Tensor:
        """``routing``: takes the router's scores [B,T,E], for the load-balancing loss."""
        flat = x.reshape(-1, x.shape[-1])
        scores = self.router(flat)
        if routing is not None:
            routing.append(scores.view(*x.shape[:-1], -1))
        weights, chosen = scores.float().softmax(-1).topk(self.experts.top, dim=-1)
        if self.experts.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(flat)
        for expert in chosen.unique().tolist():
            token, rank = (chosen == expert).nonzero(as_tuple=True)
            states = flat[token]
            inner = self.activation(F.linear(states, self.gate[expert])) * F.linear(states, self.up[expert])
            part = F.linear(inner, self.down[expert]) * weights[token, rank, None].to(x.dtype)
            out.index_add_(0, token, part)
        if self.shared is not None:
            common = self.shared(flat)
            out = out + (common if self.shared_gate is None else torch.sigmoid(self.shared_gate(flat)) * common)
        return out.view_as(x)


def load_balance(routing: list[Tensor], experts: Experts, mask: Tensor | None = None) -> Tensor:
    """E * sum over experts of (share of the tokens that chose it) * (its mean probability), over all layers' tokens at
    once: 1 times ``top`` where all are used alike, more where few are (arXiv 2101.03961, eq. 4, for top-k choices).

    routing: [B,T,E] of each sparse layer; mask [B,T]: padding is not counted.
    """
    probabilities = torch.cat([scores.flatten(0, 1).float().softmax(-1) for scores in routing])
    chosen = probabilities.topk(experts.top, dim=-1).indices
    picks = F.one_hot(chosen, experts.count).sum(1).float()
    counted = torch.ones(len(picks), device=picks.device)
    if mask is not None:
        counted = mask.flatten().float().repeat(len(routing))
    share = (picks * counted[:, None]).sum(0) / counted.sum()
    mean = (probabilities * counted[:, None]).sum(0) / counted.sum()
    return experts.count * (share * mean).sum()
