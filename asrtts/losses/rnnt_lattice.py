"""The sequential heart of the Transducer loss: the sum over all alignments, and the posterior of every edge.

Node (t, u): u tokens were emitted, frame t is being read. A blank leads to (t+1, u), token u to (t, u+1); the last
blank, from (T-1, U), ends the alignment. Graves 2012, section 2.4, equations 16 to 18. alpha + beta - log P cancels in
float32 (the gradient errs in its fourth digit), so the lattice is float64: T x U, not T x U x V, it costs nothing.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

NO_PATH = -float("inf")


def edge_posteriors(
    log_blank: Tensor, log_label: Tensor, logit_lens: Tensor, token_lens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """log P(tokens) (B,) and the posteriors of the blank and label edges, each (B, T, U+1), zero beyond the lengths.

    Args:
        log_blank, log_label: (B, T, U+1) float32 or float64, values beyond the lengths and labels of column U are
            never read. On CPU their memory is reused for the posteriors.
    """
    if log_blank.device.type == "cpu" and importlib.util.find_spec("numba"):
        from asrtts.losses.rnnt_numba import occupy
        from asrtts.numba_helpers import in_slices  # numba takes a second to import: only who trains pays

        loglik = torch.empty(len(log_blank), dtype=torch.float64)
        lens = logit_lens.contiguous(), token_lens.contiguous()  # other strides would be compiled anew
        in_slices(occupy, len(loglik), *(x.numpy() for x in (log_blank, log_label, *lens, loglik)))
        return loglik, log_blank, log_label
    return by_diagonals(log_blank, log_label, logit_lens, token_lens)


def by_diagonals(
    log_blank: Tensor, log_label: Tensor, logit_lens: Tensor, token_lens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`edge_posteriors` in torch operations: cells with t + u = d depend only on d - 1 and go together."""
    frames, width = log_blank.shape[1:]
    u = torch.arange(width, device=log_blank.device)
    d = torch.arange(frames + width - 1, device=log_blank.device)
    t = d[:, None] - u  # (D, U+1): the frame of cell (d, u)
    inside = (t >= 0) & (t < logit_lens[:, None, None]) & (u <= token_lens[:, None, None])  # (B, D, U+1)
    has_label = inside & (u < token_lens[:, None, None])
    is_last = inside & (t == logit_lens[:, None, None] - 1) & (u == token_lens[:, None, None])

    source = t.clamp(0, frames - 1)
    blank = log_blank[:, source, u].double().masked_fill(~inside, NO_PATH)
    label = log_label[:, source, u].double().masked_fill(~has_label, NO_PATH)
    end = blank.masked_fill(~is_last, NO_PATH)

    alpha = torch.full_like(blank, NO_PATH)
    alpha[:, 0, 0] = 0.0
    for i in range(1, len(d)):
        stay = alpha[:, i - 1] + blank[:, i - 1]
        alpha[:, i] = stay
        alpha[:, i, 1:] = torch.logaddexp(stay[:, 1:], alpha[:, i - 1, :-1] + label[:, i - 1, :-1])
    beta = torch.full((len(blank), len(d) + 1, width + 1), NO_PATH, dtype=blank.dtype, device=blank.device)
    for i in range(len(d) - 1, -1, -1):
        onward = torch.logaddexp(blank[:, i] + beta[:, i + 1, :-1], label[:, i] + beta[:, i + 1, 1:])
        beta[:, i, :-1] = torch.logaddexp(onward, end[:, i])

    total = beta[:, 0, 0]
    base = alpha - total.masked_fill(total == NO_PATH, 0.0)[:, None, None]
    through_blank = (base + torch.logaddexp(blank + beta[:, 1:, :-1], end)).exp()
    through_label = (base + label + beta[:, 1:, 1:]).exp()

    back = (torch.arange(frames, device=u.device)[:, None] + u)[None].expand_as(
        log_blank
    )  # cell (t, u) is at d = t + u
    through_blank, through_label = through_blank.gather(1, back), through_label.gather(1, back)
    return total, through_blank.to(log_blank.dtype), through_label.to(log_label.dtype)


def best_path(log_blank: Tensor, log_label: Tensor) -> list[tuple[int, int]]:
    """The most probable alignment of one utterance, by Viterbi's algorithm: its nodes (t, u) from (0, 0) to (T-1, U).

    Args:
        log_blank, log_label: (T, U+1); labels of column U are never read.
    """
    blank, label = log_blank.tolist(), log_label.tolist()
    frames, width = log_blank.shape
    best = [[0.0] * width for _ in range(frames)]
    by_label = [[False] * width for _ in range(frames)]
    for t in range(frames):
        for u in range(width):
            if t or u:
                stay = best[t - 1][u] + blank[t - 1][u] if t else NO_PATH
                move = best[t][u - 1] + label[t][u - 1] if u else NO_PATH
                best[t][u], by_label[t][u] = max(stay, move), t == 0 or move > stay
    t, u = frames - 1, width - 1
    path = [(t, u)]
    while t or u:
        t, u = (t, u - 1) if by_label[t][u] else (t - 1, u)
        path.append((t, u))
    return path[::-1]
