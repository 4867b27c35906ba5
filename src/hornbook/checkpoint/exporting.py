"""Write a model in the other format, or in fewer bits, and believe it only when it has been read again.

    Checkpoint --maps, backwards--> GGUF file or Hugging Face folder --load--> Checkpoint
         '--------------------------- compared on a text -------------------------'

What is written stands under a temporary name until it has been compared: a copy that drifts never gets the name. A model
with an adapter attached is written with it merged, and the copy is compared with the attached one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from hornbook.adapt import folding
from hornbook.checkpoint import drift, families, ggml, gguf_writer, mixes, saving
from hornbook.checkpoint.drift import Drift, DriftError, Limit
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import choose
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.loading import DTYPES, Checkpoint, empty, load
from hornbook.checkpoint.rules import Rule, expand
from hornbook.errors import HornbookError, StoreError, UnsupportedModel, UsageError
from hornbook.types import Progress

# What a copy may lose, by the bits that it keeps: beyond this something is broken. A source that was in few bits already
# loses more than a whole one would, and a small model more than a large one. Measured figures: docs/results/export.md.
LIMITS = {
    "float32": Limit(0.999, 1e-4), "float16": Limit(0.99, 1e-3), "bfloat16": Limit(0.97, 5e-3),
    "F32": Limit(0.999, 1e-4), "F16": Limit(0.99, 1e-3), "BF16": Limit(0.97, 5e-3),
    "Q8_0": Limit(0.94, 0.02), "Q6_K": Limit(0.9, 0.05),
    "Q5_0": Limit(0.7, 0.3), "Q5_1": Limit(0.7, 0.3), "Q5_K_S": Limit(0.7, 0.3), "Q5_K_M": Limit(0.7, 0.3),
    "Q4_0": Limit(0.55, 0.7), "Q4_1": Limit(0.6, 0.6), "Q4_K_S": Limit(0.6, 0.6), "Q4_K_M": Limit(0.6, 0.6),
    "Q3_K_S": Limit(0.4, 1.5), "Q3_K_M": Limit(0.4, 1.3), "Q3_K_L": Limit(0.4, 1.3), "Q2_K": Limit(0.3, 2.5),
}  # fmt: skip


class Exported(NamedTuple):
    path: Path
    size: int  # bytes of all files
    quantisation: str
    drift: Drift


def export(
    checkpoint: Checkpoint,
    path: str | Path,
    *,
    to: Literal["gguf", "hf"],
    quantise: str | None = None,
    max_kl: float | None = None,
    min_top1: float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    check: Callable[[Path], object] | None = None,
) -> Exported:
    """Write ``checkpoint`` to ``path`` (a .gguf file, or a folder), read it again, compare.

    quantise  gguf: one of mixes.MIXES, F16 where nothing is said; hf: float32, float16, bfloat16, where nothing is said
              what its own config.json says, float32 where it has none
    max_kl, min_top1  what the copy may lose, in place of what LIMITS says of its kind
    overwrite  replaces a file, or a folder that holds a model; never another folder
    progress   is told of the bytes while a GGUF file is written
    check      is given the copy before it gets its name; what it raises is raised, and the copy is not kept
    Raises DriftError with the figures, and leaves what is at ``path`` as it was, where the copy is beyond its limit;
    UnsupportedModel where the format has no words for the model; UsageError; StoreError.
    """
    path = Path(path).expanduser().absolute()
    kind = quantise or ("F16" if to == "gguf" else _own_dtype(checkpoint))
    if to == "gguf":
        kind = mixes.mix_named(kind)
    elif kind not in DTYPES:
        raise UsageError(f"{kind!r} is not a dtype of a Hugging Face folder", f"Take one of: {', '.join(DTYPES)}.")
    _check_target(path, to, overwrite)
    _make(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{'.gguf' if to == 'gguf' else ''}")
    try:
        if to == "gguf":
            write_gguf(checkpoint, partial, kind, progress=progress)
        else:
            saving.save(checkpoint, partial, dtype=kind)
        found = _compare(checkpoint, partial)
        usual = LIMITS[kind]
        limit = Limit(usual.top1 if min_top1 is None else min_top1, usual.kl if max_kl is None else max_kl)
        if not found.within(limit):
            raise DriftError(
                f"the copy drifts: {found}; {kind} may have {limit.top1:.1%} and {limit.kl}",
                "Take a quantisation of more bits. Nothing was written.",
            )
        if check is not None:
            check(partial)
        _put(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Exported(path, sum(file.stat().st_size for file in files), kind, found)


def _check_target(path: Path, to: str, overwrite: bool) -> None:
    """Refuses, before any work, to put a model where something else is."""
    if not path.name or path in (Path.cwd(), *Path.cwd().parents):
        raise UsageError(f"{path} is where you are, or around it", "Name a new file or folder in it.")
    if not path.exists():
        return
    if not overwrite:
        raise UsageError(f"{path} is there already", "Name another path, or allow it to be replaced.")
    if path.is_dir() != (to == "hf"):
        raise UsageError(f"{path} is a {'folder' if path.is_dir() else 'file'}", "Name another path: kinds must agree.")
    if path.is_dir() and any(path.iterdir()) and not (path / "config.json").is_file():
        raise UsageError(f"{path} is a folder that holds no model", "It will not be replaced: name another.")


def _put(partial: Path, path: Path) -> None:
    """Give the copy its name; what had it goes only when the copy has it."""
    before = path.with_name(f"{partial.name}.before") if path.is_dir() else None
    try:
        if before is not None:
            os.replace(path, before)
        try:
            os.replace(partial, path)
        except OSError:
            if before is not None:
                os.replace(before, path)
            raise
        if before is not None:
            shutil.rmtree(before)
    except OSError as error:
        raise StoreError(f"{path} cannot be replaced: {error.strerror}", "Name another path.") from error


def _own_dtype(checkpoint: Checkpoint) -> str:
    said = checkpoint.metadata.get("dtype", checkpoint.metadata.get("torch_dtype"))
    return said if isinstance(said, str) and said in DTYPES else "float32"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}", "Name another place.") from error


def _compare(checkpoint: Checkpoint, written: Path) -> Drift:
    """The drift of what stands at ``written``; its tokenizer must cut the text alike."""
    again = load(written, dtype=checkpoint.model.dtype, device=checkpoint.model.device)
    if isinstance(checkpoint.text, HornbookError):  # a model without a tokenizer: any tokens will do
        ids = torch.randint(checkpoint.config.vocab_size, (512,), generator=torch.Generator().manual_seed(0)).tolist()
    else:
        ids = drift.ids_of(checkpoint.tokenizer)
        if drift.ids_of(again.tokenizer) != ids:
            raise DriftError("the copy's tokenizer cuts the text differently", "Export in the format it came from.")
    return drift.measure(checkpoint.model, again.model, ids)


# ------------------------------------------------------------------------------------------------------------ GGUF


def write_gguf(checkpoint: Checkpoint, path: Path, mix: str, *, progress: Progress | None = None) -> None:
    """The file alone, not compared. Raises as ``export`` does."""
    family = _gguf_family(checkpoint)
    config = ggml.sayable(checkpoint.config)
    rules = expand(family.table(checkpoint.config), checkpoint.config, dict(empty(config).named_parameters()))
    try:
        factors = {name: torch.tensor(values) for name, values in ggml.rotary_factors(config).items()}
    except ValueError as error:
        raise UnsupportedModel(f"GGUF has no words for this model: {error}", "Export it as a folder.") from error
    shapes = {name: shape for rule in rules for name, shape in _shapes(rule, checkpoint)}
    source = saving.Shapes({name: torch.empty(shape, device="meta") for name, shape in shapes.items()} | factors)
    metadata = {
        **_general(checkpoint),
        "general.architecture": family.name,
        "general.file_type": mixes.MIXES[mix].file_type,
        "general.quantization_version": 2,
        **family.write_config(config, source),
        **checkpoint.tokenizer.gguf_metadata(
            checkpoint.chat_template, architecture=family.name, rows=config.vocab_size
        ),
    }
    for name, values in factors.items():
        shapes[name] = tuple(values.shape)
    types = mixes.assign(mix, shapes, metadata)
    tensors = [gguf_writer.OutTensor(name, shapes[name], "F32", values.clone) for name, values in factors.items()]
    with _original(checkpoint) as original:
        for rule in rules:
            tensors += _tensors(rule, checkpoint, types, original)
        gguf_writer.write(path, metadata, tensors, progress=progress)


def _gguf_family(checkpoint: Checkpoint) -> Family:
    if families.GGUF.get(checkpoint.family.name) is checkpoint.family:
        return checkpoint.family
    name = checkpoint.family.twin_of(checkpoint.config)
    if name is None:
        raise UnsupportedModel(
            f"GGUF has no architecture for this {checkpoint.family.name}", "Export it as a Hugging Face folder."
        )
    family: Family = choose(families.GGUF, name, "the architecture")
    return family


def _general(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the model says of itself, where it came as GGUF; otherwise its name."""
    said = {
        key: value
        for key, value in checkpoint.metadata.items()
        if key.startswith("general.") and isinstance(value, str | list)
    }
    return {"general.type": "model", "general.name": checkpoint.path.stem, **said}


def _shapes(rule: Rule, checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    known = folding.shapes(checkpoint.model)
    weights = tuple(torch.empty(known[name], device="meta") for name in rule.ours)
    for name, tensor in zip(rule.theirs, rule.transform.theirs(weights), strict=True):
        yield name, tuple(tensor.shape)


def _tensors(
    rule: Rule, checkpoint: Checkpoint, types: Mapping[str, str], original: GGUF | None
) -> Iterator[gguf_writer.OutTensor]:
    """Tensors of which ``original`` holds the very values in the type that is wanted go over as they lie there: most
    types lose a little each time that they are packed anew."""
    for i, (name, shape) in enumerate(_shapes(rule, checkpoint)):

        def data(i: int = i, name: str = name) -> gguf_writer.Values:
            with torch.no_grad():
                ours = tuple(folding.value(checkpoint.model, n).float().cpu() for n in rule.ours)
                values: torch.Tensor = rule.transform.theirs(ours)[i]
            if original is not None and name in original.tensors:
                there = original.tensors[name]
                alike = (there.type, there.shape) == (types[name], values.shape)
                if alike and torch.equal(torch.from_numpy(original.tensor(name)), values):
                    return original.raw(name)
            return values

        yield gguf_writer.OutTensor(name, shape, types[name], data)


def _original(checkpoint: Checkpoint) -> AbstractContextManager[GGUF | None]:
    """The GGUF file that the model came from, where it did and the file is there still."""
    if checkpoint.path.is_file() and families.GGUF.get(checkpoint.family.name) is checkpoint.family:
        return GGUF.open(checkpoint.path)
    return nullcontext()
