"""Lookups in the automaton of search/ngram.py, compiled by numba. Import inside a function: numba is slow to load.

The arcs of state s are first[s] to first[s + 1], by token; `shorter` is the state to fall back to, at the cost of
`backoff`; state 0 has a score for every token.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def scores(states, order, first, token, score, target, backoff, shorter, root, root_target):
    """Log-probabilities (N, V + 1) of what comes next in each state (N,), the last of them the end of the sentence."""
    count, vocab = len(states), len(root)
    out = np.empty((count, vocab), np.float32)
    chain, paid = np.empty(order + 1, np.int64), np.empty(order + 1, np.float32)
    for i in range(count):
        s, depth, cost = states[i], 0, np.float32(0.0)
        while s > 0:  # longest history first
            chain[depth], paid[depth] = s, cost
            cost += backoff[s]
            s = shorter[s]
            depth += 1
        for v in range(vocab):
            out[i, v] = root[v] + cost
        out[i, 0] = 0.0
        for d in range(depth - 1, -1, -1):  # a longer history writes over a shorter one
            for arc in range(first[chain[d]], first[chain[d] + 1]):
                out[i, token[arc]] = score[arc] + paid[d]
    return out


@njit(cache=True)
def advance(states, tokens, first, token, score, target, backoff, shorter, root, root_target):
    """The states (N,) after one token (N,) more."""
    after = np.empty(len(states), np.int64)
    for i in range(len(states)):
        s, v, found = states[i], tokens[i], False
        while s > 0:
            low, high = first[s], first[s + 1]
            while low < high:
                middle = (low + high) // 2
                if token[middle] < v:
                    low = middle + 1
                else:
                    high = middle
            if low < first[s + 1] and token[low] == v:
                after[i], found = target[low], True
                break
            s = shorter[s]
        if not found:
            after[i] = root_target[v]
    return after
