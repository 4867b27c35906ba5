"""Which modules are meant: by our names, by those of the model's Hugging Face form, or "all-linear".

"query", "attention.query", "blocks.0.attention.query"     ours, whole or their end
"q_proj", "self_attn.q_proj", "c_attn"                      theirs; one that holds several of ours means them all
r".*\\.(0|1)\\.self_attn\\.(q|v)_proj"                         one string: a regular expression for the whole name
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from hornbook.adapt import inject
from hornbook.checkpoint.lora import hugging_face_form
from hornbook.errors import UnsupportedModel, UsageError
from hornbook.model.transformer import Transformer

ALL = "all-linear"
# No layers of theirs that a target may name: which expert reads a token is decided by these.
ROUTING = ("router", "shared_gate")


def linears(model: Transformer, targets: str | Sequence[str] = ALL) -> list[str]:
    """The paths of the linear layers that are meant, in the model's order.

    Raises UsageError where a name finds none, with the nearest that there are.
    """
    there = {path: module for path, module in inject.modules(model) if is_linear(module)}
    there = {path: module for path, module in there.items() if path.rpartition(".")[2] not in ROUTING}
    inside = [path for path in there if re.search(r"(^|\.)blocks\.\d+\.", path)]
    if targets == ALL:
        return inside
    found = matching(there, their_modules(model), targets)
    for path in found:
        if path.endswith("head.tokens"):
            raise UsageError(
                f"{path} is the language head, whose scores are made a few at a time: no adapter stands there",
                "Train it as it is: train_also=['head.tokens'].",
            )
    return found


def is_linear(module: nn.Module) -> bool:
    """Whatever has in_features and out_features."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def replaced(model: Transformer, names: Sequence[str]) -> list[str]:
    """The parameters that are meant: those of the modules named, "norms" for all of them, "embeddings" for the tables.

    Raises UsageError where a name finds none.
    """
    own = [name for name, _ in inject.parameters(model)]
    modules = {path: module for path, module in inject.modules(model) if any(n.startswith(f"{path}.") for n in own)}
    theirs = their_modules(model)
    found: set[str] = set()
    for name in names:
        if name == "norms":
            paths = [path for path in modules if "norm" in path.rpartition(".")[2]]
        elif name == "embeddings":
            paths = [path for path, module in modules.items() if isinstance(module, nn.Embedding)]
        else:
            paths = matching(modules, theirs, [name])
        found |= {n for n in own for path in paths if n.startswith(f"{path}.")}
    return [name for name in own if name in found]


def their_modules(model: Transformer) -> dict[str, list[str]]:
    """Path of ours -> names of the modules of the Hugging Face form that hold it; empty for a model that has none."""
    if model.origin is None:
        return {}
    try:
        family, rules = hugging_face_form(model.config, model.origin.family)
    except UnsupportedModel:
        return {}
    found: dict[str, list[str]] = {}
    for rule in rules:
        for ours in rule.ours:
            theirs = [re.sub(r"\.(weight|bias)$", "", name) for name in rule.theirs]
            named = [f"{family.prefix}{name}" if name.startswith(".") else name for name in theirs]
            found.setdefault(re.sub(r"\.(weight|bias)$", "", ours), named)
    return found


def matching(paths: Iterable[str], theirs: Mapping[str, list[str]], targets: str | Sequence[str]) -> list[str]:
    """Those of ``paths`` that a target means by our name or by theirs. Raises UsageError for one that means none."""
    names = {path: [path, *theirs.get(path, [])] for path in paths}
    if isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise UsageError(f"{targets!r} is no regular expression: {error}", "Give a list of names.") from error
        found = {path for path, all_ in names.items() if any(map(pattern.fullmatch, all_))}
        if not found:
            raise _unknown(targets, names)
        return [path for path in names if path in found]
    if not targets:
        raise UsageError("no target module is named", f'Say "{ALL}", or name some.')
    chosen: set[str] = set()
    for target in targets:
        here = {path for path, all_ in names.items() if any(named(one, target) for one in all_)}
        if not here:
            raise _unknown(target, names)
        chosen |= here
    return [path for path in names if path in chosen]


def named(name: str, target: str) -> bool:
    """Whether ``target`` is the name or its end."""
    return name == target or name.endswith(f".{target}")


def _unknown(target: str, names: Mapping[str, Sequence[str]]) -> UsageError:
    known: dict[str, None] = {}
    for all_ in names.values():
        for name in all_:
            parts = name.split(".")
            known |= dict.fromkeys([parts[-1], ".".join(parts[-2:])])
    words = [word for word in known if not word.isdecimal()]
    near = difflib.get_close_matches(target.rpartition(".")[2], words, n=3, cutoff=0.4)
    ends = dict.fromkeys(name.rpartition(".")[2] for all_ in names.values() for name in all_)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return UsageError(f"no module is called {target!r}", f"{hint}There are: {', '.join(list(ends)[:20])}.")
