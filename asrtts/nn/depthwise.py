"""Depthwise convolution over time on (B, T, D), the layout that everything around it has."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DepthwiseConv(nn.Conv1d):
    """Each channel is filtered by itself. (B, T, D) -> (B, ceil(T / stride), D).

    Weights as nn.Conv1d(dim, dim, groups=dim); the caller zeroes what lies past an utterance's end.
    """

    def __init__(self, dim: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        assert kernel % 2 == 1, f"an even kernel ({kernel}) has no middle"
        super().__init__(dim, dim, kernel, stride, padding=kernel // 2, groups=dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        if x.device.type != "cpu" or not half:
            return _convolve(x, self.weight, self.bias, self.stride[0])
        with torch.autocast("cpu", enabled=False):
            if x.dtype == torch.bfloat16 and x.requires_grad and self.stride == (1,):
                out = _Bf16OnCpu.apply(x, self.weight.to(x.dtype))
                return out if self.bias is None else out + self.bias.to(x.dtype)
            bias = None if self.bias is None else self.bias.float()
            return _convolve(x.float(), self.weight.float(), bias, self.stride[0]).to(x.dtype)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """x (B, T, D), weight (D, 1, K) -> (B, ceil(T / stride), D)."""
    # as a 2-D convolution of height 1, (B, T, D) is channels-last as it lies: several times faster than conv1d
    image, padding = x.transpose(1, 2).unsqueeze(2), (0, weight.shape[2] // 2)
    out = F.conv2d(image, weight.unsqueeze(2), bias, (1, stride), padding, groups=len(weight))
    return out.squeeze(2).transpose(1, 2)


class _Bf16OnCpu(torch.autograd.Function):
    """Convolutions in float32, and the weights' gradient as matrix products.

    torch 2.13: oneDNN's depthwise kernel for bf16 now and then does not return. It was seen with 6 and 16 channels at
    every run, and with 32 channels (up to 70 frames, kernel 3 to 31) once in two runs of the same tests.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x.float(), weight.float()).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        back = _convolve(grad.float(), weight.flip(2).float()).to(x.dtype)
        return back, _weight_gradient(x, grad, weight.shape[2])[:, None].to(weight.dtype)


def _weight_gradient(x: Tensor, grad: Tensor, kernel: int, tile: int = 32) -> Tensor:
    """out[d, k] = sum over b, t of x[b, t + k - kernel // 2, d] grad[b, t, d], float32 (D, kernel).

    By tiles of frames, a matrix product per channel gives every pair (place in x, place in grad) of the tile at once;
    tap k is its k-th diagonal. More products than needed, but of the kind that the matrix unit does.
    """
    b, t, d = x.shape
    tiles, seen = -(-t // tile), tile + kernel - 1
    x = F.pad(x, (0, 0, kernel // 2, tiles * tile - t + kernel // 2)).unfold(1, seen, tile)  # (B, tiles, D, seen)
    grad = F.pad(grad, (0, 0, 0, tiles * tile - t)).view(b, tiles, tile, d)
    x = x.permute(2, 3, 0, 1).reshape(d, seen, -1)
    grad = grad.permute(3, 0, 1, 2).reshape(d, -1, tile)
    pairs = torch.bmm(x, grad)  # (D, seen, tile)
    return pairs.as_strided((d, kernel, tile), (seen * tile, tile, tile + 1)).sum(2, dtype=torch.float32)
