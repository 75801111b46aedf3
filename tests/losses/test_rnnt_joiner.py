"""The fused joiner and loss equals the joiner, then the loss."""

from __future__ import annotations

import pytest
import torch

from asrtts.losses import rnnt_joiner
from asrtts.losses.rnnt import rnnt_loss
from asrtts.losses.rnnt_joiner import rnnt_from_joiner

FRAMES, COUNTS = [9, 5, 1, 7], [4, 6, 0, 1]


def example(kind: torch.dtype = torch.float64, vocab: int = 7, width: int = 6, scale: float = 1.0):
    """enc, pred, weight, bias that want gradients, and tokens, enc_lens, token_lens."""
    generator = torch.Generator().manual_seed(1)
    shapes = (4, max(FRAMES), width), (4, max(COUNTS) + 1, width), (vocab, width), (vocab,)
    floats = [
        (scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(kind).requires_grad_() for s in shapes
    ]
    tokens = torch.randint(1, vocab, (4, max(COUNTS)), generator=generator)
    return floats, (tokens, torch.tensor(FRAMES), torch.tensor(COUNTS))


def materialized(enc, pred, weight, bias, *lengths):
    return rnnt_loss(torch.tanh(enc.unsqueeze(2) + pred.unsqueeze(1)) @ weight.T + bias, *lengths)


def gradients(losses: torch.Tensor, floats: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.tensor([1.0, -0.5, 2.0, 0.0], dtype=losses.dtype)
    return list(torch.autograd.grad((losses * weights).sum(), floats))


@pytest.mark.parametrize("tile", [1, 300, 1 << 20])
def test_equals_the_materialized_loss_whatever_the_tile(tile, monkeypatch):
    monkeypatch.setattr(rnnt_joiner, "TILE", tile)
    monkeypatch.setattr(rnnt_joiner, "FEWEST_CELLS", 1)
    floats, lengths = example()
    found = rnnt_from_joiner(*floats, *lengths, threshold=0.0)
    wanted = materialized(*floats, *lengths)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(found, floats), gradients(wanted, floats), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_gradient_is_that_of_finite_differences():
    floats, lengths = example()
    loss = lambda *x: rnnt_from_joiner(*x, *lengths, threshold=0.0)[:3]  # noqa: E731
    assert torch.autograd.gradcheck(loss, floats)


def test_cells_that_no_alignment_passes_are_left_out_without_loss():
    """Peaked posteriors, as of a trained model: fewer cells, the same gradient to 1e-6."""
    floats, lengths = example(scale=4.0)
    found = gradients(rnnt_from_joiner(*floats, *lengths), floats)
    wanted = gradients(rnnt_from_joiner(*floats, *lengths, threshold=0.0), floats)
    coarse = gradients(rnnt_from_joiner(*floats, *lengths, threshold=0.05), floats)
    errors = [[float((a - b).norm() / b.norm()) for a, b in zip(x, wanted, strict=True)] for x in (found, coarse)]
    assert max(errors[0]) < 1e-6 < max(errors[1])


def test_padding_is_never_read():
    floats, lengths = example()
    wanted = rnnt_from_joiner(*floats, *lengths)
    enc, pred = (x.detach().clone() for x in floats[:2])
    tokens = lengths[0].clone()
    for b in range(4):
        enc[b, FRAMES[b] :], pred[b, COUNTS[b] + 1 :], tokens[b, COUNTS[b] :] = float("nan"), float("nan"), -5
    poisoned = [x.requires_grad_() for x in (enc, pred, *(x.detach().clone() for x in floats[2:]))]
    found = rnnt_from_joiner(*poisoned, tokens, *lengths[1:])
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(gradients(found, poisoned), gradients(wanted, floats), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_autocast_keeps_float32_sums_and_gradients():
    floats, lengths = example(torch.float32, vocab=30, width=32)
    wanted = rnnt_from_joiner(*floats, *lengths)
    with torch.autocast("cpu", torch.bfloat16):
        found = rnnt_from_joiner(floats[0].bfloat16(), *floats[1:], *lengths)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
    for ours, theirs in zip(gradients(found, floats), gradients(wanted, floats), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() / theirs.norm() < 3e-2


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """Tiles in compiled rows, which one thread takes, and in torch operations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if request.param == "torch":
        monkeypatch.setattr(rnnt_joiner, "_compiles", lambda z: False)
    else:
        assert rnnt_joiner._compiles(torch.zeros(1)), "numba is missing"
    yield request.param
    torch.set_num_threads(threads)


def errors(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("scale", [1.0, 4.0])  # of a model that is unsure, and of one that is sure
def test_float32_gradients_are_right_to_the_sixth_digit(way, scale):
    (floats, lengths), (single, _) = example(vocab=30, width=32, scale=scale), example(torch.float32, 30, 32, scale)
    exact, found = (rnnt_from_joiner(*x, *lengths, threshold=0.0) for x in (floats, single))
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=2e-6)
    assert max(errors(gradients(found, single), gradients(exact, floats))) < 2e-6


def test_both_ways_round_bf16_alike(monkeypatch):
    floats, lengths = example(torch.float32, vocab=30, width=32)
    torch_threads, found = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    with torch.autocast("cpu", torch.bfloat16):
        for compiled in (True, False):
            monkeypatch.setattr(rnnt_joiner, "_compiles", lambda z, compiled=compiled: compiled)
            losses = rnnt_from_joiner(*floats, *lengths)
            found[compiled] = [losses.detach(), *gradients(losses, floats)]
    torch.set_num_threads(torch_threads)
    assert max(errors(found[True], [x.double() for x in found[False]])) < 2e-3  # bf16 has eight bits


@pytest.mark.parametrize("kind", [float("nan"), float("inf")])
def test_rows_that_are_no_distribution_give_nan_in_both_ways(way, kind):
    floats, lengths = example(torch.float32)
    with torch.no_grad():
        floats[3][2] = kind
    assert rnnt_from_joiner(*floats, *lengths).isnan().all()


def test_numbers_that_are_none_give_a_loss_that_is_none():
    """The trainer looks at the loss to name the batch; an utterance's trouble stays its own."""
    floats, lengths = example()
    with torch.no_grad():
        floats[0][1, 2, 3] = float("nan")
    assert rnnt_from_joiner(*floats, *lengths).isnan().tolist() == [False, True, False, False]


def test_lengths_beyond_the_tensor_are_refused():
    floats, (tokens, enc_lens, token_lens) = example()
    with pytest.raises(ValueError, match=r"logit_lens\[2\] is 10, wanted 1 to 9"):
        rnnt_from_joiner(*floats, tokens, enc_lens.index_fill(0, torch.tensor([2]), 10), token_lens)
