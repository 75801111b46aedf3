"""The Transducer loss of given logits, against the sum over all alignments written out."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrtts.losses import rnnt
from asrtts.losses.rnnt import rnnt_loss
from asrtts.losses.rnnt_lattice import best_path, by_diagonals, edge_posteriors


def enumerated(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """-log of the sum over all orders of T blanks and U tokens that end in a blank. logits (T, U+1, V), tokens (U,)."""
    frames, width, _ = logits.shape
    log_probs = logits.log_softmax(-1)
    paths = []
    for emissions in itertools.combinations(range(frames + width - 2), width - 1):
        t = u = 0
        path = torch.zeros((), dtype=logits.dtype)
        for edge in range(frames + width - 2):
            if edge in emissions:
                path = path + log_probs[t, u, tokens[u]]
                u += 1
            else:
                path = path + log_probs[t, u, 0]
                t += 1
        paths.append(path + log_probs[t, u, 0])
    return -torch.stack(paths).logsumexp(0)


def example(frames: list[int], counts: list[int], vocab: int = 5, seed: int = 0):
    """Random float64 logits and tokens of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(frames), max(frames), max(counts) + 1, vocab
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    tokens = torch.randint(1, vocab, (len(counts), max(counts)), generator=generator)
    return logits, tokens, torch.tensor(frames), torch.tensor(counts)


