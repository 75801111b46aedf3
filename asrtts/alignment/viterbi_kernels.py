"""The loops of the built-in aligner, compiled by numba. Import inside a function: numba is slow to load."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def best_path(scores, column, stay, first_arc, origin, weight, begin, end):
    """The likeliest way of T frames through a graph of S states.

    Args:
        scores: (T, K) float32, log-likelihood of each frame in each of the K kinds of states. column: (S,), of them.
        stay: (S,), log-probability to remain in a state.
        first_arc: (S + 1,); the arcs into state s are those from first_arc[s] on. At most 254 lead into one.
        origin, weight: (A,), where an arc comes from and its log-probability.
        begin, end: (S,), log-probability that a path begins there, or ends.

    Returns:
        The state of each frame (T,) and the path's log-probability, -inf if there is none.
    """
    frames, states = len(scores), len(column)
    back = np.zeros((frames, states), np.uint8)  # 0: remained; n: came by the n-th of its arcs
    old, new = np.empty(states), np.empty(states)
    for s in range(states):
        old[s] = begin[s] + scores[0, column[s]]
    for t in range(1, frames):
        row = scores[t]
        for s in range(states):
            best, by = old[s] + stay[s], 0
            for a in range(first_arc[s], first_arc[s + 1]):
                value = old[origin[a]] + weight[a]
                if value > best:
                    best, by = value, a - first_arc[s] + 1
            new[s] = best + row[column[s]]
            back[t, s] = by
        old, new = new, old
    state, best = 0, -np.inf
    for s in range(states):
        if old[s] + end[s] > best:
            state, best = s, old[s] + end[s]
    path = np.empty(frames, np.int32)
    for t in range(frames - 1, -1, -1):
        path[t] = state
        if back[t, state]:
            state = origin[first_arc[state] + back[t, state] - 1]
    return path, best


@njit(cache=True)
def log_sums(terms, first, sums):
    """sums[t, k] = log of the sum of exp(terms[t, i]) over i from first[k] to first[k + 1]."""
    for t in range(len(terms)):
        for k in range(len(first) - 1):
            most = terms[t, first[k]]
            for i in range(first[k] + 1, first[k + 1]):
                most = max(most, terms[t, i])
            total = np.float32(0.0)
            for i in range(first[k], first[k + 1]):
                total += np.exp(terms[t, i] - most)
            sums[t, k] = most + np.log(total)
