"""Which frames are real: masks from lengths."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_mask(lens: Tensor, size: int) -> Tensor:
    """(B,) lengths -> (B, size) bool, True = real. valid_mask([3, 1], 4):

    1 1 1 0
    1 0 0 0
    """
    return torch.arange(size, device=lens.device) < lens[:, None]
