"""Training in several processes: who this one is, how weights are spread over them, what they tell each other.

    torchrun --nproc-per-node 8 training/train.py pretrain ...

A process alone calls the same functions; they then give back what they got."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from alam_models.latent_action import ALAM
from alam_models.transformer import Block


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and where it computes."""

    rank: int
    world: int
    device: torch.device


@contextmanager
def join() -> Iterator[Ranks]:
    """The process group that torchrun's environment asks for; without it, one process. On a GPU where there is one.

    Raises ValueError when there are more processes than GPUs."""
    rank, world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if rank >= torch.cuda.device_count():
            raise ValueError(
                f"torchrun: wanted a GPU for each process, got {torch.cuda.device_count()} on this machine"
            )
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    if world == 1:
        yield Ranks(0, 1, device)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield Ranks(dist.get_rank(), world, device)
    dist.destroy_process_group()  # not behind an error: it may wait for the others, whom torchrun ends


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return not dist.is_initialized() or dist.get_rank() == 0


def spread(model: ALAM, kind: str, ranks: Ranks) -> nn.Module:
    """-> the module to call in training. Both kinds average gradients over the processes.

    ddp: each process holds all weights. fsdp (FSDP2): it holds its part of each, and of the optimiser's state; those
    of a Block are put together while it computes. The model is changed in place; one process alone leaves it alone."""
    if ranks.world == 1:
        return model
    if kind == "ddp":
        return DistributedDataParallel(model, [ranks.device] if ranks.device.type == "cuda" else None)
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    for module in [m for m in model.modules() if isinstance(m, Block)]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "transitions")  # it, too, wants all of the weights
    return model


def gradients_stay(replica: nn.Module) -> AbstractContextManager[Any]:
    """Within it, gradients of DDP are summed up unsent. FSDP2 sends its own each time: each keeps only its part."""
    return replica.no_sync() if isinstance(replica, DistributedDataParallel) else nullcontext()


def mean(values: dict[str, Tensor], ranks: Ranks) -> dict[str, float]:
    """This process' scalars () by name -> their means over all processes, the same everywhere."""
    stacked = torch.stack([value.detach().double() for value in values.values()])
    if ranks.world > 1:
        dist.all_reduce(stacked)
        stacked /= ranks.world
    return dict(zip(values, stacked.tolist(), strict=True))


def gather(value: Any, ranks: Ranks) -> list[Any]:
    """A plain value of each process -> all of them, everywhere."""
    if ranks.world == 1:
        return [value]
    values: list[Any] = [None] * ranks.world
    dist.all_gather_object(values, value)
    return values


def agreed(value: Any) -> Any:
    """-> the first process' value, everywhere."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def own_part(tensor: Tensor) -> Tensor:
    """-> what this process holds of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """-> all of it, on its device. Of a tensor in parts, every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collect(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """-> whole tensors on the CPU in the first process, nothing in the others; all must call."""
    collected = {}
    for name, tensor in tensors.items():
        tensor = whole(tensor.detach())
        if is_first():
            collected[name] = tensor.cpu().contiguous()
    return collected


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the CPU -> on the device of `like`, and in parts as that is. The inverse of `whole`."""
    tensor = tensor.to(like.device)
    if isinstance(like, DTensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return tensor
