"""CTC prefix probabilities against all paths, against a plain forward loop on long input, and their bookkeeping."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from asrtts.search.ctc_prefix_score import CtcPrefixScores

torch.set_num_threads(1)


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


def test_prefix_and_whole_sentence_probabilities_are_sums_over_all_paths():
    lens = torch.tensor([5, 3])
    log_probs = posteriors(2, 5, 3)
    scores = CtcPrefixScores(log_probs, lens)
    hypotheses = [[[]], [[]]]
    torch.manual_seed(2)
    for _ in range(4):
        found = scores.candidates()
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


def test_long_sharp_input_neither_underflows_nor_drifts():
    log_probs = (8 * posteriors(1, 1500, 20)).log_softmax(-1)
    path = log_probs[0].argmax(-1).tolist()
    tokens = collapse(path)
    scores = CtcPrefixScores(log_probs, torch.tensor([1500]))
    for token in tokens:
        ahead = scores.candidates()[0, 0, token].item()
        scores.advance(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[token]]))
    whole = scores.candidates()[0, 0, -1].item()
    likelihood = -F.ctc_loss(
        log_probs[0].double(), torch.tensor([tokens]), (1500,), (len(tokens),), reduction="sum"
    ).item()
    assert whole == pytest.approx(likelihood, rel=1e-6)
    assert likelihood - 1e-3 <= ahead < 0


def test_padding_of_any_content_and_a_change_of_the_batch_leave_the_scores():
    lens = torch.tensor([6, 4, 5])
    log_probs = posteriors(3, 6, 4)
    dirty = log_probs.clone()
    dirty[1, 4:], dirty[2, 5:] = 0.0, -math.inf
    tokens, parents = torch.tensor([[1, 2], [3, 3], [2, 1]]), torch.zeros(3, 2, dtype=torch.long)
    together = CtcPrefixScores(dirty, lens)
    together.advance(parents, tokens)
    left = torch.tensor([0, 2])
    together.keep(left)
    together.advance(torch.tensor([[1, 0], [1, 0]]), torch.tensor([[2, 2], [1, 3]]))
    found = together.candidates()
    for row, b in enumerate(left.tolist()):
        alone = CtcPrefixScores(log_probs[b : b + 1, : lens[b]], lens[b : b + 1])
        alone.advance(parents[b : b + 1], tokens[b : b + 1])
        alone.advance(torch.tensor([[1, 0]]), torch.tensor([[[2, 2], [1, 3]][row]]))
        torch.testing.assert_close(found[row], alone.candidates()[0])
