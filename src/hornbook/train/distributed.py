"""One training in many processes, by torch's own means: FSDP2 (torch.distributed.fsdp.fully_shard) shares out weights,
gradients and the optimizer's states, tensor parallelism the heads and the inner width of each layer.

    torchrun --nproc-per-node 4 ...          data  0   1         processes with another part of the step's micro-batches
                                   tensor 0  [ 0 | 2 ]           that hold the same, and
                                          1  [ 1 | 3 ]           processes with another part of each layer

A process holds what it is given of each matrix; a block's weights are put together as it is run and let go again. The loop
is the same as for one process (`hornbook.train.team`): a step is a number of micro-batches, whoever computes them, and the
gradient is their sum over the labels of all. How to start it, on one machine or several: docs/distributed.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from hornbook.errors import HornbookError, TrainingError, TrainingStopped, UsageError
from hornbook.train.fit import Checkpoints, Whole
from hornbook.train.team import ALONE, Team

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from hornbook.model.transformer import Transformer
    from hornbook.train.shards import Shards

WAIT = timedelta(minutes=30)  # for the slowest process, before the others give it up
LETTING_GO = 0.25  # seconds


class Ranks:
    """A Team of processes. ``rank`` of ``parts``: which micro-batches are this one's; ``size``: all processes.

    ``mesh`` has the dimensions "data" and "tensor".
    """

    def __init__(self, mesh: DeviceMesh, device: torch.device) -> None:
        self.mesh, self.device = mesh, device
        self.size = dist.get_world_size()
        self.first = dist.get_rank() == 0
        self.rank, self.parts = mesh["data"].get_local_rank(), mesh["data"].size()
        self.tensor = mesh["tensor"].size()

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """See Team. Processes that share their micro-batches count once."""
        names = sorted(values)
        own = self.mesh["tensor"].get_local_rank() == 0
        added = torch.tensor([values[name] if own else 0.0 for name in names], dtype=torch.float64)
        dist.all_reduce(added)
        return dict(zip(names, added.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        raised = torch.tensor(int(flag))
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised)

    def share(self, loss: Tensor) -> Tensor:
        return loss  # gradients are added up, not averaged: see Shards

    def micro(self, model: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        return nullcontext()  # they are exchanged after each micro-batch: only so no process ever holds all of them

    @torch.no_grad()
    def norm(self, parameters: Iterable[Tensor], longest: float) -> float:
        """See Team. Every element counts once, however many processes hold it."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for gradient in gradients:
            own = _local(gradient)
            squares += own.double().square().sum() / (self.size // _shards(gradient))
        squares = squares.cpu()
        dist.all_reduce(squares)
        norm = math.sqrt(squares.item()) if math.isfinite(squares.item()) else math.nan
        if norm > longest:
            torch._foreach_mul_([_local(gradient) for gradient in gradients], longest / (norm + 1e-6))
        return norm


def _local(tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _shards(tensor: Tensor) -> int:
    """In how many parts a tensor is held."""
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return 1
    sizes = zip(tensor.device_mesh.shape, tensor.placements, strict=True)
    return math.prod(size for size, placement in sizes if not placement.is_replicate())


def place(team: Team) -> tuple[int, int]:
    """Which part of the data is this process's, and of how many: (rank, world), as a Feed takes them."""
    return (team.rank, team.parts) if isinstance(team, Ranks) else (0, 1)


def share_out(accumulate: int, team: Team) -> int:
    """How many of a step's micro-batches each process computes. Raises UsageError where they cannot be dealt evenly."""
    _, parts = place(team)
    if accumulate % parts:
        raise UsageError(
            f"a step of {accumulate} micro-batch{'es' * (accumulate != 1)} cannot be shared out to {parts} processes",
            f"Set training.accumulate to a multiple of {parts}: it counts the micro-batches of all processes together.",
        )
    return accumulate // parts


def checkpoints(
    folder: Path, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, team: Team
) -> Checkpoints:
    """How a team saves, and goes on from what it or another number of processes has saved in ``folder``.

    Raises UsageError for an optimizer whose states cannot be shared out to several processes.
    """
    if team is ALONE and not any(folder.glob("step-*/weights")):
        return Whole(folder, trained, optimizer)
    from hornbook.train.sharded import InParts

    return InParts(folder, trained, optimizer, team)


def shared_out(model: Transformer, team: Team, *, precision: str = "float32") -> Shards | None:
    """Share ``model`` out to the team, in place (see `hornbook.train.shards`); None, and nothing done, for one process.

    ``precision``: float32, or bfloat16 for passes in it, with float32 weights: the loop needs no other of its own then.
    Raises UsageError for another precision, and as Shards does.
    """
    if not isinstance(team, Ranks):
        return None
    from hornbook.train.shards import Shards

    passing = {"float32": None, "bfloat16": torch.bfloat16, "bfloat16-autocast": torch.bfloat16}
    if precision not in passing:
        raise UsageError(
            f"several processes do not train in {precision}", "Set training.precision to bfloat16 or float32."
        )
    return Shards(model, team, passing=passing[precision])


# ------------------------------------------------------------------------------------------------- from start to end


@contextmanager
def joined(*, device: str = "auto", tensor: int = 1) -> Iterator[tuple[Team, torch.device]]:
    """Meet the other processes that torchrun has started; outside of torchrun, and of a single process, be alone.

    device   auto: this process's GPU where there are any, else the processor
    tensor   so many processes share the heads of each layer; the others have another part of the data
    An error in one process ends them all, and is told once: by the first that has one. Raises UsageError where processes
    and devices do not fit together.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    where = _device(device, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
    if size % tensor:
        raise UsageError(
            f"{size} process{'es' * (size != 1)} cannot be cut into groups of {tensor}, which tensor parallelism was asked for",
            f"Start a multiple of {tensor} processes with torchrun, or ask for another number.",
        )
    if size == 1:
        yield ALONE, where
        return
    if where.type == "cuda":
        torch.cuda.set_device(where)
    from torch.distributed.device_mesh import init_device_mesh

    store, rank, size = _meet()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        device_id=where if where.type == "cuda" else None,
        timeout=WAIT,
    )
    try:
        mesh = init_device_mesh(where.type, (size // tensor, tensor), mesh_dim_names=("data", "tensor"))
        yield Ranks(mesh, where), where
    except BaseException as error:
        _tell_once(error)
    dist.barrier()
    # A thread of gloo's may still let go of the last tensors, which takes the interpreter: where that has ended, the
    # thread aborts the process (pytorch#179291). torch's caches keep those threads alive, so that none can be joined.
    sleep(LETTING_GO)
    dist.destroy_process_group()


def _meet() -> tuple[Store, int, int]:
    """A store that all processes of this start share, and no process of an earlier one; this one's rank; how many there are.

    When torchrun starts processes again its store still has the addresses of those that are gone, and the count of
    restarts, which could tell them apart, is each machine's own. So process 0 gives this start a name, and each of the
    others asks for it under one that nobody had before.
    """
    store, rank, size = next(iter(rendezvous("env://", timeout=WAIT)))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return store, rank, size
    if rank:
        own = uuid4().hex
        store.set(f"hornbook/asks/{rank}", own)
        name = store.get(f"hornbook/start/{own}").decode()
        store.set(f"hornbook/{name}/{rank}", "here")
        return PrefixStore(f"hornbook/{name}", store), rank, size
    name, end = uuid4().hex, monotonic() + WAIT.total_seconds()
    while absent := [other for other in range(1, size) if not store.check([f"hornbook/{name}/{other}"])]:
        for other in absent:
            if store.check([f"hornbook/asks/{other}"]):
                asked = store.get(f"hornbook/asks/{other}").decode()
                store.set(f"hornbook/start/{asked}", name)
        if monotonic() > end:
            raise TrainingError(
                f"{len(absent)} of {size} processes have not come within {WAIT}: {absent[:20]}",
                "Look at what they said, and whether each machine reaches the first one.",
            )
        sleep(0.01)
    return PrefixStore(f"hornbook/{name}", store), rank, size


def _tell_once(error: BaseException) -> None:
    """Raise what ended this process, if it is the first to fail; otherwise end without a word."""
    store = dist.distributed_c10d._get_default_store()
    rank, size = dist.get_rank(), dist.get_world_size()
    try:
        silent = store.add("hornbook/failed", 1) > 1
    except RuntimeError:  # the store is gone, and with it the process that kept it, which has told why
        silent = True
    if silent:
        raise SystemExit(error.exit_code if isinstance(error, HornbookError) else 1) from None
    if isinstance(error, RuntimeError) and not isinstance(error, HornbookError) and _lost(error):
        raise TrainingError(
            f"process {rank} of {size} has lost another one",
            "It was killed, or its machine or the network is gone. Start again: the training goes on from its last "
            "checkpoint (torchrun --max-restarts does so by itself).",
        ) from error
    if isinstance(error, HornbookError) and not isinstance(error, TrainingStopped):
        error.what = f"process {rank} of {size}: {error.what}"
        error.args = (f"{error.what}\n{error.remedy}",)
    raise error


def _lost(error: RuntimeError) -> bool:
    said = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in said for word in ("gloo", "nccl", "connection", "socket"))


def _device(asked: str, local: int | None) -> torch.device:
    from hornbook.checkpoint.loading import pick_device

    device = pick_device(asked)
    if local is None or device.type != "cuda":
        return device
    if device.index is not None:
        raise UsageError(f"every process would train on {device}", "Say cuda: each process takes a GPU of its own.")
    if local >= torch.cuda.device_count():
        raise UsageError(
            f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}",
            f"Start torchrun with --nproc-per-node {torch.cuda.device_count()}.",
        )
    return torch.device("cuda", local)
