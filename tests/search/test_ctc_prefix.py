"""CTC prefix search against all paths, and against the textbook's dictionary where the beam prunes; alignment."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from asrtts.registry import UserError
from asrtts.search import ctc_kernels
from asrtts.search.ctc_prefix import ctc_prefix_beam, ctc_times

torch.set_num_threads(1)


def random_posteriors(*shape, seed=0, sharp=2.0):
    torch.manual_seed(seed)
    return (sharp * torch.randn(*shape)).log_softmax(-1)


def collapse(path):
    return tuple(k for k, _ in itertools.groupby(path) if k != 0)


def all_sequences(log_probs):
    """Every token sequence with the sum of its paths, likeliest first."""
    frames, vocab = log_probs.shape
    total = defaultdict(float)
    for path in itertools.product(range(vocab), repeat=frames):
        total[collapse(path)] += math.exp(sum(log_probs[t, k].item() for t, k in enumerate(path)))
    return sorted(((math.log(p), tokens) for tokens, p in total.items()), reverse=True)


def textbook(log_probs, beam):
    """Prefix search with a dictionary of tuples, all tokens extended at each frame."""
    live = {(): (0.0, -math.inf)}
    for row in log_probs.double().tolist():
        after = defaultdict(lambda: [-math.inf, -math.inf])

        def add(prefix, which, score, after=after):
            high, low = max(after[prefix][which], score), min(after[prefix][which], score)
            after[prefix][which] = high if low == -math.inf else high + math.log1p(math.exp(low - high))

        for prefix, (blank, label) in live.items():
            for k, p in enumerate(row):
                if k == 0:
                    add(prefix, 0, blank + p)
                    add(prefix, 0, label + p)
                elif prefix and k == prefix[-1]:
                    add(prefix, 1, label + p)
                    add(prefix + (k,), 1, blank + p)
                else:
                    add(prefix + (k,), 1, blank + p)
                    add(prefix + (k,), 1, label + p)
        best = sorted(after.items(), key=lambda item: -math.log(sum(map(math.exp, item[1])) + 1e-300))[:beam]
        live = {prefix: tuple(scores) for prefix, scores in best}
    return [(math.log(sum(map(math.exp, scores))), prefix) for prefix, scores in live.items()]


@pytest.mark.parametrize("seed", range(5))
def test_nbest_equals_the_sum_over_all_paths_where_nothing_is_pruned(seed):
    log_probs = random_posteriors(1, 5, 3, seed=seed)
    [found] = ctc_prefix_beam(log_probs, torch.tensor([5]), beam=100, nbest=8)
    expected = all_sequences(log_probs[0])[:8]
    assert [tuple(h.tokens) for h in found] == [tokens for _, tokens in expected]
    assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_narrow_beam_prunes_and_merges_as_the_textbook_does(seed):
    log_probs = random_posteriors(1, 25, 4, seed=seed, sharp=1.0)
    [found] = ctc_prefix_beam(log_probs, torch.tensor([25]), beam=4, nbest=4)
    expected = textbook(log_probs[0], 4)
    assert [tuple(h.tokens) for h in found] == [tokens for _, tokens in expected]
    assert [h.score for h in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_score_of_the_best_is_the_ctc_likelihood_of_its_tokens():
    log_probs = random_posteriors(2, 30, 8, sharp=8.0)
    lens = torch.tensor([30, 21])
    for b, [best] in enumerate(ctc_prefix_beam(log_probs, lens, beam=500)):
        target, count = torch.tensor([best.tokens]), torch.tensor([len(best.tokens)])
        likelihood = -F.ctc_loss(log_probs[b, :, None], target, lens[b : b + 1], count, reduction="sum").item()
        assert likelihood - 1e-3 <= best.score <= likelihood + 1e-4  # a few of its paths were pruned


def test_batch_of_many_equals_batch_of_one_and_padding_is_not_read():
    log_probs = random_posteriors(3, 12, 6)
    lens = torch.tensor([12, 0, 7])
    together = ctc_prefix_beam(log_probs, lens, nbest=3)
    for b, n in enumerate(lens.tolist()):
        assert together[b] == ctc_prefix_beam(log_probs[b : b + 1, :n], lens[b : b + 1], nbest=3)[0]
    assert together[1][0].tokens == [] and together[1][0].score == 0


def test_times_are_those_of_the_likeliest_path():
    torch.manual_seed(0)
    log_probs = random_posteriors(6, 4)
    tokens = (2, 2, 1)
    paths = [p for p in itertools.product(range(4), repeat=6) if collapse(p) == tokens]
    best = max(paths, key=lambda p: sum(log_probs[t, k].item() for t, k in enumerate(p)))
    runs = [list(run) for k, run in itertools.groupby(range(6), key=lambda t: (best[t], _run(best, t))) if k[0] != 0]
    expected = [max(run, key=lambda t: log_probs[t, best[t]].item()) for run in runs]
    frames, confidences = ctc_times(log_probs.numpy(), list(tokens))
    assert frames == expected
    assert confidences == pytest.approx([log_probs[t, k].exp().item() for t, k in zip(frames, tokens, strict=True)])


def _run(path, t):
    """The first frame of the run that frame t belongs to."""
    while t and path[t - 1] == path[t]:
        t -= 1
    return t


def test_more_nbest_than_beam_is_refused():
    with pytest.raises(UserError, match="nbest 5 .* beam 4"):
        ctc_prefix_beam(random_posteriors(1, 3, 3), torch.tensor([3]), beam=4, nbest=5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(1, 700), st.integers(1, 300), st.floats(0, 1), st.integers(0, 10**6))
def test_the_likeliest_tokens_are_those_of_topk(frames, vocab, count, forbidden, seed):
    log_probs, count = random_posteriors(frames, vocab, seed=seed), min(count, vocab)
    log_probs = log_probs.masked_fill(torch.rand(frames, vocab) < forbidden, -math.inf)
    found = torch.from_numpy(ctc_kernels.likeliest_tokens(log_probs.numpy(), count)[0])
    assert all(len(set(row)) == count for row in found.tolist())
    assert torch.equal(log_probs.gather(1, found), log_probs.topk(count).values)  # of equal ones any will do
