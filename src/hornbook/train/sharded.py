"""Checkpoints that many processes write together, each its own part, and that any number of processes goes on from.

    checkpoints/step-000120/weights/shard-00001-....safetensors     what the first process holds of each weight
                                    shard-00002-....safetensors     by torch.distributed.checkpoint, in its safetensors form
                            optimizer/..., average/...
                            random.safetensors                      "0/cpu": the generators of process 0
                            state.json                              as `hornbook.train.resume` has it, and of how many processes

The place in the data is one of the whole team, so that another number of processes goes on at the same micro-batch. Only
the random generators are the processes' own: another number of them draws other dropout. What one process wrote alone is
read by many, and the other way round. All processes must see the folder: on several machines, on a disk that they share.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from hornbook.checkpoint.safetensors import SafetensorsFile
from hornbook.checkpoint.safetensors_writer import Out, write_file
from hornbook.errors import StoreError, TrainingError, UsageError
from hornbook.train import resume
from hornbook.train.average import WeightMean
from hornbook.train.distributed import Ranks
from hornbook.train.fit import Whole
from hornbook.train.team import Team

# Their states are a tensor of the weight's own shape or a number, which can be cut as the weight is.
CAN = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


class InParts:
    """Checkpoints (`hornbook.train.fit`) of any team: in parts by many processes, whole by one alone."""

    def __init__(
        self, folder: Path, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, team: Team
    ) -> None:
        """Raises UsageError for an optimizer whose states cannot be shared out to several processes."""
        self.folder, self.trained, self.optimizer = folder, trained, optimizer
        self.team = team if isinstance(team, Ranks) else None
        self._whole = Whole(folder, trained, optimizer)
        if self.team is not None and type(optimizer) not in CAN:
            raise UsageError(
                f"the states of {type(optimizer).__name__} cannot be shared out to {team.size} processes",
                "Set training.optimizer to adamw, whose states are shared out with the weights.",
            )

    def save(self, step: int, feed: Mapping[str, Any], more: Mapping[str, Any], average: WeightMean | None) -> None:
        """Raises StoreError where a process cannot write its part: the checkpoints before it are as they were."""
        if self.team is None:
            self._whole.save(step, feed, more, average)
            return
        final, partial = self.folder / f"step-{step:06}", self.folder / f".step-{step:06}.partial"
        states, numbers = resume.states(self.trained, self.optimizer)
        groups = {"weights": dict(self.trained), "optimizer": states}
        if average is not None:
            groups["average"] = average.tensors()
        try:
            if self.team.first:
                resume.remove_leftovers(self.folder)
                for name in groups:
                    (partial / name).mkdir(parents=True)
            dist.barrier()
            files: dict[str, list[int]] = {}
            for name, tensors in groups.items():
                writer = HuggingFaceStorageWriter(str(partial / name), save_distributed=True)
                save({key: tensor.detach() for key, tensor in tensors.items()}, storage_writer=writer)
                for path in (partial / name).glob(f"shard-{dist.get_rank() + 1:05}-*"):
                    files[f"{name}/{path.name}"] = resume.fingerprint(path)
            own = files, resume.torch_random(), resume.other_random()
            gathered: list[Any] = [None] * self.team.size
            dist.gather_object(own, gathered if self.team.first else None)
            if self.team.first:
                said = {
                    "step": step,
                    "feed": feed,
                    "more": more,
                    "optimizer": {"kind": type(self.optimizer).__name__, "numbers": numbers},
                    "processes": self.team.size,
                    "random": [other for _, _, other in gathered],
                }
                random = {f"{rank}/{key}": state for rank, own in enumerate(gathered) for key, state in own[1].items()}
                write_file(partial / _RANDOM, [_out(key, state) for key, state in random.items()])
                found = {name: size for files, _, _ in gathered for name, size in files.items()}
                for name in found:
                    if not (partial / name).exists():
                        raise StoreError(
                            f"{partial / name} is not there: another process wrote it to a disk of its own",
                            "Train in a folder that all processes share (-o).",
                        )
                resume.publish(partial, final, said, found | {_RANDOM: resume.fingerprint(partial / _RANDOM)})
            dist.barrier()
        except (OSError, CheckpointException) as error:
            raise StoreError(
                f"the checkpoint of step {step} cannot be written: {_why(error)} ({final})",
                "Make room on the disk or look at the folder's rights, then give the same command again.",
            ) from error
        finally:
            if self.team.first:
                shutil.rmtree(partial, ignore_errors=True)

    def load(self, say: Callable[[str], object]) -> resume.Restored | None:
        """Raises TrainingError where the newest checkpoint is of other weights or another optimizer."""
        if self.team is None:
            path = resume.latest(self.folder, say)
        else:
            found = [resume.latest(self.folder, say) if self.team.first else None]
            dist.broadcast_object_list(found)
            path = found[0]
        if path is None:
            if self.team is not None:
                torch.manual_seed(torch.initial_seed() + self.team.rank)  # other data, other dropout
            return None
        said = json.loads((path / "state.json").read_text("utf-8"))
        if self.team is None and "processes" not in said:
            return self._whole.load(say)
        if said["optimizer"]["kind"] != type(self.optimizer).__name__:
            how = f"its optimizer is {said['optimizer']['kind']}, not {type(self.optimizer).__name__}"
            raise TrainingError(f"{path} is a checkpoint of another training: {how}", _ANOTHER)
        self._read_weights(path)
        self._read_states(path, said["optimizer"]["numbers"])
        self._draw_on(path, said)
        average = self._read(path, "average", self._like)
        return resume.Restored(said["step"], said["feed"], said["more"], average)

    def prune(self, keep: int, best: int | None) -> None:
        if self.team is None or self.team.first:
            self._whole.prune(keep, best)

    # --- reading

    def _read_weights(self, path: Path) -> None:
        theirs = {name: tuple(kept.size) for name, kept in _described(path, "weights").items()}
        ours = {name: tuple(tensor.shape) for name, tensor in self.trained.items()}
        for name in [*theirs, *ours]:
            if theirs.get(name) != ours.get(name):
                how = f"{name} is {theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} here"
                raise TrainingError(f"{path} is a checkpoint of another training: {how}", _ANOTHER)
        self._read(path, "weights", lambda name, kept: self.trained[name].detach())

    def _read_states(self, path: Path, numbers: Mapping[str, Mapping[str, Any]]) -> None:
        self.optimizer.state.clear()
        for name, values in numbers.items():
            self.optimizer.state[self.trained[name]].update(values)
        on_device = {
            id(p) for g in self.optimizer.param_groups if g.get("fused") or g.get("capturable") for p in g["params"]
        }
        for full, tensor in self._read(path, "optimizer", self._like).items():
            key, name = full.split("/", 1)
            parameter = self.trained[name]
            if key == "step" and id(parameter) not in on_device:
                tensor = tensor.cpu()
            self.optimizer.state[parameter][key] = tensor

    def _like(self, name: str, kept: TensorStorageMetadata) -> Tensor:
        """Room for a tensor that belongs to a parameter, and is cut as that is if it has its shape."""
        parameter = self.trained.get(name.rpartition("/")[2])
        dtype = kept.properties.dtype
        if parameter is not None and tuple(kept.size) == tuple(parameter.shape):
            return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        return torch.zeros(kept.size, dtype=dtype, device=None if parameter is None else parameter.device)

    def _read(self, path: Path, group: str, room: Callable[[str, TensorStorageMetadata], Tensor]) -> dict[str, Tensor]:
        """The tensors of a group, each read into the room that is made for it; none where there is no such group."""
        tensors = {name: room(name, kept) for name, kept in _described(path, group).items()}
        if tensors:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", message=".*torch.distributed is disabled"
                )  # of one process that is alone
                load(tensors, storage_reader=_reader(path, group), no_dist=self.team is None)
        return tensors

    def _draw_on(self, path: Path, said: Mapping[str, Any]) -> None:
        """Random generators where they were; those of another number of processes anew, from where the first one's was."""
        with SafetensorsFile.open(path / _RANDOM) as file:
            own = {name: file.torch(name) for name in file.tensors}
        rank = 0 if self.team is None else dist.get_rank()
        if "processes" not in said:  # one process wrote it
            resume.restore_random(own, said["random"])
        else:
            same = said["processes"] == (1 if self.team is None else self.team.size)
            start = f"{rank if same else 0}/"
            mine = {name.removeprefix(start): state for name, state in own.items() if name.startswith(start)}
            resume.restore_random(mine, said["random"][rank if same else 0])
            if same:
                return
        if self.team is not None:
            torch.manual_seed(int(torch.randint(1 << 62, ())) + self.team.rank)


_RANDOM = "random.safetensors"
_ANOTHER = "Name another folder for this one."


def _out(name: str, tensor: Tensor) -> Out:
    return Out(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)


class _OneFile(HuggingFaceStorageReader):
    """Reads what one process wrote, which is one file beside others."""

    def __init__(self, file: Path) -> None:
        super().__init__(str(file.parent))
        self.fs.ls = lambda path: [str(file)]  # type: ignore[method-assign]


def _reader(path: Path, group: str) -> HuggingFaceStorageReader:
    folder = path / group
    return HuggingFaceStorageReader(str(folder)) if folder.is_dir() else _OneFile(path / f"{group}.safetensors")


def _described(path: Path, group: str) -> dict[str, TensorStorageMetadata]:
    """Type and whole shape of each tensor of a group."""
    if not (path / group).is_dir() and not (path / f"{group}.safetensors").exists():
        return {}
    found = _reader(path, group).read_metadata().state_dict_metadata
    return {name: kept for name, kept in found.items() if isinstance(kept, TensorStorageMetadata)}


def _why(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        rank, (first, _) = min(error.failures.items())
        return f"process {rank}: {_why(first) if isinstance(first, BaseException) else first}"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error)
