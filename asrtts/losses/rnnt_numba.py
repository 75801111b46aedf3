"""The Transducer loss on CPU: rows of float32 logits, and the lattice. Importing this file imports numba."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from asrtts.losses.rnnt import LEAST_GRADIENT
from asrtts.numba_helpers import F32, I32, LEAST, exp


@njit(fastmath={"contract", "reassoc", "nsz"}, nogil=True, error_model="numpy")
def log_sum_exp(row):
    """log of the sum of exp, float64. What equals the greatest is counted, only the rest is summed in float32: where
    one token is almost sure, the others' share of the sum would be lost beside its 1."""
    bits, greatest = row.view(I32), I32(-0x80000000)
    for v in range(row.shape[0]):  # as whole numbers, in which NaN is no trap: -0x80000000 < ... < -0.0 < 0.0 < inf
        greatest = max(greatest, I32(bits[v] ^ I32(I32(bits[v] >> I32(31)) & I32(0x7FFFFFFF))))
    peak = I32(greatest ^ I32(I32(greatest >> I32(31)) & I32(0x7FFFFFFF))).view(F32)
    if math.isinf(peak):
        return np.float64(peak)
    equal, rest = F32(0.0), F32(0.0)
    for v in range(row.shape[0]):
        x = F32(row[v] - peak)
        equal += F32(1.0) if x == F32(0.0) else F32(0.0)
        rest += F32(0.0) if x == F32(0.0) else exp(x, LEAST)
    return np.float64(peak) + math.log(np.float64(equal) + np.float64(rest))


@njit(nogil=True, cache=True)
def log_probs(first, last, logits, targets, frame_lens, token_lens, blank_id, log_sum, log_blank, log_label):
    """Frames first to last - 1 of (B * T) of logits (B, T, U+1, V) float32: the log-sum of every real row, and the
    log-probabilities of its two edges, (B, T, U+1) float64."""
    frames = logits.shape[1]
    for frame in range(first, last):
        b, t = divmod(frame, frames)
        if t < frame_lens[b]:
            for u in range(token_lens[b] + 1):
                row = logits[b, t, u]
                log_sum[b, t, u] = total = log_sum_exp(row)
                log_blank[b, t, u] = row[blank_id] - total
                log_label[b, t, u] = row[targets[b, u]] - total


@njit(fastmath={"contract"}, nogil=True, error_model="numpy")
def scale_softmax(row, log_sum, factor):
    """row = factor * exp(row - log_sum), in place: from one array into another that may be the same, LLVM would not
    vectorise."""
    near = F32(log_sum)  # row - near is exact where it matters
    scale = F32(factor * math.exp(np.float64(near) - log_sum))
    least = max(LEAST, F32(math.log2(LEAST_GRADIENT / abs(scale))))
    for v in range(row.shape[0]):
        row[v] = F32(exp(F32(row[v] - near), least) * scale)


@njit(nogil=True)
def of_edge(log_p, own, other):
    """p (own + other) - own, written so that nothing cancels where p is almost 1."""
    grad = math.exp(log_p) * other + math.expm1(log_p) * own
    return 0.0 if abs(grad) < LEAST_GRADIENT else grad


@njit(nogil=True, cache=True)
def gradient(
    first, last, logits, targets, frame_lens, token_lens, blank_id, log_sum, on_blank, on_label, faint, scale, grad
):
    """Write the gradient of those frames of logits into `grad`, or over the logits if `grad` is empty; zero beyond
    the lengths, and in rows that alignments pass with less than `faint` (B,)."""
    frames = logits.shape[1]
    for frame in range(first, last):
        b, t = divmod(frame, frames)
        real = token_lens[b] + 1 if t < frame_lens[b] else 0
        rows = grad[b, t] if grad.size else logits[b, t]
        for u in range(real):
            row, target, total = rows[u], targets[b, u], log_sum[b, t, u]
            blank, label = on_blank[b, t, u] * scale[b], on_label[b, t, u] * scale[b]
            if on_blank[b, t, u] + on_label[b, t, u] < faint[b] or abs(blank + label) < LEAST_GRADIENT:
                row[:] = F32(0.0)
                continue
            log_p, log_q = logits[b, t, u, blank_id] - total, logits[b, t, u, target] - total
            if grad.size:
                row[:] = logits[b, t, u]
            scale_softmax(row, total, blank + label)
            row[target] = of_edge(log_q, label, blank)
            row[blank_id] = of_edge(log_p, blank, label)
        rows[real:] = F32(0.0)


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
def occupy(first, last, blank, label, frame_lens, token_lens, loglik):
    """Turn edge log-probabilities (B, T, U+1) into edge posteriors, in place; write log P(tokens) into loglik (B,).

    What lies beyond an utterance's lengths becomes zero, as does everything of an utterance of probability zero.
    """
    frames, width = blank.shape[1:]
    alpha = np.empty((frames, width), dtype=np.float64)
    after = np.empty(width + 1, dtype=np.float64)  # beta of frame t + 1, overwritten by that of frame t
    for b in range(first, last):
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
