"""LoRA's settings and weights in PEFT's words, both ways.

A matrix of theirs may hold several of ours, as GPT-2's c_attn holds queries, keys and values. One A and B of theirs is then
the same A and some rows of B for each of ours; ours, trained apart, are one of theirs of the summed rank:

    A [3r, in] = A q, A k, A v, one below the other      B [3n, 3r] = B q, B k, B v, down the diagonal
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from hornbook.adapt import format as peft_format
from hornbook.adapt.attached import Attached
from hornbook.checkpoint.lora import check_kind, find, moved, returned, scale_of
from hornbook.checkpoint.rules import Chain, Rule, Transposed
from hornbook.errors import ModelFileError, UnsupportedModel, UsageError
from hornbook.model.transformer import Transformer

if TYPE_CHECKING:
    from hornbook.adapt.lora import LoRA, LoRAPart

_NAME = re.compile(r"(?P<module>.+)\.(lora_(?P<side>[AB])\.weight|lora_(?P<magnitude>magnitude_vector)(\.weight)?)")
# What another kind of LoRA has, and this one has not; each is said as a file says that it does without.
UNUSED: dict[str, Any] = {
    "alora_invocation_tokens": None, "arrow_config": None, "bias": "none", "corda_config": None, "eva_config": None,
    "exclude_modules": None, "init_lora_weights": True, "kasa_config": None, "layer_replication": None,
    "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_bias": False, "lora_ga_config": None,
    "megatron_config": None, "megatron_core": "megatron.core", "monteclora_config": None, "qalora_group_size": 16,
    "target_parameters": None, "trainable_token_indices": None, "use_bdlora": None, "use_qalora": False,
    "velora_config": None,
}  # fmt: skip


class Whole(NamedTuple):
    """One adapted module of theirs."""

    module: str
    down: Tensor  # A [R, in]
    up: Tensor  # B [out, R]
    magnitude: Tensor | None  # [out]
    scale: float
    transposed: bool  # the matrix is [in, out] there


def wholes(attached: Attached) -> Iterator[Whole]:
    """Each module of theirs that has a LoRA, in the model's order."""
    family, rules = peft_format.form(attached.model)
    for rule in rules:
        paths = [name.removesuffix(".weight") for name in rule.ours]
        there = [path in attached.parts for path in paths]
        if not any(there) or not rule.ours[0].endswith(".weight"):
            continue
        if len(rule.theirs) != 1:
            raise UnsupportedModel(f"{paths[0]} is several modules in the model's Hugging Face form", "Leave it out.")
        module = peft_format.full_name(family, rule.theirs[0]).removesuffix(".weight")
        steps = rule.transform.steps if isinstance(rule.transform, Chain) else (rule.transform,)
        transposed = any(isinstance(step, Transposed) for step in steps)
        if not all(there) and _of(attached).dora:
            raise UnsupportedModel(
                f"DoRA scales all rows of {module}, and only {', '.join(p for p, t in zip(paths, there, strict=True) if t)} "
                "are adapted",
                f"Take {', '.join(paths)} as targets together.",
            )
        down, ups, magnitudes, scale = _joined(attached, paths)
        magnitude = None if magnitudes is None else returned(rule.transform, magnitudes)
        yield Whole(module, down, returned(rule.transform, ups), magnitude, scale, transposed)


def _joined(
    attached: Attached, paths: list[str]
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...] | None, float]:
    """A, the B of each of ``paths`` for that A, their lengths, the scale."""
    parts = [cast("LoRAPart | None", attached.parts.get(path)) for path in paths]
    there = [part for part in parts if part is not None]
    pairs = [None if part is None else part.pair() for part in parts]
    downs = [pair[0].detach() for pair in pairs if pair is not None]
    scale = there[0].scale
    shared = all(d.shape == downs[0].shape and torch.equal(d, downs[0]) for d in downs)
    down = downs[0] if shared else torch.cat(downs)
    ups, at = [], 0
    for path, part, pair in zip(paths, parts, pairs, strict=True):
        rows = attached.model.get_parameter(f"{path}.weight").shape[0] if part is None else len(part.up)
        up = torch.zeros(rows, len(down), device=down.device, dtype=down.dtype)
        if part is not None and pair is not None:
            width = pair[1].shape[1]
            up[:, at : at + width] = pair[1].detach() * (part.scale / scale)
            at += 0 if shared else width
        ups.append(up)
    lengths = tuple(part.magnitude.detach() for part in there if part.magnitude is not None)
    return down, tuple(ups), lengths or None, scale


def tensors(attached: Attached) -> dict[str, Tensor]:
    found = {}
    for whole in wholes(attached):
        found[f"{whole.module}.lora_A.weight"] = whole.down
        found[f"{whole.module}.lora_B.weight"] = whole.up
        if whole.magnitude is not None:
            found[f"{whole.module}.lora_magnitude_vector"] = whole.magnitude
    return found


