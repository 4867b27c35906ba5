"""A model whose weights are shared out to the processes of a team, and put together again at the end.

    each block   fully_shard: a process holds one of n parts of each matrix's rows, the whole only while the block runs
    the rest     tables, the last norm, heads: one more group, together from the pass forward to the end of the one back
    tensor       query, key, value, gate, up: their outputs are cut; output, down: their inputs; the parts' sums are added

Weights, gradients and the optimizer's states are DTensors in the meantime. Frozen weights, of a model with an adapter, are
shared out as well; weights in four bits are buffers, which every process holds whole.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import Replicate

from hornbook.errors import TrainingError, UsageError
from hornbook.model.block import Block
from hornbook.model.config import ModelConfig
from hornbook.model.transformer import Transformer
from hornbook.train.distributed import Ranks


class Shards:
    """``model``, which has all of its weights in every process, becomes one of shards, in place; ``gather`` turns it back.

    ``passing``: the type of the passes, of weights that are put together and of what runs through them; None: that of the
    weights. Gradients are added up in float32. Raises UsageError where the model cannot be cut as it is asked for, or an
    adapter cannot; TrainingError where processes begin with different weights.
    """

    def __init__(self, model: Transformer, team: Ranks, *, passing: torch.dtype | None = None) -> None:
        _check(model, team)
        self.model, self.team = model, team
        # What is put back by ``gather``: classes, hooks and the parameters that others may have a hand on.
        self._modules = [(m, type(m), set(m._forward_pre_hooks), set(m._forward_hooks)) for m in model.modules()]
        self._whole: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self._whole.setdefault(parameter, []).append((module, name))
        self._types = {parameter: parameter.dtype for parameter in self._whole}
        for parameter in self._whole:
            if parameter.requires_grad:  # whatever they were loaded as, updates are added to float32
                parameter.data = parameter.data.float()
        if team.tensor > 1:
            split_heads(model, team)
        policy = MixedPrecisionPolicy(param_dtype=passing, reduce_dtype=torch.float32)
        options: dict[str, Any] = {"mesh": team.mesh["data"], "mp_policy": policy}
        if model.config.layer_groups is None:  # weights that serve several layers stay together
            for block in [m for m in model.modules() if isinstance(m, Block)]:
                fully_shard(block, **options)
        fully_shard(model, **options)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # The sum over processes, as the loss was divided by the labels of all: a mean would divide again.
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)
        model.register_forward_pre_hook(_afresh, prepend=True)
        if model.encoder is not None:
            register_fsdp_forward_method(model, "encode")
        self._now = {whole: places[0][0]._parameters[places[0][1]] for whole, places in self._whole.items()}
        for whole in self._whole:
            whole.data = whole.data.new_empty(0)  # they are the places of weights; the weights are in the shards

    def trained(self, named: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """What stands now for parameters of the model as it was, by the same names: what the optimizer is made for."""
        found = {name: self._now[parameter] for name, parameter in named.items()}
        return {name: parameter for name, parameter in found.items() if parameter is not None}

    @torch.no_grad()
    def gather(self) -> bool:
        """Put the weights together, in the first process, where the model is then as it was before, trained; -> whether
        this is it. All processes must call it; those others have no weights any more."""
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # that this could be faster
        for whole, places in self._whole.items():
            now = self._now[whole]
            assert isinstance(now, DTensor)
            full = now.full_tensor()
            if self.team.first:
                whole.data = full.to(self._types[whole])
            for module, name in places:
                module._parameters[name] = whole
        for module, kind, before, after in self._modules:
            for hooks, kept in ((module._forward_pre_hooks, before), (module._forward_hooks, after)):
                for number in [number for number in hooks if number not in kept]:
                    del hooks[number]
            module.__class__ = kind
        self.model.__dict__.pop("encode", None)
        return self.team.first


def _afresh(model: nn.Module, inputs: object) -> None:
    """Let go of tables and heads that a pass without gradients left together: the weights may be others by now."""
    assert isinstance(model, FSDPModule)
    model.reshard()


def split_heads(model: Transformer, team: Ranks) -> None:
    """Cut each layer over the mesh's dimension "tensor": heads in the attention, inner width in the feed-forward."""
    inputs, columns, rows = Replicate(), ColwiseParallel(), RowwiseParallel()
    for block in (module for module in model.modules() if isinstance(module, Block)):
        plan: dict[str, ParallelStyle] = {
            "attention": PrepareModuleInput(
                input_layouts=(inputs, None, None), desired_input_layouts=(inputs, None, None)
            ),
            "feedforward": PrepareModuleInput(input_layouts=(inputs,), desired_input_layouts=(inputs,)),
        }
        for attention in ("attention", *(("cross",) if block.cross is not None else ())):
            plan |= {f"{attention}.{name}": columns for name in ("query", "key", "value")}
            plan[f"{attention}.output"] = rows
        plan |= {f"feedforward.{name}": columns for name in ("gate", "up") if _there(block, name)}
        plan["feedforward.down"] = rows
        parallelize_module(block, team.mesh["tensor"], plan, src_data_rank=None)


def _there(block: Block, name: str) -> bool:
    return getattr(block.feedforward, name) is not None


# -------------------------------------------------------------------------------------------- what cannot be shared out


def _check(model: Transformer, team: Ranks) -> None:
    attached = getattr(model, "attached", {})
    for one in attached.values():
        if one._hooks:
            raise UsageError(
                f"an adapter of the kind {one.adapter.kind} is called by the model as a whole and cannot be shared out",
                "Train it in one process, or train a LoRA.",
            )
    if team.tensor > 1:
        if attached:
            raise UsageError(
                "tensor parallelism cuts matrices that the adapter stands around",
                "Set training.tensor_parallel to 1: the data is then shared out to all processes.",
            )
        configs = [model.config] if model.config.encoder is None else [model.config, model.config.encoder]
        for config in configs:
            _check_heads(config, team.tensor)
        if model.shifted is not None:
            raise UsageError("shifted sparse attention needs all heads in one process", _ONE)
    _same_everywhere(model, team)


_ONE = "Set training.tensor_parallel to 1."


def _check_heads(config: ModelConfig, tensor: int) -> None:
    for what, number in (
        ("heads", config.heads),
        ("key heads", config.kv_heads),
        ("inner width", config.feedforward_width),
    ):
        if number % tensor:
            raise UsageError(f"the model's {what}, {number}, cannot be cut into {tensor} equal parts", _ONE)
    for what, there in (
        ("norms of queries and keys", config.qk_norm),
        ("biases on distances", config.relative or config.alibi),
        ("mixtures of experts", config.experts),
    ):
        if there:
            raise UsageError(f"tensor parallelism does not know the model's {what}", _ONE)


@torch.no_grad()
def _same_everywhere(model: Transformer, team: Ranks) -> None:
    """Each process cuts its part out of weights of its own: others would make a model that nobody has seen."""
    sums = torch.stack([_sum(parameter) for parameter in model.parameters()])
    most, least = sums.clone(), sums.clone()
    dist.all_reduce(most, dist.ReduceOp.MAX)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    names = [name for name, _ in model.named_parameters()]
    for name, high, low in zip(names, most.tolist(), least.tolist(), strict=True):
        if high != low:
            raise TrainingError(
                f"the processes begin with different weights ({name})",
                "Give all of them the same model file, the same recipe and the same seed.",
            )


def _sum(weights: Tensor) -> Tensor:
    flat = weights.detach().flatten().double()
    return torch.stack([flat.sum(), flat.square().sum()]).sum().cpu()
