"""Batch normalization that does not count padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValidBatchNorm(nn.BatchNorm1d):
    """Batch normalization of (B, T, D) whose statistics come from real frames only; padding comes out as zero."""

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, T, D), valid (B, T) bool."""
        if not self.training:
            scale, shift = self.scale_and_shift()
            return x * scale + shift
        frames = super().forward(x[valid])
        return torch.zeros_like(x, dtype=frames.dtype).masked_scatter(valid[..., None], frames)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What it does after training, (D,) and (D,): x * scale + shift."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale
