"""The subsampling's own training path on a CPU against the library's convolutions."""

from __future__ import annotations

import pytest
import torch

from asrtts.nn.subsampling import ConvSubsampling, subsampled


@pytest.mark.parametrize("factor", [4, 6])
@pytest.mark.parametrize(("frames", "bins"), [(41, 20), (42, 23), (43, 21), (44, 22), (11, 11)])
def test_training_path_equals_the_library(factor, frames, bins):
    """Every remainder of frames and bins by the strides: places that no window reads have no gradient."""
    torch.manual_seed(0)
    subsampling = ConvSubsampling(bins, dim=6, factor=factor, channels=5).double()
    feats = torch.randn(3, frames, bins, dtype=torch.float64)
    results = []
    for needs_grad in (False, True):  # a gradient for feats takes the library's road
        subsampling.zero_grad()
        out = subsampling(feats.clone().requires_grad_(needs_grad))
        assert out.shape == (3, subsampled(frames, factor), 6)
        (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        results.append([out.detach(), *(p.grad for p in subsampling.parameters())])
    for own, library in zip(*results, strict=True):
        torch.testing.assert_close(own, library, atol=1e-6, rtol=1e-5)  # sums are float32


def test_bf16_gradient_points_the_same_way():
    torch.manual_seed(0)
    subsampling = ConvSubsampling(40, dim=16, factor=4, channels=16)
    feats = torch.randn(4, 60, 40)
    grads = []
    for bf16 in (False, True):
        subsampling.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            out = subsampling(feats)
        out.float().pow(2).mean().backward()
        grads.append([p.grad for p in subsampling.parameters()])
    for full, half in zip(*grads, strict=True):
        assert torch.nn.functional.cosine_similarity(full.flatten(), half.flatten(), dim=0) > 0.995
