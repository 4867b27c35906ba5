"""From a model on disk to one that runs: a GGUF file or a Hugging Face folder -> Checkpoint.

    open -> read_config -> build on the meta device (no memory) -> check every name and shape (nothing read yet)
         -> fill tensor by tensor: read, dequantise, transform, cast, check, move

A name that the rules do not know, one that they miss, a shape that contradicts the configuration or a NaN is an error
that says which. Peak memory is the model and the few tensors that are on their way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hornbook.checkpoint.family import AGAIN, Family
from hornbook.checkpoint.fields import read_json
from hornbook.checkpoint.fitting import fit
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.header import folder_config, gguf_config, read_raw
from hornbook.checkpoint.rules import Rule, Shift, TensorSource
from hornbook.checkpoint.safetensors import SafetensorsFolder
from hornbook.checkpoint.stretch import stretched
from hornbook.errors import HornbookError, ModelFileError, ModelNotFound, UsageError
from hornbook.model.config import ModelConfig
from hornbook.model.transformer import Transformer
from hornbook.text.chat import ChatTemplate
from hornbook.text.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Change = Callable[[ModelConfig], ModelConfig]
Groups = Iterable[tuple[str, ...]]
Take = Callable[[str, Tensor], bool]  # a parameter by its name: whether it is kept in a form of its own
READERS = 4  # tensors on their way at once


class TorchSource(TensorSource, Protocol):
    def torch(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """The values in ``dtype``; None: in a float type of the file's own."""
        ...


class Origin(NamedTuple):
    """Where a model was read from, which it remembers: ``family`` has the names of its tensors there; ``stretch`` is not of the
    file, see ``load``."""

    family: Family
    path: Path
    stretch: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model and what belongs to it. ``metadata``: what the file says of itself, word for word."""

    model: Transformer
    config: ModelConfig
    family: Family  # as which it was read
    path: Path
    metadata: Mapping[str, Any]
    generation: Mapping[str, Any]  # generation_config.json, empty where there is none
    text: tuple[Tokenizer, ChatTemplate | None] | HornbookError  # what went wrong with them, for a folder without

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises ModelFileError or UnsupportedModel where the folder has none that can be read."""
        if isinstance(self.text, HornbookError):
            raise self.text
        return self.text[0]

    @property
    def chat_template(self) -> ChatTemplate | None:
        """None where the model has none."""
        return None if isinstance(self.text, HornbookError) else self.text[1]


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    stretch: str | None = None,
    together: Callable[[ModelConfig], Groups] | None = None,
    into: Callable[[Transformer], Take] | None = None,
) -> Checkpoint:
    """Load a .gguf file or a folder with config.json and safetensors, in eval mode.

    dtype    float32, bfloat16, float16; auto: float32 on a CPU, bfloat16 elsewhere
    device   any device of torch; auto: CUDA, else Apple's, else the CPU
    stretch  a longer context than the model was trained for: "yarn:4" (see checkpoint/stretch.py)
    together which matrices will be read as one: the rows of each group's are put one behind the other in one tensor
    into     is given the model without its weights, changes modules, and gives back what takes those it has another place for
    Raises ModelNotFound, ModelFileError (damaged, or contradicts itself), UnsupportedModel, UsageError.
    """
    path, device = Path(path), pick_device(device)
    dtype = pick_dtype(dtype, device)
    if not path.exists():
        raise ModelNotFound(f"there is no file or folder {path}", "Check the path.")
    change: Change = (lambda config: stretched(config, stretch)) if stretch else (lambda config: config)
    groups = together or (lambda config: ())
    opened = (_load_folder if path.is_dir() else _load_gguf)(path, dtype, device, change, groups, into)
    opened.model.origin = opened.model.origin._replace(stretch=stretch)
    return opened


