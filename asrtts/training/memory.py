"""The most memory that this process has held, as run.json and the summary of a decoding have it."""

from __future__ import annotations

import sys
from typing import Any

import torch


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
