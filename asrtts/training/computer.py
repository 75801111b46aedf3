"""What a time was taken on: minutes and real-time factors of different computers do not compare."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

ABILITIES = {"AVX-512": "avx512f", "bf16": "avx512_bf16", "AMX": "amx_bf16"}  # those that torch's products gain from


def processor() -> str:
    """e.g. "2 x Intel(R) Xeon(R) Processor (AVX-512, bf16, AMX)"; many a virtual processor says no more of itself."""
    model, flags = platform.machine(), ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        model = value.strip() if key.strip() == "model name" else model
        flags = value if key.strip() == "flags" else flags
    can = [name for name, flag in ABILITIES.items() if flag in flags]
    return f"{os.cpu_count()} x {model} ({', '.join(can) or 'no AVX-512'})"


def computer(device: torch.device) -> str:
    """The processor, and the GPU where it is the device."""
    return processor() + (f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "")
