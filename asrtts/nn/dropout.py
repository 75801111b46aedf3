"""Dropout that is cheap beside bf16 matrix products on a CPU.

`F.dropout` draws one Bernoulli sample an element and is 10-15 % of a training step; here torch's generator is drawn
from once a call, and a hash of that and of the element's number decides. The run is still a function of its state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Zeroes an element with probability p and scales the others by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        assert 0 <= p < 1, p
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return _Dropout.apply(x, _seed(), self.p) if _compiles(x) else F.dropout(x, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class SiluDropout(Dropout):
    """Dropout of x sigmoid(x); on a CPU it is one pass forward and one back, and only x is kept."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.p > 0 and _compiles(x):
            return _SiluDropout.apply(x, _seed(), self.p)
        return super().forward(F.silu(x))


def _compiles(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float32)


def _seed() -> int:
    return int(torch.empty((), dtype=torch.int64).random_())


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, seed: int, p: float) -> Tensor:
        from asrtts.nn import dropout_loops  # numba takes a second to import: only those who train pay

        ctx.seed, ctx.p = seed, p
        return dropout_loops.scale(x, seed, p)

    @staticmethod
    def backward(ctx, grad: Tensor):
        from asrtts.nn import dropout_loops

        return dropout_loops.scale(grad, ctx.seed, ctx.p), None, None


class _SiluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, seed: int, p: float) -> Tensor:
        from asrtts.nn import dropout_loops

        ctx.save_for_backward(x)
        ctx.seed, ctx.p = seed, p
        return dropout_loops.silu(x, seed, p)

    @staticmethod
    def backward(ctx, grad: Tensor):
        from asrtts.nn import dropout_loops

        return dropout_loops.silu_gradient(*ctx.saved_tensors, grad, ctx.seed, ctx.p), None, None
