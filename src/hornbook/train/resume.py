"""Checkpoints: all that a killed run needs to go on as if nothing had happened.

    checkpoints/step-000120/weights.safetensors     what is trained, float32 where the optimizer adds to float32
                            optimizer.safetensors   its states, bit by bit: "exp_avg/blocks.0.attention.query.weight"
                            average.safetensors     the moving average, where there is one
                            random.safetensors      the states of torch's generators
                            state.json              step, place in the data, the other generators, each file's checksum

A checkpoint is written under a name with a dot, handed to the disk file by file, and renamed once all of it is there: under
its own name there is a whole one or none. One that is damaged all the same (a disk, a copy) is passed over, and said so.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hornbook.checkpoint.safetensors import SafetensorsFile
from hornbook.checkpoint.safetensors_writer import Out, write_file
from hornbook.errors import StoreError, TrainingError

_VERSION = 1
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Restored:
    """Where a checkpoint was taken, and what those who trained had to say about themselves."""

    step: int
    feed: dict[str, Any]
    more: dict[str, Any]
    average: dict[str, Tensor]


def save(
    folder: Path,
    step: int,
    trained: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    feed: Mapping[str, Any],
    more: Mapping[str, Any],
    *,
    average: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint into ``folder``; -> its own folder. ``feed`` and ``more``: what JSON can hold.

    Raises StoreError where it cannot be written whole: the checkpoints before it are as they were.
    """
    final, partial = folder / f"step-{step:06}", folder / f".step-{step:06}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        partial.mkdir()
        kept, numbers = states(trained, optimizer)
        write_file(partial / "weights.safetensors", _outs(trained))
        write_file(partial / "optimizer.safetensors", _outs(kept))
        write_file(partial / "random.safetensors", _outs(torch_random()))
        if average is not None:
            write_file(partial / "average.safetensors", _outs(average))
        said = {
            "step": step,
            "feed": feed,
            "more": more,
            "optimizer": {"kind": type(optimizer).__name__, "numbers": numbers},
            "random": other_random(),
        }
        publish(partial, final, said, {path.name: fingerprint(path) for path in sorted(partial.iterdir())})
    except OSError as error:
        raise StoreError(
            f"the checkpoint of step {step} cannot be written: {error.strerror or error} ({final})",
            "Make room on the disk or look at the folder's rights, then give the same command again.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def publish(partial: Path, final: Path, said: Mapping[str, Any], files: Mapping[str, list[int]]) -> None:
    """Say what a checkpoint holds and give it its name. ``files``: all in it, with their ``fingerprint``. Raises OSError."""
    content = json.dumps({"version": _VERSION, **said, "files": files}, ensure_ascii=False)
    _write_synced(partial / "state.json", content.encode())
    _sync_folder(partial)
    if final.exists():  # a damaged one that was passed over
        os.rename(final, final.with_name(f".{final.name}.old"))
    os.rename(partial, final)
    _sync_folder(final.parent)


def prune(folder: Path, keep: int, also: Collection[int] = ()) -> None:
    """Remove all checkpoints but the last ``keep`` and those of the steps in ``also``. A damaged one counts for nothing."""
    whole = [path for path in _all(folder) if _damage(path, thorough=False) is None]
    kept = {path.name for path in whole[:keep]} | {f"step-{step:06}" for step in also}
    for path in _all(folder):
        if path.name not in kept:
            gone = path.with_name(f".{path.name}.old")  # out of sight at once, then removed
            os.rename(path, gone)
            shutil.rmtree(gone, ignore_errors=True)


def latest(folder: Path, say: Say = print) -> Path | None:
    """The newest checkpoint that is whole; each damaged one that is passed over is told to ``say``."""
    remove_leftovers(folder)
    for path in _all(folder):
        damage = _damage(path)
        if damage is None:
            return path
        say(f"the checkpoint {path.name} is damaged ({damage}) and passed over")
    return None


def restore(path: Path, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> Restored:
    """Bring weights, the optimizer's states and all random generators to where they were.

    Raises TrainingError where the checkpoint is of other weights or of another optimizer; nothing is changed then.
    """
    said = json.loads((path / "state.json").read_text("utf-8"))
    if said["optimizer"]["kind"] != type(optimizer).__name__:
        raise _other(path, f"its optimizer is {said['optimizer']['kind']}, not {type(optimizer).__name__}")
    with SafetensorsFile.open(path / "weights.safetensors") as file:
        theirs = {name: tuple(info.shape) for name, info in file.tensors.items()}
        ours = {name: tuple(tensor.shape) for name, tensor in trained.items()}
        if theirs != ours:
            raise _other(path, _first_difference(theirs, ours))
        with torch.no_grad():
            for name, tensor in trained.items():
                tensor.copy_(file.torch(name))
    _restore_states(path, said["optimizer"]["numbers"], trained, optimizer)
    restore_random(_tensors(path / "random.safetensors"), said["random"])
    return Restored(said["step"], said["feed"], said["more"], _tensors(path / "average.safetensors"))


# ---------------------------------------------------------------------------------------------- the optimizer's states


def states(
    trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Its tensors by "key/name of the parameter", and what else it keeps of each parameter."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name, parameter in trained.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{key}/{name}"] = value
            else:
                numbers.setdefault(name, {})[key] = value
    return tensors, numbers


def _restore_states(
    path: Path,
    numbers: Mapping[str, Mapping[str, Any]],
    trained: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Not through load_state_dict, which would make floats of states that are stored in eight bits."""
    on_device = {p: g.get("fused") or g.get("capturable") for g in optimizer.param_groups for p in g["params"]}
    optimizer.state.clear()
    for name, values in numbers.items():
        optimizer.state[trained[name]].update(values)
    for full, tensor in _tensors(path / "optimizer.safetensors").items():
        key, name = full.split("/", 1)
        parameter = trained[name]
        # torch counts steps on the host unless the whole update runs on the device
        stays = key == "step" and not on_device[parameter]
        optimizer.state[parameter][key] = tensor if stays else tensor.to(parameter.device)


# --------------------------------------------------------------------------------------------------- random generators


def torch_random() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def other_random() -> dict[str, Any]:
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, left = random.getstate()
    return {
        "numpy": [str(kind), np.asarray(keys).tolist(), int(place), int(has_gauss), float(gauss)],
        "python": [version, list(words), left],
    }


def restore_random(own: Mapping[str, Tensor], other: Mapping[str, Any]) -> None:
    for name, state in own.items():
        if name == "cpu":
            torch.set_rng_state(state)
        elif name == "mps":
            if torch.backends.mps.is_available():
                torch.mps.set_rng_state(state)
        elif int(name.removeprefix("cuda:")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, name)
    kind, keys, place, has_gauss, gauss = other["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), place, has_gauss, gauss))
    version, words, left = other["python"]
    random.setstate((version, tuple(words), left))


# ------------------------------------------------------------------------------------------------------------- on disk


def _all(folder: Path) -> list[Path]:
    """The newest first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _damage(path: Path, *, thorough: bool = True) -> str | None:
    """What is wrong with a checkpoint; ``thorough``: each file's bytes are read."""
    try:
        said = json.loads((path / "state.json").read_text("utf-8"))
        if said["version"] != _VERSION:
            return f"its format is {said['version']}, this Hornbook reads {_VERSION}"
        for name, (size, checksum) in said["files"].items():
            if (path / name).stat().st_size != size:
                return f"{name} has {(path / name).stat().st_size:,} bytes, {size:,} were written"
            if thorough and fingerprint(path / name)[1] != checksum:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"state.json: {error}"
    return None


def fingerprint(path: Path) -> list[int]:
    """Bytes, and their CRC-32: it is damage that is looked for, not an enemy."""
    checksum, size = 0, 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            checksum, size = zlib.crc32(piece, checksum), size + len(piece)
    return [size, checksum]


def _outs(tensors: Mapping[str, Tensor]) -> Iterable[Out]:
    return [
        Out(name, tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor.detach())  # type: ignore[misc]
        for name, tensor in tensors.items()
    ]


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    with SafetensorsFile.open(path) as file:
        return {name: file.torch(name) for name in file.tensors}


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    if os.name != "posix":
        return  # a folder cannot be opened there
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Of a process that was killed as it wrote or removed a checkpoint."""
    for path in [*folder.glob(".step-*.partial"), *folder.glob(".step-*.old")]:
        shutil.rmtree(path, ignore_errors=True)


def _other(path: Path, how: str) -> TrainingError:
    return TrainingError(f"{path} is a checkpoint of another training: {how}", "Name another folder for this one.")


def _first_difference(theirs: Mapping[str, tuple[int, ...]], ours: Mapping[str, tuple[int, ...]]) -> str:
    for name in [*theirs, *ours]:
        there, here = theirs.get(name), ours.get(name)
        if there != here:
            return f"{name} is {there or 'absent'} there and {here or 'absent'} here"
    raise AssertionError("there is no difference")
