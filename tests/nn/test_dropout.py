"""The cheap dropout is a dropout."""

from __future__ import annotations

import pytest
import torch

from asrtts.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_keeps_the_mean_and_drops_p(p):
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(400, 1001))
    assert abs(float((out == 0).float().mean()) - p) < 0.5 / 256 + 0.002
    assert abs(float(out.mean()) - 1) < 0.005
    assert out.unique().numel() == 2


def test_neighbours_are_independent():
    """Eight elements share one draw of 64 bits, and must not share their fate."""
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(100_000, 8)) == 0).float()
    correlation = torch.corrcoef(dropped.T) - torch.eye(8)
    assert correlation.abs().max() < 0.015


def test_gradient_has_the_mask_of_the_output():
    x = torch.randn(7, 5, requires_grad=True)
    out = Dropout(0.4)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x, out)


def test_follows_the_random_state():
    x, dropout = torch.ones(3, 5), Dropout(0.5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = dropout(x), dropout(x)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


def test_does_nothing_in_evaluation():
    x = torch.randn(3, 5)
    assert Dropout(0.5).eval()(x) is x