def described(attached: Attached) -> dict[str, Any]:
    adapter, found = _of(attached), list(wholes(attached))
    if len({whole.transposed for whole in found}) > 1:
        raise UnsupportedModel("PEFT takes all matrices as [in, out] or none", "Take targets of one kind.")
    ranks = {whole.module: len(whole.down) for whole in found}
    alphas = {
        whole.module: _plain(whole.scale * (math.sqrt(ranks[whole.module]) if adapter.rslora else ranks[whole.module]))
        for whole in found
    }
    rank, alpha = _usual(ranks), _usual(alphas)
    return {
        **UNUSED,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: r for module, r in ranks.items() if r != rank},
        "alpha_pattern": {module: a for module, a in alphas.items() if a != alpha},
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "use_dora": adapter.dora,
        "fan_in_fan_out": any(whole.transposed for whole in found),
        "target_modules": _targets(attached, list(ranks)),
        "ensure_weight_tying": "embed.tokens.weight" in attached.replaced and attached.model.config.tied_head,
    }


def _usual(values: Mapping[str, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0]


def _targets(attached: Attached, modules: list[str]) -> list[str]:
    """The last words of the names where they mean these modules alone, else the whole names."""
    family, rules = peft_format.form(attached.model)
    ends = {module.rpartition(".")[2] for module in modules}
    others = {
        peft_format.full_name(family, name).removesuffix(".weight")
        for rule in rules
        for name in rule.theirs
        if name.endswith(".weight")
    }
    meant = {module for module in others if module.rpartition(".")[2] in ends}
    return sorted(ends) if meant == set(modules) else modules


def _plain(alpha: float) -> float | int:
    """Without the last bits that a division left, and as a whole number where it is one."""
    rounded = round(alpha, 6)
    return int(rounded) if rounded == int(rounded) else alpha


def _of(attached: Attached) -> LoRA:
    return cast("LoRA", attached.adapter)


# -------------------------------------------------------------------------------------------------------------- reading


def settings(raw: Mapping[str, Any], found: Mapping[str, Tensor], model: Transformer) -> dict[str, Any]:
    """The fields of a LoRA for the modules that a file has weights of.

    Raises UnsupportedModel for what computes something else, UsageError where a module is not the model's.
    """
    check_kind(raw, reached=("use_dora", "modules_to_save"))
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    rslora = bool(raw.get("use_rslora"))
    for module, sides in _sides(found).items():
        rank = len(_side(sides, "A", module))
        scale = scale_of(raw, module, rank)
        for path in (name.removesuffix(".weight") for name in _rule(model, module).ours):
            ranks[path] = rank
            alphas[path] = scale * (math.sqrt(rank) if rslora else rank)
    if not ranks:
        raise ModelFileError("the adapter changes nothing", "Fetch it again.")
    rank, alpha = _usual(ranks), _usual(alphas)
    return {
        "rank": rank,
        "alpha": float(alpha),
        "rank_pattern": {re.escape(path): r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {re.escape(path): float(a) for path, a in alphas.items() if a != alpha},
        "dropout": float(raw.get("lora_dropout") or 0.0),
        "rslora": rslora,
        "dora": bool(raw.get("use_dora")),
        "targets": tuple(ranks),
    }


@torch.no_grad()
def fill(attached: Attached, found: Mapping[str, Tensor]) -> None:
    for module, sides in _sides(found).items():
        rule = _rule(attached.model, module)
        down, ups = _side(sides, "A", module), moved(rule.transform, _side(sides, "B", module))
        lengths = (None,) * len(ups)
        if _of(attached).dora:
            lengths = moved(rule.transform, _side(sides, "magnitude_vector", module))
        for name, up, length in zip(rule.ours, ups, lengths, strict=True):
            part = cast("LoRAPart", attached.parts[name.removesuffix(".weight")])
            values = {"down": down, "up": up} | ({} if length is None else {"magnitude": length})
            for key, value in values.items():
                there = part.get_parameter(key)
                if there.shape != value.shape:
                    raise UsageError(
                        f"the adapter's {key} of {module} is {list(value.shape)}, and the model's {name} needs "
                        f"{list(there.shape)}",
                        "It was made for another base.",
                    )
                there.copy_(value)


def _sides(found: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """module -> "A", "B", "magnitude_vector" -> tensor. Raises UnsupportedModel for a tensor of another kind."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in found.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise UnsupportedModel(f"the adapter has a tensor {name} {list(tensor.shape)}", "Train it again without.")
        sides.setdefault(match["module"], {})[match["side"] or match["magnitude"]] = tensor
    return sides


def _side(sides: Mapping[str, Tensor], side: str, module: str) -> Tensor:
    if side not in sides or sides[side].ndim != (1 if side == "magnitude_vector" else 2):
        raise ModelFileError(f"the adapter has no lora_{side} of {module}", "Fetch it again.")
    return sides[side]


def _rule(model: Transformer, module: str) -> Rule:
    rule = find(peft_format.form(model)[1], module)
    if rule is None:
        raise UsageError(
            f"the adapter changes {module}, and this model has no such module", "It was made for another base."
        )
    return rule
