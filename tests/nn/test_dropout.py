"""The cheap dropout is a dropout."""

from __future__ import annotations

import pytest
import torch

from asrtts.nn.dropout import Dropout, SiluDropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
def test_keeps_the_mean_and_drops_p(p):
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(400, 1001))
    assert abs(float((out == 0).float().mean()) - p) < 0.002
    assert abs(float(out.mean()) - 1) < 0.005
    assert out.unique().numel() == 2


def test_neighbours_are_independent():
    """All elements share one draw of 64 bits, and must not share their fate."""
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


def test_masks_of_different_calls_are_independent():
    torch.manual_seed(0)
    dropout, ones = Dropout(0.5), torch.ones(20_000)
    masks = torch.stack([dropout(ones) for _ in range(20)]) == 0
    assert (torch.corrcoef(masks.float()) - torch.eye(20)).abs().max() < 0.03
    assert (torch.corrcoef(torch.stack([masks[0][1:], masks[1][:-1]]).float())[0, 1]).abs() < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 70_001)])
def test_nothing_depends_on_the_threads(dtype, shape):
    x, found = torch.randn(shape).to(dtype), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        found.append(SiluDropout(0.3)(x))
    torch.set_num_threads(1)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_silu_dropout_is_silu_and_then_dropout(dtype, close):
    x = torch.cat([torch.randn(5000) * 4, torch.tensor([-200.0, -90.0, -0.0, 0.0, 90.0, 200.0])]).to(dtype)
    x.requires_grad_()
    torch.manual_seed(2)
    out = SiluDropout(0.25)(x)
    torch.manual_seed(2)
    mask = Dropout(0.25)(torch.ones_like(x)).detach().double()
    exact = x.detach().double().requires_grad_()
    wanted = torch.nn.functional.silu(exact) * (mask > 0) / 0.75
    torch.testing.assert_close(out.double(), wanted, rtol=close, atol=1e-6)
    grad = torch.randn(len(x)).to(dtype)
    out.backward(grad)
    wanted.backward(grad.double())
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=close, atol=2e-6)


def test_a_transposed_tensor_is_dropped_where_its_elements_lie():
    x = torch.arange(1.0, 13.0).view(3, 4).T.requires_grad_()
    out = Dropout(0.5)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x, out)


def test_no_number_stays_none():
    x = torch.full((1000,), torch.nan)
    for kind in (torch.float32, torch.bfloat16):
        out = SiluDropout(0.5)(x.to(kind))
        assert 300 < out.isnan().sum() < 700


def test_does_nothing_in_evaluation():
    x = torch.randn(3, 5)
    assert Dropout(0.5).eval()(x) is x
