"""Best path: repeats merged, blanks dropped, frames and confidences at the peak of a run."""

from __future__ import annotations

import math

import pytest
import torch

from asrtts.search.ctc_greedy import ctc_greedy


def posteriors(path, peaks, vocab=4):
    probs = torch.full((len(path), vocab), 0.0)
    for t, (k, p) in enumerate(zip(path, peaks, strict=True)):
        probs[t] = (1 - p) / (vocab - 1)
        probs[t, k] = p
    return probs.log()


def test_repeats_merge_blanks_part_and_the_peak_of_a_run_is_its_time():
    log_probs = posteriors([1, 1, 0, 1, 2, 2, 2, 0], [0.5, 0.9, 0.8, 0.7, 0.5, 0.6, 0.95, 0.9])[None]
    [[hyp]] = ctc_greedy(log_probs, torch.tensor([8]))
    assert hyp.tokens == [1, 1, 2]
    assert hyp.frames == [1, 3, 6]
    assert hyp.confidences == pytest.approx([0.9, 0.7, 0.95])
    assert hyp.score == pytest.approx(sum(map(math.log, [0.5, 0.9, 0.8, 0.7, 0.5, 0.6, 0.95, 0.9])))


def test_frames_beyond_the_length_are_not_read():
    log_probs = posteriors([0, 1, 2, 3], [0.9] * 4)[None].repeat(3, 1, 1)
    found = ctc_greedy(log_probs, torch.tensor([0, 2, 4]))
    assert [hyp.tokens for [hyp] in found] == [[], [1], [1, 2, 3]]
