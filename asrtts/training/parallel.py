"""Data parallel training under torchrun; alone, every function here does nothing.

A batch is cut over the processes by rows. Each process's loss is a mean over its own rows, so it is weighted by its
share of the rows before gradients are added up: the result is that of one process with the whole batch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from asrtts.registry import UserError

BUCKET = 16 << 20  # elements in one message
PATIENCE = timedelta(hours=2)  # the others wait while the first process validates


def start() -> tuple[int, int]:
    """Join the processes that torchrun started; (rank, world size), (0, 1) without torchrun."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        # Numbers and random states go over gloo from any device, gradients over NCCL where they are on a GPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
        if torch.cuda.is_available():
            torch.cuda.set_device(_local_rank())
    return dist.get_rank(), dist.get_world_size()


def stop() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """`auto`: the GPU of this process if there is one. Raises UserError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this torch sees no CUDA device; leave the option out to use the CPU")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", _local_rank())


def local_world() -> int:
    """The processes of torchrun on this machine, 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def cores(processes: int | None = None) -> int:
    """The cores that this process may use: its part of those that torchrun's processes on this machine share.

    processes: how many these are; None: as many as torchrun says.
    """
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, allowed // (processes or local_world()))


def refuse_threads(count: int) -> None:
    """Raises UserError for a number of threads that is none."""
    if not 0 <= count <= 1024:
        raise UserError(f"--threads {count}: wanted 1 to 1024, or 0 for all cores")


def use_threads(count: int, processes: int | None = None) -> None:
    """Compute with so many threads, 0: with all cores (see there). Raises UserError for a number that is none."""
    refuse_threads(count)
    torch.set_num_threads(count or cores(processes))


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by the sum over processes; an unused parameter counts as zero."""
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
            _add_up(bucket)
            bucket, size = [], 0
    if bucket:
        _add_up(bucket)


def weighted_mean(values: dict[str, float], share: float) -> dict[str, float]:
    """The mean over processes of logged numbers, each weighted by its share of the rows; the same bits in each."""
    if not dist.is_initialized():
        return values
    flat = torch.tensor(list(values.values()), dtype=torch.float64) * share
    dist.all_reduce(flat)
    return dict(zip(values, flat.tolist(), strict=True))


def gather(state: Tensor) -> list[Tensor]:
    """The CPU tensors of all processes, in rank order; each process gets the list."""
    if not dist.is_initialized():
        return [state]
    states = [torch.empty_like(state) for _ in range(dist.get_world_size())]
    dist.all_gather(states, state)
    return states


def first_says(answer: bool) -> bool:
    """What the first process answers: clocks and disks differ, and all must take the same turn."""
    if not dist.is_initialized():
        return answer
    flag = torch.tensor([answer], dtype=torch.uint8)
    dist.broadcast(flag, 0)
    return bool(flag)


def wait() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))


def _add_up(bucket: list[nn.Parameter]) -> None:
    flat = torch.cat([p.grad.flatten() for p in bucket])
    dist.all_reduce(flat)
    for parameter, grad in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
        parameter.grad.copy_(grad.view_as(parameter))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))
