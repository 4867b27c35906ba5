"""Adapters on disk as PEFT writes them: adapter_config.json and adapter_model.safetensors in a folder.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight     a kind's own weights, by names that it knows
    base_model.model.model.norm.weight                                 what is trained whole ("modules_to_save")

Names are those of the model's Hugging Face form, whichever form it was loaded from; the family's table maps them both ways.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hornbook.adapt import inject
from hornbook.adapt.attached import Attached
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import read_json, write_json
from hornbook.checkpoint.fingerprint import KEY
from hornbook.checkpoint.lora import CONFIG, WEIGHTS, hugging_face_form
from hornbook.checkpoint.rules import Rule
from hornbook.checkpoint.safetensors import SafetensorsFile
from hornbook.checkpoint.safetensors_writer import Out, write_file
from hornbook.errors import ModelFileError, ModelNotFound, StoreError, UnsupportedModel, UsageError
from hornbook.model.transformer import Transformer

PREFIX = "base_model.model."
PEFT_VERSION = "0.21.2"  # whose keys are written


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json, and the tensors by their names without "base_model.model.".

    Raises ModelNotFound, ModelFileError for a damaged file or a number that is not finite.
    """
    raw = read_json(folder / CONFIG, dict)
    if raw is None or not (folder / WEIGHTS).is_file():
        missing = CONFIG if raw is None else WEIGHTS
        raise ModelNotFound(
            f"{folder} has no {missing}", "Name the folder of an adapter, or of a run that trained one."
        )
    tensors = {}
    with SafetensorsFile.open(folder / WEIGHTS) as file:
        for name in file.tensors:
            tensor = file.torch(name)
            if not torch.isfinite(tensor.sum()) and not bool(torch.isfinite(tensor).all()):
                raise ModelFileError(f"{name} has numbers that are not finite", "Fetch the adapter again.")
            tensors[name.removeprefix(PREFIX)] = tensor
    return raw, tensors


def save(attached: Attached, folder: Path, *, base: str | None) -> None:
    """See Attached.save."""
    found = tensors(attached)
    origin = attached.model.origin
    described = {
        "auto_mapping": None,
        "base_model_name_or_path": base or (str(origin.path) if origin is not None else None),
        "revision": None,
        "task_type": _task(attached.model),
        "inference_mode": True,
        "modules_to_save": _replaced_modules(attached) or None,
        **attached.adapter.described(attached),
        "peft_type": attached.adapter.peft_type,
        "peft_version": PEFT_VERSION,
        KEY: attached.base.said() | ({"stretch": origin.stretch} if origin is not None and origin.stretch else {}),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}", "Name another folder.") from error
    outs = [
        Out(name, tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in sorted(found.items())
    ]
    write_file(folder / WEIGHTS, outs)
    write_json(folder / CONFIG, described)


def tensors(attached: Attached) -> dict[str, Tensor]:
    """All that the file has, by name; on the CPU."""
    own = attached.adapter.tensors(attached) | _replaced_tensors(attached)
    # What is of no module ("prompt_embeddings") has a name without dots, and PEFT puts nothing before it.
    full = {PREFIX + name if "." in name else name: tensor for name, tensor in own.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in full.items()}


def form(model: Transformer) -> tuple[Family, list[Rule]]:
    """The model's Hugging Face form. Raises UnsupportedModel where it has none, or is not known to have one."""
    if model.origin is None:
        raise UnsupportedModel(
            "the model was not read from a file, so nothing says what its modules are called there",
            "Save it and load it again, then attach.",
        )
    return hugging_face_form(model.config, model.origin.family)


def full_name(family: Family, name: str) -> str:
    """A tensor or module of a rule, as the whole model calls it."""
    return f"{family.prefix}{name}".removeprefix(".") if name.startswith(".") else name


# ------------------------------------------------------------------------------------------- what is trained whole


def split_replaced(
    raw: Mapping[str, Any], found: Mapping[str, Tensor], model: Transformer
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a file -> (those of its kind, those of the model's own parameters by *our* names).

    Raises UnsupportedModel for a table of tokens that is trained apart from the head that it is tied to.
    """
    if model.origin is None:
        return dict(found), {}
    family, rules = form(model)
    by_name = {full_name(family, name): rule for rule in rules for name in rule.theirs}
    whole = {name: by_name[name] for name in found if name in by_name}
    ours: dict[str, Tensor] = {}
    for rule in {id(rule): rule for rule in whole.values()}.values():
        names = [full_name(family, name) for name in rule.theirs]
        if not set(names) <= found.keys():
            raise UnsupportedModel(f"the adapter has some of {', '.join(names)}", "It must have all of them.")
        ours |= zip(rule.ours, rule.transform.ours(tuple(found[name] for name in names)), strict=True)
    rest = {name: tensor for name, tensor in found.items() if name not in whole}
    table = ours.get("embed.tokens.weight")
    if table is not None and model.config.tied_head:
        again = [name for name in rest if name.endswith("lm_head.weight")]
        if not (raw.get("ensure_weight_tying") or (again and torch.equal(rest[again[0]], table))):
            raise UnsupportedModel(
                "the adapter trained the table of tokens apart from the head, and in this model they are one",
                "Train it again with ensure_weight_tying.",
            )
        for name in again:
            del rest[name]
    for name, tensor in ours.items():
        shape = tuple(dict(inject.parameters(model))[name].shape)
        if tuple(tensor.shape) != shape:
            raise UsageError(
                f"the adapter's {name} is {list(tensor.shape)}, the model's {list(shape)}",
                "It was made for another base.",
            )
    return rest, ours


def _replaced_modules(attached: Attached) -> list[str]:
    """What PEFT calls the modules that are trained whole."""
    if not attached.replaced:
        return []
    return sorted({re.sub(r"\.(weight|bias)$", "", name) for name in _replaced_tensors(attached)})


def _replaced_tensors(attached: Attached) -> dict[str, Tensor]:
    """Every tensor of theirs that has something of what is replaced: PEFT knows whole modules only."""
    if not attached.replaced:
        return {}
    family, rules = form(attached.model)
    own: dict[str, Tensor] = dict(inject.parameters(attached.model))
    own |= {name: one.trained for name, one in attached.replaced.items()}
    touched = {re.sub(r"\.(weight|bias)$", "", name) for name in attached.replaced}
    found: dict[str, Tensor] = {}
    for rule in rules:
        if any(re.sub(r"\.(weight|bias)$", "", name) in touched for name in rule.ours):
            theirs = rule.transform.theirs(tuple(own[name].detach() for name in rule.ours))
            found |= zip((full_name(family, name) for name in rule.theirs), theirs, strict=True)
    if "embed.tokens.weight" in attached.replaced and attached.model.config.tied_head:
        # PEFT ties what stands in the file twice, where ensure_weight_tying is said.
        found["lm_head.weight"] = own["embed.tokens.weight"].detach().clone()
    return found


def _task(model: Transformer) -> str | None:
    config = model.config
    if config.classifier is not None:
        return {"sequence": "SEQ_CLS", "tokens": "TOKEN_CLS", "span": "QUESTION_ANS"}[config.classifier.over]
    if config.language_head and config.encoder is not None:
        return "SEQ_2_SEQ_LM"
    if config.language_head and config.causal:
        return "CAUSAL_LM"
    return None if config.language_head else "FEATURE_EXTRACTION"
