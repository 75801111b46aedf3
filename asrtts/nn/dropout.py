"""Dropout that is cheap beside bf16 matrix products on a CPU.

`F.dropout` draws one Bernoulli sample an element and is 10-15 % of a training step; here one 64-bit draw of torch's own
generator serves eight elements, so the run is still a function of torch's random state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Zeroes an element with probability p and scales the others by 1 / (1 - p).

    On a CPU p is rounded to 1/256 (0.1 -> 26/256) and the scale follows the rounded value, so the mean is kept.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        assert 0 <= p < 1, p
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        keep, scale = keep_mask(x.shape, self.p)
        return _Masked.apply(x, keep, scale)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def keep_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """A CPU mask of bytes, 1 with probability 1 - p (in steps of 1/256), else 0, and the scale that keeps the mean."""
    threshold = min(255, round(p * 256))
    numel = shape.numel()
    draws = torch.empty((numel + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    keep = (draws.view(torch.uint8)[:numel] >= threshold).view(shape)
    # as bytes: a product with a bool tensor takes 2.5 times as long
    return keep.view(torch.uint8), 256 / (256 - threshold)


class _Masked(torch.autograd.Function):
    """x * keep * scale; its own node because autograd would save x and a float mask."""

    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return (x * keep).mul_(scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(ctx.scale), None, None
