"""CTC prefix beam search: the likeliest token sequences, each the sum of its paths (Hannun et al. 2014)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from asrtts.registry import UserError
from asrtts.search.hypothesis import Hypothesis


def ctc_prefix_beam(
    log_probs: Tensor, lens: Tensor, beam: int = 10, nbest: int = 1, per_frame: int = 10, blank_id: int = 0
) -> list[list[Hypothesis]]:
    """The n best token sequences of each utterance, best first.

    The score is the log-probability of the sequence, summed over the paths that stayed in the beam: exact where the
    beam and `per_frame` hold everything, a lower bound otherwise. Frames and confidences come from the likeliest path
    of each sequence, as in the greedy search. Runs on the CPU; the candidates of a frame are picked where log_probs is.

    Args:
        log_probs: (B, T, V), normalized over V.
        lens: (B,), valid frames.
        per_frame: how many tokens, the likeliest ones, may extend a prefix at a frame.
    """
    from asrtts.search import ctc_kernels

    if nbest > beam:
        raise UserError(f"nbest {nbest} is more than beam {beam} can hold; raise beam")
    log_probs = log_probs.detach().float()
    likeliest = log_probs.topk(min(per_frame + 1, log_probs.shape[-1])).indices.cpu().numpy()  # one may be the blank
    log_probs = log_probs.cpu().contiguous()
    found = []
    for b, n in enumerate(lens.tolist()):
        rows = log_probs[b, :n].numpy()
        scores, nodes, parent, token = ctc_kernels.prefix_beam(rows, likeliest[b, :n], beam, blank_id)
        best = []
        for score, node in zip(scores[:nbest].tolist(), nodes[:nbest].tolist(), strict=True):
            tokens = []
            while node > 0:
                tokens.append(int(token[node]))
                node = int(parent[node])
            frames, confidences = ctc_times(rows, tokens[::-1], blank_id)
            best.append(Hypothesis(tokens[::-1], score, frames, confidences, steps=n))
        found.append(best)
    return found


def ctc_times(log_probs: np.ndarray, tokens: list[int], blank_id: int = 0) -> tuple[list[int], list[float]]:
    """Frame and posterior of each token on the likeliest CTC path of (T, V) that spells `tokens`."""
    from asrtts.search import ctc_kernels

    frames = ctc_kernels.align(log_probs, np.asarray(tokens, dtype=np.int64), blank_id)
    assert not tokens or frames[0] >= 0, f"{len(tokens)} tokens have no path through {len(log_probs)} frames"
    return frames.tolist(), np.exp(log_probs[frames, tokens]).tolist() if tokens else []
