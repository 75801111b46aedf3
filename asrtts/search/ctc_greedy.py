"""CTC best path: the likeliest token of each frame, repeats merged, blanks dropped."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from asrtts.search.hypothesis import Hypothesis
from asrtts.search.inputs import check_lens, refuse_nan


def ctc_greedy(log_probs: Tensor, lens: Tensor, blank_id: int = 0) -> list[list[Hypothesis]]:
    """Best path of each utterance, as an n-best list of one.

    A token stands at the frame of its run where its posterior is highest, and that posterior is its confidence.
    The score is the log-probability of the path, which is a lower bound of that of the token sequence.

    Args:
        log_probs: (B, T, V), normalized over V.
        lens: (B,), valid frames.

    Raises:
        ValueError: lengths beyond the frames, or NaN; with the batch index and the value.
    """
    check_lens(lens, *log_probs.shape[:2])
    given = log_probs, lens
    best, path = log_probs.max(-1)  # (B, T) both
    best, path, lens = best.float().cpu().numpy(), path.cpu().numpy(), lens.cpu().numpy()
    found = [[_merge(path[b, :n], best[b, :n], blank_id)] for b, n in enumerate(lens)]
    if any(hyp.score != hyp.score for [hyp] in found):  # the greatest of a row that has a NaN is NaN, and so is the sum
        refuse_nan(*given)
    return found


def _merge(path: np.ndarray, best: np.ndarray, blank_id: int) -> Hypothesis:
    starts = np.flatnonzero(np.diff(path, prepend=-1))  # where a run of equal ids begins
    ends = np.flatnonzero(np.diff(path, append=-1)) + 1
    hypothesis = Hypothesis([], float(best.sum(dtype=np.float64)), steps=len(path))
    for start, end in zip(starts, ends, strict=True):
        if path[start] != blank_id:
            frame = start + int(best[start:end].argmax())
            hypothesis.tokens.append(int(path[start]))
            hypothesis.frames.append(int(frame))
            hypothesis.confidences.append(float(np.exp(best[frame])))
    return hypothesis
