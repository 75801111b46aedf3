"""Pruned Transducer: the simple joiner's loss, the windows it gives, and the loss inside them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrtts.losses.rnnt import rnnt_loss
from asrtts.losses.rnnt_joiner import rnnt_from_joiner
from asrtts.losses.rnnt_pruning import kept_cells, simple_rnnt, window_starts

FRAMES, COUNTS = [6, 4, 1, 5], [4, 3, 0, 1]


def lengths(frames: list[int] = FRAMES, counts: list[int] = COUNTS, vocab: int = 5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocab, (len(counts), max(counts)), generator=generator)
    return tokens, torch.tensor(frames), torch.tensor(counts)


def floats(*shapes: tuple[int, ...], seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(2 * torch.randn(s, generator=generator, dtype=torch.float64)).requires_grad_() for s in shapes]


def simple_case() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(floats((4, max(FRAMES), 5), (4, max(COUNTS) + 1, 5)))


def joiner_case() -> list[torch.Tensor]:
    return floats((4, max(FRAMES), 3), (4, max(COUNTS) + 1, 3), (5, 3), (5,))


def gradients(losses: torch.Tensor, given: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.tensor([1.0, -0.5, 2.0, 0.5], dtype=losses.dtype)
    return list(torch.autograd.grad((losses * weights).sum(), given))


def test_the_simple_loss_is_that_of_the_added_logits():
    am, lm = simple_case()
    found, posterior = simple_rnnt(am, lm, *lengths())
    wanted = rnnt_loss(am.unsqueeze(2) + lm.unsqueeze(1), *lengths())
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(found, [am, lm]), gradients(wanted, [am, lm]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    edges = torch.tensor([sum(n) for n in zip(FRAMES, COUNTS, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(posterior.sum((1, 2)), edges)  # every alignment has T + U edges


def test_the_gradient_of_the_simple_loss_is_that_of_finite_differences():
    given = simple_case()
    assert torch.autograd.gradcheck(lambda *x: simple_rnnt(*x, *lengths())[0], given)


def test_padding_is_never_read():
    am, lm = (x.detach().clone() for x in simple_case())
    wanted, _ = simple_rnnt(am, lm, *lengths())
    for b in range(4):
        am[b, FRAMES[b] :], lm[b, COUNTS[b] + 1 :] = float("nan"), float("nan")
    am.requires_grad_(), lm.requires_grad_()
    found, _ = simple_rnnt(am, lm, *lengths())
    torch.testing.assert_close(found, wanted)
    assert all(x.isfinite().all() for x in gradients(found, [am, lm]))


def allowed(frames: int, count: int, width: int) -> list[tuple[int, ...]]:
    """All sequences of window starts that hold the constraints."""
    last = max(0, count + 1 - width)
    every = itertools.product(range(last + 1), repeat=frames)
    return [
        s for s in every if s[0] == 0 and s[-1] == last and all(0 <= b - a < width for a, b in itertools.pairwise(s))
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=3),
    st.integers(2, 8),
    st.integers(0, 10**6),
)
def test_windows_are_the_best_of_those_that_hold_the_constraints(sizes, width, seed):
    frames, counts = (list(x) for x in zip(*sizes, strict=True))
    tokens, enc_lens, token_lens = lengths(frames, counts, seed=seed)
    am, lm = floats((len(frames), max(frames), 5), (len(frames), max(counts) + 1, 5), seed=seed)
    _, posterior = simple_rnnt(am, lm, tokens, enc_lens, token_lens)
    starts = window_starts(posterior, enc_lens, token_lens, width)
    kept = kept_cells(posterior, enc_lens, token_lens, width)
    for b, (t, u) in enumerate(sizes):
        choices = allowed(t, u, width)
        if not choices:
            assert u > t * (width - 1) and kept[b].all()
            continue
        found = tuple(starts[b, :t].tolist())
        assert found in choices

        def sum_of(choice: tuple[int, ...], cells: torch.Tensor = posterior[b]) -> float:
            return sum(float(row[s : s + width].sum()) for row, s in zip(cells, choice, strict=False))

        assert sum_of(found) == pytest.approx(max(map(sum_of, choices)), abs=1e-9)
        assert [row.nonzero().flatten().tolist() for row in kept[b, :t, : u + 1]] == [
            list(range(s, min(s + width, u + 1))) for s in found
        ]


def alignments(frames: int, count: int):
    """Cells (t, u) and kinds of edges (True: token) of every alignment."""
    for emissions in itertools.combinations(range(frames + count - 1), count):
        t = u = 0
        path = []
        for edge in range(frames + count):
            path.append((t, u, edge in emissions))
            t, u = (t, u + 1) if edge in emissions else (t + 1, u)
        yield path


@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_pruned_loss_is_the_sum_over_the_alignments_inside_the_windows(width):
    enc, pred, weight, bias = joiner_case()
    case = lengths()
    _, posterior = simple_rnnt(*simple_case(), *case)
    kept = kept_cells(posterior, *case[1:], width)
    found = rnnt_from_joiner(enc, pred, weight, bias, *case, threshold=0.0, kept=kept)
    log_probs = (torch.tanh(enc.unsqueeze(2) + pred.unsqueeze(1)) @ weight.T + bias).log_softmax(-1)
    wanted = []
    for b, (frames, count) in enumerate(zip(FRAMES, COUNTS, strict=True)):
        inside = [p for p in alignments(frames, count) if all(kept[b, t, u] for t, u, _ in p)]
        scores = [sum(log_probs[b, t, u, case[0][b, u] if token else 0] for t, u, token in p) for p in inside]
        wanted.append(-torch.stack(scores).logsumexp(0))
    wanted = torch.stack(wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    given = [enc, pred, weight, bias]
    for ours, theirs in zip(gradients(found, given), gradients(wanted, given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    exact = rnnt_from_joiner(*given, *case)
    assert (found >= exact - 1e-12).all() and (width == 4 or (found > exact + 1e-9).any())


def test_windows_over_all_tokens_give_the_exact_loss():
    given, case = joiner_case(), lengths()
    _, posterior = simple_rnnt(*simple_case(), *case)
    kept = kept_cells(posterior, *case[1:], max(COUNTS) + 1)
    pruned, exact = (rnnt_from_joiner(*given, *case, kept=k) for k in (kept, None))
    assert torch.equal(pruned, exact)
    assert all(torch.equal(a, b) for a, b in zip(gradients(pruned, given), gradients(exact, given), strict=True))


def test_the_gradient_of_the_pruned_loss_is_that_of_finite_differences():
    case = lengths()
    kept = kept_cells(simple_rnnt(*simple_case(), *case)[1], *case[1:], 2)
    assert torch.autograd.gradcheck(lambda *x: rnnt_from_joiner(*x, *case, threshold=0.0, kept=kept), joiner_case())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_the_cpu():
    case, losses = lengths(), []
    for device in ("cpu", "cuda"):
        simple, posterior = simple_rnnt(*(x.to(device) for x in simple_case()), *case)
        kept = kept_cells(posterior, *case[1:], 2)
        losses.append([simple, rnnt_from_joiner(*(x.to(device) for x in joiner_case()), *case, kept=kept)])
    for one, two in zip(*losses, strict=True):
        torch.testing.assert_close(one, two.cpu())


def test_lengths_beyond_the_tensor_are_refused():
    tokens, enc_lens, token_lens = lengths()
    with pytest.raises(ValueError, match=r"logit_lens\[2\] is 7, wanted 1 to 6"):
        simple_rnnt(*simple_case(), tokens, enc_lens.index_fill(0, torch.tensor([2]), 7), token_lens)
