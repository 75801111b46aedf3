"""CTC prefix probabilities against all paths, against a plain forward loop on long input, and their bookkeeping."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from asrtts.search.ctc_prefix_score import CompiledScores, TensorScores

torch.set_num_threads(1)


@pytest.fixture(params=[CompiledScores, TensorScores])
def kind(request):
    """The loops of a CPU, and the tensors of all else."""
    return request.param


def everything(scores, like):
    """Scores of all options, (B, K, V + 1), of hypotheses `like` (B, K)."""
    vocab = scores.log_probs.shape[2]
    return scores.candidates(torch.arange(vocab + 1).expand(*like.shape, -1))


def posteriors(*shape, seed=0):
    torch.manual_seed(seed)
    return (2 * torch.randn(*shape)).log_softmax(-1)


def collapse(path):
    return [k for k, _ in itertools.groupby(path) if k != 0]


def probability(log_probs, wanted):
    """log of the summed probability of the paths whose tokens `wanted` accepts."""
    frames, vocab = log_probs.shape
    paths = (p for p in itertools.product(range(vocab), repeat=frames) if wanted(collapse(p)))
    total = sum(math.exp(sum(log_probs[t, k].item() for t, k in enumerate(p))) for p in paths)
    return math.log(total) if total else -math.inf


def test_prefix_and_whole_sentence_probabilities_are_sums_over_all_paths(kind):
    lens = torch.tensor([5, 3])
    log_probs = posteriors(2, 5, 3)
    scores = kind(log_probs, lens, 0)
    hypotheses = [[[]], [[]]]
    tokens = torch.zeros(2, 1)
    torch.manual_seed(2)
    for _ in range(4):
        found = everything(scores, tokens)
        for b, rows in enumerate(hypotheses):
            real = log_probs[b, : lens[b]]
            for k, g in enumerate(rows):
                assert found[b, k, 0] == -math.inf
                for c in (1, 2):
                    expected = probability(real, lambda tokens, gc=[*g, c]: tokens[: len(gc)] == gc)
                    assert found[b, k, c].item() == pytest.approx(expected, abs=1e-5)
                expected = probability(real, lambda tokens, g=g: tokens == g)
                assert found[b, k, 3].item() == pytest.approx(expected, abs=1e-5)
        tokens = torch.randint(1, 3, (2, 4))
        parents = torch.randint(0, len(hypotheses[0]), (2, 4))
        hypotheses = [
            [hypotheses[b][p] + [c] for p, c in zip(parents[b].tolist(), tokens[b].tolist(), strict=True)]
            for b in range(2)
        ]
        scores.advance(parents, tokens)


def test_long_sharp_input_neither_underflows_nor_drifts(kind):
    log_probs = (8 * posteriors(1, 1500, 20)).log_softmax(-1)
    path = log_probs[0].argmax(-1).tolist()
    tokens = collapse(path)
    scores = kind(log_probs, torch.tensor([1500]), 0)
    for token in tokens:
        ahead = scores.candidates(torch.tensor([[[token]]])).item()
        scores.advance(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[token]]))
    whole = scores.candidates(torch.tensor([[[20]]])).item()
    likelihood = -F.ctc_loss(
        log_probs[0].double(), torch.tensor([tokens]), (1500,), (len(tokens),), reduction="sum"
    ).item()
    assert whole == pytest.approx(likelihood, rel=1e-6)
    assert likelihood - 1e-3 <= ahead < 0


def test_padding_of_any_content_and_a_change_of_the_batch_leave_the_scores(kind):
    lens = torch.tensor([6, 4, 5])
    log_probs = posteriors(3, 6, 4)
    dirty = log_probs.clone()
    dirty[1, 4:], dirty[2, 5:] = 0.0, -math.inf
    tokens, parents = torch.tensor([[1, 2], [3, 3], [2, 1]]), torch.zeros(3, 2, dtype=torch.long)
    together = kind(dirty, lens, 0)
    together.advance(parents, tokens)
    left = torch.tensor([0, 2])
    together.keep(left)
    together.advance(torch.tensor([[1, 0], [1, 0]]), torch.tensor([[2, 2], [1, 3]]))
    found = everything(together, left[:, None].expand(-1, 2))
    for row, b in enumerate(left.tolist()):
        alone = kind(log_probs[b : b + 1, : lens[b]], lens[b : b + 1], 0)
        alone.advance(parents[b : b + 1], tokens[b : b + 1])
        alone.advance(torch.tensor([[1, 0]]), torch.tensor([[[2, 2], [1, 3]][row]]))
        torch.testing.assert_close(found[row], everything(alone, torch.zeros(1, 2))[0])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(2, 12),
    st.integers(0, 2),
    st.floats(0.0, 0.5),
    st.integers(0, 10**6),
)
def test_the_loops_equal_the_tensors_on_any_options(frames, vocab, blank_id, forbidden, seed):
    """With probabilities of zero, repeats, a blank anywhere, duplicate options, and prefixes that have no path."""
    lens, blank_id = torch.tensor(frames), min(blank_id, vocab - 1)
    log_probs = posteriors(len(lens), max(frames), vocab, seed=seed)
    log_probs = log_probs.masked_fill(torch.rand(log_probs.shape) < forbidden, -math.inf)
    both = [kind(log_probs, lens, blank_id) for kind in (CompiledScores, TensorScores)]
    width = 1
    for _ in range(4):
        options = torch.randint(0, vocab + 1, (len(lens), width, 5))
        ours, theirs = (scores.candidates(options) for scores in both)
        assert (ours[options == blank_id] == -math.inf).all()
        # Tensors know no zero: e^-1e4 stands for it.
        torch.testing.assert_close(ours.clamp(min=-100), theirs.clamp(min=-100), rtol=1e-4, atol=1e-4)
        parents, tokens = torch.randint(0, width, (len(lens), 3)), torch.randint(1, vocab, (len(lens), 3))
        tokens[tokens == blank_id] = 0
        width = 3
        for scores in both:
            scores.advance(parents, tokens)
