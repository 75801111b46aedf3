"""Depthwise convolution on (B, T, D) against torch's conv1d."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from asrtts.nn.depthwise import DepthwiseConv


@pytest.mark.parametrize("stride", [1, 2])
def test_equals_conv1d(stride):
    torch.manual_seed(0)
    conv = DepthwiseConv(6, 5, stride)
    x = torch.randn(2, 11, 6)
    expected = F.conv1d(x.mT, conv.weight, conv.bias, stride, 2, groups=6).mT
    torch.testing.assert_close(conv(x), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("frames", "kernel"), [(1, 5), (31, 7), (32, 31), (33, 15), (70, 3)])
def test_bf16_gradient_equals_the_library(frames, kernel):
    """bf16 inputs whose exact gradient float32 gives; lengths around the tile of 32 and kernels beyond the length."""
    torch.manual_seed(0)
    conv = DepthwiseConv(32, kernel)
    conv.weight.data = conv.weight.data.bfloat16().float()
    x = torch.randn(3, frames, 32).bfloat16()
    weight = torch.randn(3, frames, 32).bfloat16()
    grads = []
    for dtype in (torch.bfloat16, torch.float32):
        conv.zero_grad()
        seen = x.detach().to(dtype, copy=True).requires_grad_()
        (conv(seen) * weight.to(dtype)).sum().backward()
        grads.append((seen.grad.float(), conv.weight.grad.clone(), conv.bias.grad.clone()))
    for half, full in zip(*grads, strict=True):
        assert (half - full).norm() <= 0.01 * full.norm() + 1e-3


def test_bf16_never_reaches_the_library_on_a_cpu(monkeypatch):
    """oneDNN's own bf16 kernel hangs: always with few channels, now and then with more."""
    library, seen = F.conv2d, []
    monkeypatch.setattr(F, "conv2d", lambda x, *more, **named: seen.append(x.dtype) or library(x, *more, **named))
    for stride in (1, 2):
        conv, x = DepthwiseConv(32, 7, stride), torch.randn(3, 32, 32).bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            conv(x).sum().backward()
            conv(x.detach())
    assert seen and set(seen) == {torch.float32}


def test_few_channels_in_bf16_return():
    conv = DepthwiseConv(6, 31)
    x = torch.randn(3, 32, 6).bfloat16()
    out = conv(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), conv(x.float()), atol=0.02, rtol=0.02)
