"""Where an adapter enters a model: a Site stands in a module's place, and Parts of adapters stand around the module.

    block.attention.query = Linear     ->     Site(base=Linear, parts={"default": LoRAPart, "other": LoRAPart})

    x -> other(below=default(below=Linear))(x)         those that are switched off are passed over

The module itself is neither copied nor changed, and stands in its place again when the last part is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

Below: TypeAlias = Callable[..., Tensor]


class Part(nn.Module):
    """What one adapter does at one module. ``forward(below, *inputs)`` calls what is below it, or does not.

    A part that can become a change of the module's own weights says so with ``folded``.
    """

    active: bool = True
    holds: bool = True  # False: its parameters are in another part, whose names say them

    def folded(self, base: nn.Module) -> dict[str, Tensor]:
        """New values of the module's own parameters, with which it computes what this part made of it.

        Raises NotImplementedError where no values do.
        """
        raise NotImplementedError


class Site(nn.Module):
    """In the place of ``base``, with the parts of adapters by their names; the last is outermost."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.parts = nn.ModuleDict()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        run: Below = self.base
        for part in self.parts.values():
            if part.active:
                run = partial(part, run)
        return run(*inputs, **named)


def modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module of the model itself by its path, as if nothing was attached: "blocks.0.attention.query"."""

    def below(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in module.named_children():
            ground = child.base if isinstance(child, Site) else child
            yield path + name, ground
            yield from below(ground, f"{path}{name}.")

    yield from below(model, "")


def module(model: nn.Module, path: str) -> nn.Module:
    """The module of the model itself at a path. Raises KeyError where there is none."""
    found = model
    for name in path.split(".") if path else ():
        child = found._modules.get(name)
        if child is None:
            raise KeyError(path)
        found = child.base if isinstance(child, Site) else child
    return found


def parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The model's own parameters by the names that they have when nothing is attached."""
    yield from model.named_parameters(recurse=False)
    seen: set[int] = set()
    for path, found in modules(model):
        for name, parameter in found.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{path}.{name}", parameter


def insert(model: nn.Module, path: str, name: str, part: Part) -> None:
    """Put ``part`` around whatever stands at ``path``."""
    parent, last = _parent(model, path)
    there = parent._modules[last]
    assert there is not None, f"{path} is no module"
    if not isinstance(there, Site):
        there = Site(there)
        there.train(there.base.training)
        setattr(parent, last, there)
    assert name not in there.parts, f"{path} has a part called {name} already"
    part.train(there.base.training)
    there.parts[name] = part


def take_out(model: nn.Module, path: str, name: str) -> None:
    """Remove a part; with the last one the Site goes, and the module stands where it stood."""
    parent, last = _parent(model, path)
    site = parent._modules[last]
    assert isinstance(site, Site), f"nothing is attached at {path}"
    del site.parts[name]
    if not site.parts:
        setattr(parent, last, site.base)


def _parent(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    above, _, last = path.rpartition(".")
    return module(model, above), last