def loss_and_gradient(logits: torch.Tensor, *rest: torch.Tensor, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and the gradient of their sum, in float64."""
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    losses = rnnt_loss(leaf * 1.0, *rest, **options)
    return losses.detach().double(), torch.autograd.grad(losses.sum(), leaf)[0].double()


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """Both ways that float32 can go: compiled rows, and torch operations as on CUDA."""
    if request.param == "torch":
        monkeypatch.setattr(rnnt, "_compiles", lambda logits: False)
    return request.param


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_the_loss_is_the_sum_over_all_alignments(frames, count):
    logits, tokens, logit_lens, token_lens = example([frames], [count])
    logits.requires_grad_()
    wanted = enumerated(logits[0], tokens[0])
    found = rnnt_loss(logits, tokens, logit_lens, token_lens)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    in_float32, gradient = loss_and_gradient(logits.float(), tokens, logit_lens, token_lens)
    assert in_float32.item() == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(gradient, gradients[1], rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_finite_differences():
    logits, tokens, logit_lens, token_lens = example([4, 3, 1], [2, 3, 0], vocab=4)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    loss = lambda x: (rnnt_loss(x, tokens, logit_lens, token_lens) * weights).sum()  # noqa: E731
    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


def test_agrees_with_warprnnt_numba():
    peer = pytest.importorskip("warprnnt_numba")
    logits, tokens, logit_lens, token_lens = example([9, 7, 4, 9], [5, 3, 1, 2], vocab=11)
    ours, theirs = (logits.float().requires_grad_() for _ in range(2))
    wanted = peer.RNNTLossNumba(blank=0, reduction="none")(theirs, tokens.int(), logit_lens.int(), token_lens.int())
    found = rnnt_loss(ours, tokens, logit_lens, token_lens)
    torch.testing.assert_close(found, wanted.flatten(), rtol=1e-5, atol=1e-5)
    wanted.sum().backward()
    found.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.sampled_from([torch.int32, torch.int64]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([2, 5, 19]),  # 2: every token is repeated; 19: whole vectors and a rest
)
def test_padding_and_neighbours_change_nothing(lengths, seed, whole, kind, vocab):
    frames, counts = (list(x) for x in zip(*lengths, strict=True))
    logits, tokens, logit_lens, token_lens = example(frames, counts, vocab=vocab, seed=seed)
    logits, tolerance = logits.to(kind), {"rtol": 0.0, "atol": 1e-12 if kind == torch.float64 else 1e-6}
    for b, (t, u) in enumerate(lengths):  # padding that poisons whatever reads it
        logits[b, t:] = float("nan")
        logits[b, :, u + 1 :] = float("nan")
        tokens[b, u:] = -7
    tokens, logit_lens, token_lens = tokens.to(whole), logit_lens.to(whole), token_lens.to(whole)
    logits.requires_grad_()
    together = rnnt_loss(logits, tokens, logit_lens, token_lens)
    (gradient,) = torch.autograd.grad(together.sum(), logits)
    assert not gradient.isnan().any()
    for b, (t, u) in enumerate(lengths):
        alone = logits[b : b + 1, :t, : u + 1]
        loss = rnnt_loss(alone, tokens[b : b + 1, :u], logit_lens[b : b + 1], token_lens[b : b + 1])
        torch.testing.assert_close(loss[0], together[b], rtol=tolerance["atol"], atol=tolerance["atol"])
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), logits)[0][b], gradient[b], **tolerance)
        assert gradient[b].sum(-1).abs().max() < 2 * tolerance["atol"]  # a softmax's gradient has no sum
    assert (together >= 0).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 7), st.integers(0, 5)), min_size=1, max_size=3),
    st.integers(0, 10**6),
    st.floats(0, 0.5),
)
def test_diagonals_equal_the_sequential_pass(lengths, seed, forbidden):
    """The CUDA way and the CPU way, with edges that are impossible."""
    frames, counts = (list(x) for x in zip(*lengths, strict=True))
    logits, _, logit_lens, token_lens = example(frames, counts, vocab=3, seed=seed)
    chance = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    edges = logits.log_softmax(-1).masked_fill(chance < forbidden, -float("inf"))
    by_torch = by_diagonals(edges[..., 0].clone(), edges[..., 1].clone(), logit_lens, token_lens)
    in_turn = edge_posteriors(edges[..., 0].clone(), edges[..., 1].clone(), logit_lens, token_lens)
    for found, wanted in zip(by_torch, in_turn, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_forbidden_token_gives_infinity_and_leaves_its_neighbours(way):
    logits, tokens, logit_lens, token_lens = example([3, 3], [2, 2])
    tokens[:] = torch.tensor([1, 2])
    logits = logits.float()
    logits[0, ..., 2] = -float("inf")
    logits.requires_grad_()
    losses = rnnt_loss(logits, tokens, logit_lens, token_lens)
    assert losses[0] == float("inf") and losses[1].isfinite()
    losses[1:].sum().backward()
    assert logits.grad.isfinite().all() and not logits.grad[0].any() and logits.grad[1].any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.6), st.integers(1, 5), st.integers(0, 3))
def test_forbidden_tokens_get_no_gradient_and_the_others_theirs(seed, forbidden, frames, count):
    logits, *rest = example([frames], [count], vocab=9, seed=seed)
    chance = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed))
    hidden = (chance < forbidden).index_fill(3, torch.tensor([0]), False)
    logits = logits.float().masked_fill(hidden, -float("inf"))
    found, gradient = loss_and_gradient(logits, *rest)
    wanted, reference = loss_and_gradient(logits.double(), *rest)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, reference, rtol=0.0, atol=1e-6)
    assert not gradient[hidden].any()


def test_certain_answer_costs_nothing():
    logits = torch.full((1, 3, 2, 4), -float("inf"))
    logits[:, :, 1, 0] = logits[:, 1:, 0, 0] = logits[:, 0, 0, 2] = 0.0
    loss = rnnt_loss(logits, torch.tensor([[2]]), torch.tensor([3]), torch.tensor([1]))
    assert loss.item() == 0.0


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_layout_of_memory_does_not_matter(kind):
    logits, tokens, logit_lens, token_lens = example([4, 3], [2, 3])
    logits = logits.to(kind)
    strange = logits.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    wide = torch.stack([logits, logits + 1], -1)[..., 0]
    assert not strange.is_contiguous() and not wide.is_contiguous()
    wanted = loss_and_gradient(logits, tokens, logit_lens, token_lens)
    spread = [torch.stack([x, x], -1)[..., 0] for x in (tokens, logit_lens, token_lens)]
    for other in (strange, wide, logits.expand(3, -1, -1, -1, -1)[1]):
        found = loss_and_gradient(other, *spread)
        for one, two in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(kind):
    logits, *rest = example([6, 5], [3, 4])
    logits = logits.to(kind)
    found = rnnt_loss(logits, *rest)
    assert found.dtype == torch.float32
    wanted, gradient = loss_and_gradient(logits.float(), *rest)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss_and_gradient(logits, *rest)[1], gradient.to(kind).double(), rtol=0.02, atol=1e-6)


def sure(frames: int, count: int, vocab: int, sureness: float) -> tuple[torch.Tensor, ...]:
    """Logits of a model that is sure of one alignment."""
    logits, tokens, *lengths = example([frames], [count], vocab)
    for t in range(frames):
        for u in range(count + 1):
            due = count * (t + 1) // frames
            logits[0, t, u, tokens[0, u] if u < due else 0] += sureness
    return logits.float(), tokens, *lengths


@pytest.mark.parametrize("sureness", [0.0, 8.0, 16.0, 30.0])
def test_float32_gradient_is_right_to_the_sixth_digit(way, sureness):
    """Also where almost nothing is left to learn. A lattice in float32 would be wrong in the fourth digit."""
    case = sure(80, 30, 100, sureness)
    found, gradient = loss_and_gradient(*case)
    wanted, reference = loss_and_gradient(case[0].double(), *case[1:])
    assert error(gradient, reference) < 1e-6 and error(found, wanted) < 1e-6


@pytest.mark.parametrize("sureness", [12.0, 20.0, 28.0])
def test_rows_beside_the_one_sure_alignment_count_where_nothing_else_is_left(way, sureness):
    """Unsure rows that an alignment passes with 1e-10 are much of a gradient that is no larger itself."""
    logits, tokens, *lengths = example([80], [30], vocab=100)
    t = u = 0
    while t < 80:
        speaks = u < 30 * (t + 1) // 80
        logits[0, t, u, tokens[0, u] if speaks else 0] += sureness
        t, u = (t, u + 1) if speaks else (t + 1, u)
    found, wanted = (loss_and_gradient(x, tokens, *lengths)[1] for x in (logits.float(), logits.float().double()))
    assert error(found, wanted) < 1e-6


def test_no_gradient_is_so_small_that_products_of_it_are_slow(way):
    logits, *rest = sure(80, 30, 100, 40.0)
    gradient = loss_and_gradient(logits, *rest)[1].abs()
    assert gradient[gradient > 0].min() >= rnnt.LEAST_GRADIENT


def test_rows_that_almost_no_alignment_passes_are_zero_and_change_nothing(way):
    logits, *rest = example([90], [30], vocab=30)
    found, wanted = (loss_and_gradient(x, *rest)[1] for x in (logits.float(), logits))
    zero = (found == 0).all(-1)
    assert (wanted[zero] != 0).any(-1).sum() > 500 and wanted[zero].abs().max() < rnnt.FAINT
    assert error(found, wanted) < 1e-6


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_threads_share_the_rows_and_change_nothing(kind):
    logits, *rest = example([17, 5, 9], [3, 6, 0], vocab=30)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(loss_and_gradient(logits.to(kind), *rest))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_gradient_over_the_logits_is_the_same_gradient(kind, way):
    logits, *rest = example([4, 3], [2, 3])
    gradients = []
    for overwrite in (False, True):
        source = logits.to(kind).requires_grad_()
        given = source * 1.0
        losses = rnnt_loss(given, *rest, overwrite_logits=overwrite) * torch.tensor([2.0, -0.5])
        losses.sum().backward()
        gradients.append(source.grad)
        assert torch.equal(given.detach(), logits.to(kind)) is not overwrite
    assert torch.equal(*gradients)


def test_logits_that_are_overwritten_cannot_be_used_again(way):
    logits, *rest = example([4, 3], [2, 3])
    given = logits.float().requires_grad_() * 1.0
    squared = (given**2).sum()
    rnnt_loss(given, *rest, overwrite_logits=True).sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_cuda_equals_the_cpu(kind):
    logits, *rest = example([17, 5, 9], [3, 6, 0], vocab=30)
    logits = logits.to(kind)
    found = loss_and_gradient(logits.cuda(), *rest, overwrite_logits=True)
    for one, two in zip(found, loss_and_gradient(logits, *rest), strict=True):
        torch.testing.assert_close(one.cpu(), two, rtol=1e-6, atol=1e-6)


def test_mean_is_the_mean_over_utterances():
    case = example([4, 3], [2, 3])
    torch.testing.assert_close(rnnt_loss(*case, reduction="mean"), rnnt_loss(*case).mean())


def test_another_blank_is_another_column():
    logits, tokens, logit_lens, token_lens = example([4, 3], [2, 3])
    moved = torch.cat([logits[..., 1:], logits[..., :1]], dim=-1)
    found = rnnt_loss(moved, tokens - 1, logit_lens, token_lens, blank_id=4)
    torch.testing.assert_close(found, rnnt_loss(logits, tokens, logit_lens, token_lens))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, t, n, u: (x, t, torch.tensor([4, 0]), u), r"logit_lens\[1\] is 0, wanted 1 to 4"),
        (lambda x, t, n, u: (x, t, torch.tensor([5, 3]), u), r"logit_lens\[0\] is 5, wanted 1 to 4"),
        (lambda x, t, n, u: (x, t, n, torch.tensor([2, 4])), r"token_lens\[1\] is 4, wanted 0 to 3"),
        (lambda x, t, n, u: (x, t, n, torch.tensor([-1, 3])), r"token_lens\[0\] is -1"),
        (lambda x, t, n, u: (x, t, n, torch.tensor([2.0, 3.0])), r"token_lens: wanted 2 whole numbers"),
        (lambda x, t, n, u: (x[:, :0], t, n, u), r"a dimension of zero"),
        (lambda x, t, n, u: (x[:, :, :0], t, n, u), r"a dimension of zero"),
        (lambda x, t, n, u: (x, t[:, :2], n, u), r"tokens: wanted \(B, U\) = \(2, 3\), found \(2, 2\)"),
        (lambda x, t, n, u: (x, t + 0.5, n, u), r"tokens: wanted whole numbers, found torch.float32"),
        (lambda x, t, n, u: (x, t.index_fill(1, torch.tensor([1]), 9), n, u), r"tokens\[0, 1\] is 9, wanted 0 to 4"),
        (lambda x, t, n, u: (x, t.index_fill(1, torch.tensor([0]), 0), n, u), r"tokens\[0, 0\] is 0, .*blank"),
        (lambda x, t, n, u: (x.index_fill(0, torch.tensor([1]), float("nan")), t, n, u), r"logits\[1, 0, 0\] .*nan"),
        (lambda x, t, n, u: (x.index_fill(3, torch.tensor([2]), float("inf")), t, n, u), r"logits\[0, 0, 0\] .*inf"),
        (lambda x, t, n, u: (x.fill_(-float("inf")), t, n, u), r"logits\[0, 0, 0\] are no distribution"),
        (lambda x, t, n, u: (x, t, n, u, 5), r"blank_id 5 is outside the vocabulary of 5"),
        (lambda x, t, n, u: (x, t, n, u, -1), r"blank_id -1"),
        (lambda x, t, n, u: (x, t, n, u, 0, "sum"), r"reduction: .*'sum'"),
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_bad_input_is_refused_with_its_place_and_value(change, message, kind):
    logits, *rest = example([4, 3], [2, 3])
    with pytest.raises(ValueError, match=message):
        rnnt_loss(*change(logits.to(kind), *rest))


@pytest.mark.parametrize("frames, tokens", [(1, 0), (1, 3), (4, 0), (4, 3)])
def test_the_best_path_is_the_best_of_all(frames: int, tokens: int) -> None:
    """Every order of T - 1 blanks and U labels, tried; the last blank is common to all."""
    generator = torch.Generator().manual_seed(5)
    blank, label = torch.randn(2, frames, tokens + 1, generator=generator).log_softmax(0).unbind()
    found = {}
    for labels in itertools.combinations(range(frames - 1 + tokens), tokens):
        t = u = 0
        path, score = [(0, 0)], 0.0
        for step in range(frames - 1 + tokens):
            score += float((label if step in labels else blank)[t, u])
            t, u = (t, u + 1) if step in labels else (t + 1, u)
            path.append((t, u))
        found[score] = path
    assert best_path(blank, label) == found[max(found)]
