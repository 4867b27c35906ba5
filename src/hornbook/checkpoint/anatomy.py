"""What a model is made of, from its header alone: its configuration, and the shapes of its weights on the meta device.

    header --read_header--> ModelConfig --empty Transformer--> (name, shape) of every weight --> Part: total, active

Nothing is downloaded, unpacked or allocated; a model of 400 GB takes as long as one of 400 kB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch

from hornbook.checkpoint import families, mixes
from hornbook.checkpoint.dequantize import BY_NAME
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.header import read_header
from hornbook.checkpoint.loading import DTYPES, empty
from hornbook.checkpoint.rules import expand
from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig
from hornbook.model.feedforward import Mixture
from hornbook.model.transformer import Transformer

PARTS = ("embedding", "attention", "feed-forward", "norms", "head")


class Part(NamedTuple):
    """Parameters of one kind: all of them, and those that one token passes (fewer in a mixture of experts)."""

    total: int
    active: int


class Weight(NamedTuple):
    """One parameter of the model, by our name. ``share``: of a mixture's stacked matrices, the part that a token passes."""

    name: str
    shape: tuple[int, ...]
    part: str
    share: float = 1.0

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def in_block(self) -> bool:
        return ".blocks." in f".{self.name}"

    @property
    def is_linear(self) -> bool:
        """A matrix of a block that every token is multiplied with: what low-rank adapters stand beside."""
        return self.in_block and len(self.shape) == 2 and self.part in ("attention", "feed-forward")


@dataclass(frozen=True)
class Anatomy:
    """A model without its numbers."""

    config: ModelConfig
    weights: tuple[Weight, ...]
    family: Family | None = None  # None: made here, of no file

    @classmethod
    def of(cls, config: ModelConfig, family: Family | None = None) -> Anatomy:
        """The anatomy of a configuration."""
        return cls(config, tuple(_weights(empty(config))), family)

    @classmethod
    def read(cls, path: Path) -> Anatomy:
        """The anatomy of a GGUF file or a Hugging Face folder. Raises what ``checkpoint.loading.load`` does."""
        family, config = read_header(path)
        return cls.of(config, family)

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The parameters by part, those that the model has; a tied head counts as embedding."""
        found = {}
        for name in PARTS:
            mine = [weight for weight in self.weights if weight.part == name]
            if mine:
                found[name] = Part(sum(w.size for w in mine), sum(round(w.size * w.share) for w in mine))
        return found

    @property
    def parameters(self) -> Part:
        """All parts together."""
        return Part(sum(p.total for p in self.parts.values()), sum(p.active for p in self.parts.values()))

    def weight_bytes(self, type: str) -> int | None:
        """What the weights take in a dtype (float32, bfloat16, float16), or as a GGUF of a recipe ("Q8_0", "Q4_K_M").

        None where GGUF has no form of this model.
        """
        if type in DTYPES:
            return self.parameters.total * DTYPES[type].itemsize
        named = self._in_gguf()
        if named is None:
            return None
        shapes, metadata = named
        types = mixes.assign(type, shapes, metadata)
        formats = {name: BY_NAME[types[name]] for name in shapes}
        return sum(prod(shape) * formats[name].nbytes // formats[name].block for name, shape in shapes.items())

    def cache_bytes(self, tokens: int, item: float, *, rows: int = 1) -> int:
        """Keys and values of ``tokens`` tokens in ``rows`` rows, ``item`` bytes a number: 2 L B K T D item.

        Of a decoder beside an encoder these are its own tokens'; what it keeps of the source comes on top.
        """
        config = self.config
        return round(2 * config.layers * rows * config.kv_heads * tokens * config.head_width * item)

    def _in_gguf(self) -> tuple[dict[str, tuple[int, ...]], Mapping[str, object]] | None:
        """The shapes of the tensors by GGUF's names, and the metadata that a recipe asks for."""
        family = self.family
        if family is None:
            return None
        if families.GGUF.get(family.name) is not family:
            twin = family.twin_of(self.config)
            if twin is None or twin not in families.GGUF:
                return None
            family = families.GGUF[twin]
        ours = {weight.name: torch.empty(weight.shape, device="meta") for weight in self.weights}
        try:
            rules = expand(family.table(self.config), self.config, ours)
        except (HornbookError, AssertionError):  # this variant has no names there
            return None
        shapes: dict[str, tuple[int, ...]] = {}
        for rule in rules:
            theirs = rule.transform.theirs(tuple(ours[name] for name in rule.ours))
            shapes |= {name: tuple(tensor.shape) for name, tensor in zip(rule.theirs, theirs, strict=True)}
        config, experts = self.config, self.config.experts
        metadata = {
            "general.architecture": family.name,
            f"{family.name}.block_count": config.layers,
            f"{family.name}.attention.head_count": config.heads,
            f"{family.name}.attention.head_count_kv": config.kv_heads,
            f"{family.name}.expert_count": 0 if experts is None else experts.count,
        }
        return shapes, metadata


def _weights(model: Transformer) -> Iterator[Weight]:
    stacked = {}
    for name, module in model.named_modules():
        if isinstance(module, Mixture):
            stacked[name] = module.experts.top / module.experts.count
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        yield Weight(name, tuple(parameter.shape), _part(name), stacked.get(owner, 1.0))


def _part(name: str) -> str:
    """Of which part a parameter is, by the modules that it stands in."""
    path = [word for word in name.split(".") if word != "encoder"]
    if any(word == "norm" or word.endswith("_norm") for word in path):
        return "norms"
    if "blocks" in path:
        return "feed-forward" if "feedforward" in path else "attention"
    return {"embed": "embedding", "relative": "attention"}.get(path[0], "head")
