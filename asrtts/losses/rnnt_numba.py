"""The Transducer lattice on CPU: one sequential pass forward and one back. Importing this file imports numba."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _log_add(a: float, b: float) -> float:
    if a == -math.inf:
        return b
    if b == -math.inf:
        return a
    if a > b:
        return a + math.log1p(math.exp(b - a))
    return b + math.log1p(math.exp(a - b))


@njit(cache=True, nogil=True)
def occupy(blank, label, frame_lens, token_lens, loglik):
    """Turn edge log-probabilities (B, T, U+1) into edge posteriors, in place; write log P(tokens) into loglik (B,).

    What lies beyond an utterance's lengths becomes zero, as does everything of an utterance of probability zero.
    """
    batch, frames, width = blank.shape
    alpha = np.empty((frames, width), dtype=np.float64)
    after = np.empty(width + 1, dtype=np.float64)  # beta of frame t + 1, overwritten by that of frame t
    for b in range(batch):
        last_t, last_u = frame_lens[b] - 1, token_lens[b]
        for t in range(last_t + 1):
            for u in range(last_u + 1):
                if t == 0 and u == 0:
                    alpha[0, 0] = 0.0
                    continue
                stay = alpha[t - 1, u] + blank[b, t - 1, u] if t > 0 else -math.inf
                move = alpha[t, u - 1] + label[b, t, u - 1] if u > 0 else -math.inf
                alpha[t, u] = _log_add(stay, move)
        total = alpha[last_t, last_u] + blank[b, last_t, last_u]
        loglik[b] = total
        if total == -math.inf:
            blank[b] = 0.0
            label[b] = 0.0
            continue
        after[:] = -math.inf
        after[last_u] = 0.0  # the node behind the last blank
        for t in range(last_t, -1, -1):
            right = -math.inf
            for u in range(last_u, -1, -1):
                stay = blank[b, t, u] + after[u]
                move = label[b, t, u] + right if u < last_u else -math.inf
                blank[b, t, u] = math.exp(alpha[t, u] + stay - total)
                label[b, t, u] = math.exp(alpha[t, u] + move - total)
                right = after[u] = _log_add(stay, move)
        blank[b, : last_t + 1, last_u + 1 :] = 0.0
        label[b, : last_t + 1, last_u + 1 :] = 0.0
        blank[b, last_t + 1 :] = 0.0
        label[b, last_t + 1 :] = 0.0