def pick_device(device: str | torch.device) -> torch.device:
    """The device that is meant, which is there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next((name for name, available in there.items() if available), "cpu"))
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"{device!r} is not a device", "Say auto, cpu, cuda, cuda:1, mps, ...") from error
    if not there.get(chosen.type, True):
        raise UsageError(f"this machine has no device {chosen}, or this torch cannot use it", "Say auto or cpu.")
    return chosen


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that is meant."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    raise UsageError(
        f"{dtype} is not a dtype for a model",
        f"Say auto, {', '.join(DTYPES)}; or int4 to hornbook.load, for its weights.",
    )


# -------------------------------------------------------------------------------------------------------- formats


def _load_gguf(
    path: Path,
    dtype: torch.dtype,
    device: torch.device,
    change: Change,
    together: Callable[[ModelConfig], Groups],
    into: Callable[[Transformer], Take] | None,
) -> Checkpoint:
    with GGUF.open(path) as file:
        family, config = gguf_config(file)
        config = change(config)
        with ThreadPoolExecutor(1) as aside:
            tokenizer = aside.submit(Tokenizer.from_gguf, file.metadata)
            model = build(config, family, file, dtype, device, together(config), into)
            model.origin = Origin(family, path)
        found = tokenizer.result()
        template = ChatTemplate.from_gguf(file.metadata, found)
    return Checkpoint(model, config, family, path, file.metadata, {}, (found, template))


def _load_folder(
    path: Path,
    dtype: torch.dtype,
    device: torch.device,
    change: Change,
    together: Callable[[ModelConfig], Groups],
    into: Callable[[Transformer], Take] | None,
) -> Checkpoint:
    raw = read_raw(path)
    with SafetensorsFolder.open(path) as source:
        family, config = folder_config(path, raw, source)
        config = change(config)
        model = build(config, family, source, dtype, device, together(config), into)
        model.origin = Origin(family, path)
    try:
        tokenizer = Tokenizer.from_folder(path)
        text: Any = tokenizer, ChatTemplate.from_folder(path, tokenizer)
    except HornbookError as error:
        text = error
    generation = read_json(path / "generation_config.json", dict) or {}
    return Checkpoint(model, config, family, path, raw, generation, text)


# ---------------------------------------------------------------------------------------------------------- build


def build(
    config: ModelConfig,
    family: Family,
    source: TorchSource,
    dtype: torch.dtype,
    device: torch.device,
    together: Groups = (),
    into: Callable[[Transformer], Take] | None = None,
) -> Transformer:
    """A Transformer with the weights of ``source``, every one of them accounted for. ``together``, ``into``: see ``load``."""
    model = empty(config)
    wanted = dict(model.named_parameters())
    take: Take = (lambda name, tensor: False) if into is None else into(model)
    places = _places(together, wanted, dtype, device)
    rules, names = fit(config, family, source, {name: tuple(weight.shape) for name, weight in wanted.items()})

    def read(rule: Rule) -> dict[str, Tensor]:
        # What only moves numbers may move them as they are wanted; arithmetic is done in the type that the file has.
        wanted_as = None if isinstance(rule.transform, Shift) or into is not None else dtype
        tensors = rule.transform.ours(tuple(source.torch(names[name], wanted_as) for name in rule.theirs))
        for tensor in tensors:
            _check_numbers(rule, tensor)
        named = zip(rule.ours, tensors, strict=True)
        return {name: put(name, tensor) for name, tensor in named if not take(name, tensor)}

    def put(name: str, tensor: Tensor) -> Tensor:
        if name in places:
            return places[name].copy_(tensor)
        return tensor.to(device=device, dtype=dtype).contiguous()

    weights: dict[str, Tensor] = {}
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as readers:
        # The largest first, so that no reader is left with one at the end.
        rules.sort(key=lambda rule: -sum(wanted[name].numel() for name in rule.ours))
        for part in readers.map(read, rules):
            weights |= part
    model.load_state_dict(weights, assign=True, strict=into is None)
    return model.eval()


def _places(
    groups: Groups, wanted: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Where the matrices [out, in] of each group belong: rows of one tensor, which takes memory as it is written to."""
    places: dict[str, Tensor] = {}
    for names in groups:
        if len(names) > 1 and places.keys().isdisjoint(names):
            rows = [wanted[name].shape[0] for name in names]
            whole = torch.empty(sum(rows), wanted[names[0]].shape[1], dtype=dtype, device=device)
            places |= zip(names, torch.split(whole, rows), strict=True)
    return places


def empty(config: ModelConfig) -> Transformer:
    """The modules and shapes of a model, on the meta device: no memory, no weights."""
    with torch.device("meta"), _Unfilled():
        return Transformer(config)


class _Unfilled(TorchFunctionMode):
    """Skips the random initialisation: without memory it does nothing, yet costs torch seconds of imports."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _check_numbers(rule: Rule, tensor: Tensor) -> None:
    """One NaN would make every answer NaN. The sum finds it in one pass; counting is for the message."""
    if not torch.isfinite(tensor.sum()):
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            named = ", ".join(rule.theirs)
            raise ModelFileError(
                f"{named} has {bad:,} of {tensor.numel():,} weights that are not finite numbers", AGAIN
            )
