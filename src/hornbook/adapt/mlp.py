"""Small networks that make what is learnt, as torch would begin them, from a generator of one's own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def mlp(sizes: tuple[int, ...], between: Callable[[], nn.Module], generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers of these widths with ``between`` between them; PEFT's names of the parts are "0", "2", ..."""
    layers: list[nn.Module] = []
    for width, wider in pairwise(sizes):
        layers += [nn.Linear(width, wider), between()]
    return draw(nn.Sequential(*layers[:-1]), generator)


@torch.no_grad()
def draw(network: Network, generator: torch.Generator | None) -> Network:
    """Begin as torch's own layers do: a Linear's numbers within 1/sqrt(inputs), an LSTM's within 1/sqrt(width)."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.LSTM):
            bound = (layer.in_features if isinstance(layer, nn.Linear) else layer.hidden_size) ** -0.5
            for parameter in layer.parameters(recurse=False):
                parameter.uniform_(-bound, bound, generator=generator)
    return network
