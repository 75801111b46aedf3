"""The most memory that this process has held, and the line for a model that is larger than there is."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from asrtts.registry import UserError
from asrtts.training import cost_model

SHARE = 0.95  # of the memory that is free when a limit is set


def peak(device: torch.device) -> dict[str, Any]:
    """`peak_memory_mb`: resident, with torch itself and all libraries; `peak_gpu_memory_mb`: of tensors on a GPU.

    Of this process alone: processes that make batches have memory of their own.
    """
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    found = {"peak_memory_mb": round(resident)}
    if device.type == "cuda":
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / (1 << 20))
    return found


@contextmanager
def limited(device: torch.device, processes: int = 1) -> Iterator[None]:
    """Let an allocation fail where it would otherwise use up the machine's memory.

    Linux grants more than there is and kills a process when it is used, without a word: a RuntimeError or MemoryError
    can be told of, with the utterance that was too long. Nothing is limited on a GPU, where torch says so by itself.

    Args:
        processes: that share the memory, e.g. those of torchrun on this machine.
    """
    held = _data_bytes()
    if held is None or device.type != "cpu":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = held + int(SHARE * cost_model.free(device) / processes)
    allowed = [limit for limit in (most, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int | None:
    """What this process has of the memory that RLIMIT_DATA limits; None where there is no such count."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    return None


@contextmanager
def enough(lower: str) -> Iterator[None]:
    """For building a model in: it stops before the weights fill the memory, where the system would kill us unheard.

    Raises:
        UserError: the weights, or one layer of them, are more than is free; `lower` names the settings.
    """
    room, held = 0.9 * cost_model.free(torch.device("cpu")), 0  # others live here, too

    def count(_: nn.Module, __: str, parameter: nn.Parameter) -> None:
        nonlocal held
        held += parameter.nbytes if parameter.device.type == "cpu" else 0
        if held > room:  # what is not written to yet takes no memory
            found = f"the weights of these settings want more than the {room / 1e9:.1f} GB that are free"
            raise UserError(f"{found}; {lower}")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except RuntimeError as error:
        if not (wanted := re.search(r"allocate memory: you tried to allocate (\d+) bytes", str(error))):
            raise
        found = f"one layer of these settings wants {int(wanted[1]) / 1e9:.1f} GB, more than there are"
        raise UserError(f"{found}; {lower}") from None
    finally:
        hook.remove()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python could not get memory; torch has no class of its own for it on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return bool(re.search(r"(not enough|can't allocate) memory|out of memory|bad_alloc", str(error)))


@contextmanager
def told(ids: Mapping[str, float], way_out: str) -> Iterator[None]:
    """Raises UserError with the longest utterance if there is no memory for what is done with these.

    Args:
        ids: utterance to seconds.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        longest = max(ids, key=ids.__getitem__)
        raise UserError(
            f"out of memory on a batch of {len(ids)} utterances, the longest is {longest} of {ids[longest]:.1f} s; "
            + way_out
        ) from None
