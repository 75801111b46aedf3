"""The loops of CTC decoding that are too small for tensors, compiled by numba. Import inside a function: numba is slow
to load and only prefix search and alignment need it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True)
def prefix_beam(log_probs, likeliest, beam, blank_id):
    """Prefix search over one utterance (Hannun et al. 2014, without a language model).

    Prefixes are nodes of a tree, so equal prefixes are one node and merge exactly, even if one left the beam and
    came back. The tree is found through a table keyed by (parent node, token) and grows by survivors only.

    Args:
        log_probs: (T, V).
        likeliest: (T, C), ids worth an extension at each frame, likeliest first.

    Returns:
        scores (K,), nodes (K,), best first, and the tree: parent and token of each node; node 0 is the empty prefix.
    """
    frames, vocab = log_probs.shape
    most = frames * beam + 1
    parent, token = np.full(most, -1, np.int64), np.full(most, -1, np.int64)
    place = np.full(most, -1, np.int64)  # of a node in the beam; -1: not there
    size = 16
    while size < 2 * most:
        size *= 2
    keys, values = np.full(size, -1, np.int64), np.empty(size, np.int64)
    # The beam, and the one of the next frame: node, log-probability of paths that end in blank, in its token, in any.
    node, blank, label, total = np.zeros(beam, np.int64), np.zeros(beam), np.full(beam, -np.inf), np.zeros(beam)
    source, choice = np.empty(beam, np.int64), np.empty(beam, np.int64)  # choice -1: the prefix stays as it is
    blank2, label2, total2 = np.empty(beam), np.empty(beam), np.empty(beam)
    node2 = np.empty(beam, np.int64)
    live, nodes, place[0] = 1, 1, 0
    for t in range(frames):
        row, found = log_probs[t], 0
        for g in range(live):
            to_blank, to_label, v = total[g] + row[blank_id], -np.inf, node[g]
            if v > 0:
                to_label = label[g] + row[token[v]]
                h = place[parent[v]]
                if h >= 0:  # the shorter prefix is in the beam too and may grow into this one
                    before = blank[h] if token[node[h]] == token[v] else total[h]
                    to_label = _add(to_label, before + row[token[v]])
            found = _insert(g, -1, to_blank, to_label, found, source, choice, blank2, label2, total2)
        for h in range(live):
            for c in likeliest[t]:
                if found == beam and total[h] + row[c] <= total2[beam - 1]:
                    break  # the next ones are less likely still
                if c == blank_id:
                    continue
                to_label = (blank[h] if token[node[h]] == c else total[h]) + row[c]
                child = values[_slot(keys, node[h] * vocab + c)]
                known = keys[_slot(keys, node[h] * vocab + c)] >= 0
                if known and place[child] >= 0:
                    continue  # counted above
                found = _insert(h, c, -np.inf, to_label, found, source, choice, blank2, label2, total2)
        for g in range(live):
            place[node[g]] = -1
        for i in range(found):
            v = node[source[i]]
            if choice[i] >= 0:
                key = v * vocab + choice[i]
                slot = _slot(keys, key)
                if keys[slot] < 0:
                    keys[slot], values[slot] = key, nodes
                    parent[nodes], token[nodes] = v, choice[i]
                    nodes += 1
                v = values[slot]
            node2[i] = v
            place[v] = i
        live = found
        node[:live], blank[:live], label[:live] = node2[:live], blank2[:live], label2[:live]
        total[:live] = total2[:live]
    return total[:live].copy(), node[:live].copy(), parent[:nodes], token[:nodes]


@njit(cache=True)
def align(log_probs, tokens, blank_id):
    """Frames of the tokens (U,) on their likeliest path (Viterbi): of each run the frame of highest posterior.

    All -1 if no path of T frames has these tokens.
    """
    frames, count = log_probs.shape[0], len(tokens)
    states = 2 * count + 1  # blank, token, blank, token, ..., blank
    score, moved = np.full(states, -np.inf), np.zeros((frames, states), np.int8)
    where, peak = np.full(count, -1, np.int64), np.full(count, -np.inf)
    for t in range(frames):
        for s in range(states - 1, -1, -1):  # downwards: the scores below are still those of the frame before
            best, step = score[s], 0
            if t == 0:
                best = 0.0 if s <= 1 else -np.inf
            else:
                if s >= 1 and score[s - 1] > best:
                    best, step = score[s - 1], 1
                if s >= 2 and s % 2 == 1 and tokens[s // 2] != tokens[s // 2 - 1] and score[s - 2] > best:
                    best, step = score[s - 2], 2
            score[s] = best + log_probs[t, tokens[s // 2] if s % 2 == 1 else blank_id]
            moved[t, s] = step
    s = states - 1
    if count > 0 and score[s - 1] > score[s]:
        s -= 1
    if frames == 0 or score[s] == -np.inf:
        return where
    for t in range(frames - 1, -1, -1):
        if s % 2 == 1 and log_probs[t, tokens[s // 2]] >= peak[s // 2]:
            where[s // 2], peak[s // 2] = t, log_probs[t, tokens[s // 2]]
        s -= moved[t, s]
    return where


@njit(cache=True)
def _add(a, b):
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == -np.inf else a + math.log1p(math.exp(b - a))


@njit(cache=True)
def _slot(keys, key):
    """Where a key stands in the table, or the free place where it belongs (linear probing)."""
    slot = ((key * 0x9E3779B97F4A7C1) >> 20) & (len(keys) - 1)
    while keys[slot] >= 0 and keys[slot] != key:
        slot = (slot + 1) & (len(keys) - 1)
    return slot


@njit(cache=True)
def _insert(h, c, to_blank, to_label, found, source, choice, blank, label, total):
    """Put a candidate into the lists, which hold at most `beam`, best first. Returns how many they hold."""
    score, beam = _add(to_blank, to_label), len(total)
    if score == -np.inf or (found == beam and score <= total[beam - 1]):
        return found
    i = min(found, beam - 1)
    while i > 0 and total[i - 1] < score:
        source[i], choice[i], blank[i], label[i], total[i] = (
            source[i - 1],
            choice[i - 1],
            blank[i - 1],
            label[i - 1],
            total[i - 1],
        )
        i -= 1
    source[i], choice[i], blank[i], label[i], total[i] = h, c, to_blank, to_label, score
    return min(found + 1, beam)
