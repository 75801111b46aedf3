"""Data parallel training under torchrun; alone, every function here does nothing.

A batch is cut over the processes by rows. Each process's loss is a mean over its own rows, so gradients are added up
weighted by rows: the result is that of one process with the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 16 << 20  # elements in one message


def start() -> tuple[int, int]:
    """Join the processes that torchrun started; (rank, world size), (0, 1) without torchrun."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return dist.get_rank(), dist.get_world_size()


def stop() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def add_gradients(parameters: Iterable[nn.Parameter], share: float) -> None:
    """Replace each gradient by the sum over processes of share * gradient; an unused parameter counts as zero."""
    if not dist.is_initialized():
        return
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter)
        size += parameter.numel()
        if size >= BUCKET:
            _reduce(bucket, share)
            bucket, size = [], 0
    if bucket:
        _reduce(bucket, share)


def _reduce(bucket: list[nn.Parameter], share: float) -> None:
    flat = torch.cat([p.grad.flatten() for p in bucket]).mul_(share)
    dist.all_reduce(flat)
    for parameter, grad in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
        parameter.grad.copy_(grad.view_as(parameter))


def weighted_mean(values: dict[str, float], share: float) -> dict[str, float]:
    """The mean over processes of logged numbers, each weighted by its share of the rows."""
    if not dist.is_initialized():
        return values
    flat = torch.tensor(list(values.values()), dtype=torch.float64) * share
    flat = flat.to("cuda") if dist.get_backend() == "nccl" else flat
    dist.all_reduce(flat)
    return dict(zip(values, flat.tolist(), strict=True))


def gather(state: Tensor) -> list[Tensor]:
    """The uint8 tensors of all processes, in rank order; each process gets the list."""
    if not dist.is_initialized():
        return [state]
    mine = state.to("cuda") if dist.get_backend() == "nccl" else state
    states = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(states, mine)
    return [s.cpu() for s in states]


def wait() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()
