"""A frozen model whose layers are spread over processes, for one that does not fit on a device."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.states import StateCache


def shard(lm: FrozenLM) -> FrozenLM:
    """Keep a part of every layer on each of the processes that were started together (``torchrun``), in place.

    A layer is put together when its turn comes and taken apart after it (FSDP, ``torch.distributed.fsdp``); embeddings
    and the output matrix stay whole on each. All processes read the same rows, at the same time: what is divided by
    their number is the memory, not the work. The results are those of the whole model, up to rounding.

    Args:
        lm: Whole, in the memory of the processor. Where there are GPUs, each process takes the one of its local rank.

    Returns:
        The same model.

    Raises:
        ConfigError: There is one process only.

    Cost:
        Every layer travels once for each forward pass and once for each backward pass.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        raise ConfigError(
            "A model is spread over several processes, and there is only one",
            fix="Start them together: torchrun --nproc_per_node 2 -m coldframe fit ... --shard",
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    lm.weight_hash  # noqa: B018  from the whole weights: once they are spread no process has them
    kind = "cpu"
    if torch.cuda.is_available():
        kind = "cuda"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    layers = lm.anatomy.layers
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    _move_others(lm.model, set(layers), torch.device(kind))
    lm.sharded = True
    lm.states = StateCache(_equal_budget(lm.device), lm.device)
    return lm


def _equal_budget(device: torch.device) -> int:
    """Bytes for states of texts, the same on all processes: what one keeps and another reads again would part them."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    budget = torch.tensor(StateCache(device=device).budget // here, device=device)
    dist.all_reduce(budget, op=dist.ReduceOp.MIN)
    return int(budget)


def _move_others(module: nn.Module, layers: set[nn.Module], device: torch.device) -> None:
    """Move what belongs to no layer; the layers are where they compute."""
    for child in module.children():
        if child in layers:
            continue
        if layers & set(child.modules()):
            _move_others(child, layers, device)
        else:
            child.to(device)
