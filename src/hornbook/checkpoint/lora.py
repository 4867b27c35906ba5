"""A LoRA adapter on disk (arXiv 2106.09685), as PEFT writes it, read for a model that is open already.

    adapter_config.json: r, lora_alpha, ...      base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight [r, in]
    adapter_model.safetensors                                                             ....lora_B.weight [out, r]

    --read_lora--> parameter of ours -> (A [r, in], B [out, r], scale): the change of the weight is scale * B A

The names are those of the model's Hugging Face form, whichever form it was loaded from: the family's table maps them, and
where it moves rows (fused projections) those of B move with them. What would compute something else (DoRA, biases,
trained embeddings) is refused by name. Torch is not imported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hornbook.checkpoint import families, fingerprint
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import read_json, read_key
from hornbook.checkpoint.fingerprint import Fingerprint
from hornbook.checkpoint.rules import Chain, Rule, Transform, Transposed, expand
from hornbook.checkpoint.safetensors import SafetensorsFile
from hornbook.errors import ModelFileError, ModelNotFound, UnsupportedModel, UsageError
from hornbook.model.config import ModelConfig
from hornbook.model.parameters import parameters
from hornbook.settings import Settings

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
Change: TypeAlias = tuple[Floats, Floats, float]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_RETRAIN = "Train it again without, or merge it into its model with the tool that made it."
_OPEN = "Merge it into its model (hornbook merge), or open the model with it (hornbook run MODEL --adapter)."
_ELSEWHERE = ("use_dora", "modules_to_save")  # of _MORE: hornbook.adapt does these
# Keys that ask for another computation, and must not be set.
_MORE = frozenset(
    ["use_dora", "bias", "modules_to_save", "lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens"]
    + ["arrow_config", "kasa_config", "monteclora_config", "layer_replication", "target_parameters"]
    + ["trainable_token_indices"]
)
# These ways to begin take something out of the base's own weights: the change is one of what is left of them.
_OF_ANOTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def adapter_folder(named: str | Path, settings: Settings | None = None) -> Path:
    """The folder that has the adapter: the one named, the ``adapter`` of a run's; with ``settings``, also those of a run or
    an adapter of that name in its home. Raises ModelNotFound, with the names that there are."""
    named = Path(named).expanduser()
    places = [named, named / "adapter"]
    homes = [] if settings is None else [settings.home.expanduser() / name for name in ("runs", "adapters")]
    if not named.is_absolute() and len(named.parts) == 1:
        places += [place for home in homes for place in (home / named, home / named / "adapter")]
    for place in places:
        if (place / CONFIG).is_file():
            return place
    known = sorted({path.name for home in homes for path in home.glob("*") if (path / "adapter").is_dir()})
    hint = f" Runs that have one: {', '.join(known)}." if known else ""
    raise ModelNotFound(f"{named} has no {CONFIG}", f"Name the folder of an adapter, or a run that trained one.{hint}")


def stretch_for(folder: Path, asked: str | None = None) -> str | None:
    """How the model must be stretched for the adapter in ``folder``, which says with what it was trained; else as ``asked``.

    Raises UsageError where another way is asked for.
    """
    said = (read_json(folder / CONFIG, dict) or {}).get(fingerprint.KEY)
    trained = said.get("stretch") if isinstance(said, dict) else None
    if trained is None or asked in (None, trained):
        return asked if trained is None else str(trained)
    raise UsageError(
        f"the adapter was trained on a model stretched by {trained}, and {asked} is asked for",
        f"Say {trained}, or nothing.",
    )


def runs_beside(folder: Path) -> bool:
    """Whether the engine runs an adapter beside the weights as they are; others are merged into them, or attached."""
    raw = read_json(folder / CONFIG, dict) or {}
    return raw.get("peft_type") == "LORA" and not any(raw.get(key) for key in ("use_dora", "modules_to_save"))


def read_lora(
    folder: str | Path, config: ModelConfig, family: Family, base: Callable[[], Fingerprint] | None = None
) -> dict[str, Change]:
    """The changes of an adapter, by our parameter names. ``family``: that which the model was read as, in either format;
    ``base``: tells which model it is, to an adapter that says for which it was made.

    Raises ModelNotFound, ModelFileError, UnsupportedModel (a kind that is more than LoRA), UsageError where the adapter was
    made for another base: a module that the model does not have, or one of another shape.
    """
    folder = Path(folder)
    raw = read_json(folder / CONFIG, dict)
    weights = folder / WEIGHTS
    if raw is None or not weights.is_file():
        missing = CONFIG if raw is None else weights.name
        raise ModelNotFound(f"{folder} has no {missing}", "Name the folder of an adapter that PEFT wrote.")
    check_kind(raw)
    if base is not None and fingerprint.KEY in raw:
        fingerprint.check(raw, base(), "this model")
    rules = hugging_face_form(config, family)[1]
    shapes = parameters(config)
    changes: dict[str, Change] = {}
    for module, sides in _read_sides(weights).items():
        if set(sides) != {"A", "B"}:
            raise ModelFileError(f"{weights.name} has only lora_{min(sides)} of {module}", "Fetch the adapter again.")
        down, up = sides["A"], sides["B"]
        found = find(rules, module)
        if found is None:
            raise UsageError(
                f"the adapter changes {module}, and this model has no such module", "It was made for another base."
            )
        scale = scale_of(raw, module, down.shape[0])
        parts = moved(found.transform, up)
        for name, part in zip(found.ours, parts, strict=True):
            if (part.shape[0], down.shape[1]) != shapes[name] or part.shape[1] != down.shape[0]:
                raise UsageError(
                    f"the adapter's change of {module} is {part.shape[0]} x {down.shape[1]} of rank {down.shape[0]} and "
                    f"{part.shape[1]}, the model's {name} is {' x '.join(map(str, shapes[name]))}",
                    "It was made for another base.",
                )
            changes[name] = down, np.ascontiguousarray(part), scale
    if not changes:
        raise ModelFileError(f"{weights.name} changes nothing", "Fetch the adapter again.")
    return changes


def check_kind(raw: Mapping[str, Any], reached: Collection[str] = ()) -> None:
    """Raise UnsupportedModel for an adapter that is more than LoRA, but for the keys that the caller has ``reached``."""
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModel(f"the adapter is of the kind {kind}, and the engine runs LoRA beside the weights", _OPEN)
    for key in sorted(_MORE.difference(reached)):
        if raw.get(key) not in (None, False, [], "none"):
            raise UnsupportedModel(f"the adapter has {key} = {raw[key]!r}", _OPEN if key in _ELSEWHERE else _RETRAIN)
    begun = raw.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(_OF_ANOTHER_BASE):
        raise UnsupportedModel(
            f"the adapter began with {begun} and changes what that left of its base, not the base",
            "Save it as a change of the base: path_initial_model_for_weight_conversion of PEFT's save_pretrained.",
        )


def scale_of(raw: Mapping[str, Any], module: str, rank: int) -> float:
    """lora_alpha / r, or / sqrt(r) (rsLoRA, arXiv 2312.03732); a pattern may say another alpha for some modules."""
    alpha: float = read_key(raw, "lora_alpha", float, 8.0)
    for pattern, other in (raw.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = float(other)
            break
    return alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)


def _read_sides(path: Path) -> dict[str, dict[str, Floats]]:
    """module -> "A" -> [r, in], "B" -> [out, r]."""
    sides: dict[str, dict[str, Floats]] = {}
    file = SafetensorsFile.open(path)
    try:
        for name, info in file.tensors.items():
            match = _NAME.fullmatch(name)
            if match is None or len(info.shape) != 2:
                raise UnsupportedModel(f"the adapter has a tensor {name} {list(info.shape)}", _RETRAIN)
            values = file.tensor(name).astype(np.float32)
            if not np.isfinite(values).all():
                raise ModelFileError(f"{name} has numbers that are not finite", "Fetch the adapter again.")
            sides.setdefault(match["module"], {})[match["side"]] = values
    finally:
        file.close()
    return sides


def hugging_face_form(config: ModelConfig, family: Family) -> tuple[Family, list[Rule]]:
    """The family and the rules of the model's Hugging Face form, whichever form it was read from.

    Raises UnsupportedModel where it has none.
    """
    if families.HUGGING_FACE.get(family.name) is not family:
        name = family.twin_of(config)
        if name is None or name not in families.HUGGING_FACE:
            raise UnsupportedModel(
                f"a model read as {family.name} has no Hugging Face form", "Load the model from its folder."
            )
        family = families.HUGGING_FACE[name]
    return family, expand(family.table(config), config, parameters(config))


def find(rules: list[Rule], module: str) -> Rule | None:
    """The rule of a module's weight, whose names may begin below the model's own prefix ("model.")."""
    for rule in rules:
        if len(rule.theirs) == 1:
            name = rule.theirs[0]
            if module + ".weight" == name or (name.startswith(".") and f".{module}.weight".endswith(name)):
                return rule
    return None


def moved(transform: Transform, up: Any) -> tuple[Any, ...]:
    """The rows of B where ours stand. PEFT writes A and B of a transposed matrix as those of any other."""
    steps = transform.steps if isinstance(transform, Chain) else (transform,)
    parts: tuple[Any, ...] = (up,)
    for step in steps:
        if not isinstance(step, Transposed):
            parts = step.ours(parts)
    return parts


def returned(transform: Transform, parts: tuple[Any, ...]) -> Any:
    """The inverse of ``moved``: the rows of B where theirs stand."""
    steps = transform.steps if isinstance(transform, Chain) else (transform,)
    for step in reversed(steps):
        if not isinstance(step, Transposed):
            parts = step.theirs(parts)
    (whole,) = parts
    return whole
