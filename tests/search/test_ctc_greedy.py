"""Best path: repeats merged, blanks dropped, frames and confidences at the peak of a run."""

from __future__ import annotations

import math

import pytest
import torch

from asrtts.search.ctc_greedy import ctc_greedy
from asrtts.search.ctc_prefix import ctc_prefix_beam


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


SEARCHES = {"greedy": ctc_greedy, "beam": ctc_prefix_beam}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("lens, said", [([2, 5], r"lens\[1\] is 5, wanted 0 to 4"), ([-1, 4], r"lens\[0\] is -1")])
def test_a_length_beyond_the_frames_is_refused(search, lens, said):
    log_probs = posteriors([0, 1, 2, 3], [0.9] * 4)[None].repeat(2, 1, 1)
    with pytest.raises(ValueError, match=said):
        search(log_probs, torch.tensor(lens))
    for wrong in (torch.tensor([2]), torch.tensor([2.0, 4.0])):
        with pytest.raises(ValueError, match="lens: wanted 2 whole numbers"):
            search(log_probs, wrong)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_nan_is_refused_but_for_the_padding(search):
    log_probs = posteriors([0, 1, 2, 3], [0.9] * 4)[None].repeat(2, 1, 1)
    log_probs[0, :, 3] = -math.inf  # a token that is forbidden
    log_probs[1, 3, 2] = math.nan
    assert [hyps[0].tokens for hyps in search(log_probs, torch.tensor([3, 3]))] == [[1, 2], [1, 2]]
    with pytest.raises(ValueError, match=r"log_probs\[1, 3, 2\] is nan"):
        search(log_probs, torch.tensor([3, 4]))


def test_frames_beyond_the_length_are_not_read():
    log_probs = posteriors([0, 1, 2, 3], [0.9] * 4)[None].repeat(3, 1, 1)
    found = ctc_greedy(log_probs, torch.tensor([0, 2, 4]))
    assert [hyp.tokens for [hyp] in found] == [[], [1], [1, 2, 3]]
