"""The most memory that this process has held, and the line for a model that is larger than there is."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from asrtts.registry import UserError
from asrtts.training import cost_model


def peak(device: torch.device) -> dict[str, Any]:
    """`peak_memory_mb`: resident, with torch itself and all libraries; `peak_gpu_memory_mb`: of tensors on a GPU.

    Of this process alone: processes that make batches have memory of their own.
    """
    try:
        import resource
    except ImportError:  # Windows
        return {}
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    found = {"peak_memory_mb": round(resident)}
    if device.type == "cuda":
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / (1 << 20))
    return found


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
