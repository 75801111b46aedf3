"""The loops of CTC decoding that are too small for tensors, compiled by numba. Import inside a function: numba is slow
to load and only prefix search and alignment need it.
"""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
from numba import njit

from asrtts.numba_helpers import F32, LEAST, exp

GROUPS = 128  # of 64 to 512 the quickest for 500 and for 4000 tokens


@njit(cache=True)
def likeliest_tokens(log_probs, count):
    """(T, count): ids of the greatest of each row of log_probs (T, V), greatest first; and whether NaN was among them.

    Tokens that are GROUPS apart are one group. The greatest lie in the `count` groups with the greatest maxima, and
    maxima are quickly found: torch's topk takes 3 to 4 times as long for 500 tokens and more.
    """
    frames, vocab = log_probs.shape
    found, groups = np.empty((frames, count), np.int64), np.empty(count, np.int64)
    maxima, values = np.empty(min(GROUPS, vocab), np.float32), np.empty((2, count), np.float32)
    sums = np.zeros(len(maxima), np.float32)  # of a NaN it is NaN
    for t in range(frames):
        row, held = log_probs[t], 0
        _maxima(row, maxima, sums)
        for i in range(len(maxima)):
            held = _rank(maxima[i], i, values[0], groups, held)
        chosen, held = groups[:held], 0
        for i in chosen:
            for v in range(i, vocab, GROUPS):
                held = _rank(row[v], v, values[1], found[t], held)
    return found, np.isnan(sums).any()


@njit
def _maxima(row, maxima, sums):
    """The maximum of each group, and what its members add to the sums. No `max()`, which would look for NaN itself."""
    size = len(maxima)
    maxima[:] = row[:size]
    sums += row[:size]
    for start in range(size, len(row), size):
        part = row[start : start + size]
        for i in range(len(part)):
            sums[i] += part[i]
            maxima[i] = part[i] if part[i] > maxima[i] else maxima[i]


@njit
def _rank(value, number, values, numbers, held):
    """Put a value and its number into lists of the greatest, greatest first. Returns how many they hold."""
    if held == len(values) and not value > values[-1]:
        return held
    i = min(held, len(values) - 1)
    while i > 0 and values[i - 1] < value:
        values[i], numbers[i] = values[i - 1], numbers[i - 1]
        i -= 1
    values[i], numbers[i] = value, number
    return min(held + 1, len(values))


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
    tree, table, held, paths = _one(start_beams(1, frames, beam), 0)
    ahead, most = np.zeros((beam, vocab), np.float32), np.zeros(beam, np.float32)
    spare = np.empty((4, beam))
    for t in range(frames):
        _read_frame(log_probs[t], likeliest[t], ahead, most, blank_id, tree, table, held, paths, spare)
    live, nodes = tree.size[0], tree.size[1]
    return paths[2, :live].copy(), held[0, :live].copy(), tree.parent[:nodes], tree.token[:nodes]


@njit(cache=True)
def prefix_frame(t, lens, log_probs, likeliest, ahead, blank_id, beams):
    """One frame of many utterances, with what a language model adds to each token behind each prefix of the beams.

    Afterwards held[b, 1] are the places that the prefixes of utterance b come from, held[b, 2] their new tokens or -1.

    Args:
        t: the frame. lens: (B,). log_probs: (B, T, V). likeliest: (B, T, C).
        ahead: (B, K, V + 1).
        beams: what `start_beams` gave.
    """
    beam = ahead.shape[1]
    most, spare = np.empty(beam, np.float32), np.empty((4, beam))
    for b in range(len(lens)):
        tree, table, held, paths = _one(beams, b)
        live = 0
        if t < lens[b]:
            for h in range(tree.size[0]):
                most[h] = ahead[b, h].max()
            _read_frame(log_probs[b, t], likeliest[b, t], ahead[b], most, blank_id, tree, table, held, paths, spare)
            live = tree.size[0]
        for i in range(live, beam):
            held[1, i], held[2, i] = i, -1


Tree = namedtuple("Tree", "parent token place added size")  # size: prefixes in the beam, nodes


@njit(cache=True)
def start_beams(utterances, frames, beam):
    """The empty prefix, for B utterances: their trees, hash tables and beams.

    tree.place is that of a node in the beam or -1, tree.added what language models have added to it.
    held (B, 3, K): the node of each prefix, then the place that it comes from, and its new token or -1.
    paths (B, 3, K): log-probability of the paths that end in blank, in the prefix's last token, and in any.
    """
    most = frames * beam + 1
    size = 16
    while size < 2 * most:
        size *= 2
    shape = (utterances, most)
    tree = Tree(
        np.full(shape, -1, np.int64),
        np.full(shape, -1, np.int64),
        np.full(shape, -1, np.int64),
        np.zeros(shape),
        np.ones((utterances, 2), np.int64),
    )
    tree.place[:, 0] = 0
    held, paths = np.zeros((utterances, 3, beam), np.int64), np.zeros((utterances, 3, beam))
    paths[:, 1] = -np.inf
    return tree, np.full((utterances, 2, size), -1, np.int64), held, paths


@njit(cache=True)
def _one(beams, b):
    tree, table, held, paths = beams
    tree = Tree(tree.parent[b], tree.token[b], tree.place[b], tree.added[b], tree.size[b])
    return tree, table[b], held[b], paths[b]


@njit(cache=True)
def _read_frame(row, likeliest, ahead, most, blank_id, tree, table, held, paths, spare):
    """Grow the beam by one frame. most (K,): the largest of each row of `ahead`."""
    vocab, beam, found = len(row), held.shape[1], 0
    parent, token, place, added, (live, nodes) = tree.parent, tree.token, tree.place, tree.added, tree.size
    node, source, choice = held
    blank, label, total = paths
    keys, values = table
    blank2, label2, total2, rank2 = spare
    for g in range(live):
        to_blank, to_label, v = total[g] + row[blank_id], -np.inf, node[g]
        if v > 0:
            to_label = label[g] + row[token[v]]
            h = place[parent[v]]
            if h >= 0:  # the shorter prefix is in the beam too and may grow into this one
                before = blank[h] if token[node[h]] == token[v] else total[h]
                to_label = _add(to_label, before + row[token[v]])
        found = _insert(g, -1, to_blank, to_label, added[v], found, held, spare)
    for h in range(live):
        for c in likeliest:
            if found == beam and total[h] + row[c] + added[node[h]] + most[h] <= rank2[beam - 1]:
                break  # the next ones are less likely still
            if c == blank_id:
                continue
            to_label = (blank[h] if token[node[h]] == c else total[h]) + row[c]
            slot = _slot(keys, node[h] * vocab + c)
            if keys[slot] >= 0 and place[values[slot]] >= 0:
                continue  # counted above
            found = _insert(h, c, -np.inf, to_label, added[node[h]] + ahead[h, c], found, held, spare)
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
                added[nodes] = added[v] + ahead[source[i], choice[i]]
                nodes += 1
            v = values[slot]
        rank2[i] = v  # the nodes are needed until all are read
        place[v] = i
    for i in range(found):
        node[i] = np.int64(rank2[i])
    tree.size[0], tree.size[1] = found, nodes
    blank[:found], label[:found], total[:found] = blank2[:found], label2[:found], total2[:found]


@njit(cache=True)
def score_options(log_probs, lens, utterances, either, blank, last, options, blank_id, found):
    """Write what `CtcPrefixScores.candidates` returns into found (B, K, C).

    Args:
        log_probs: (N, T, V); that of utterance b is number utterances[b], of which lens[b] frames are read.
        either, blank: (B, K, T + 1), after t frames. last: (B, K).
        options: (B, K, C).
    """
    vocab, count = log_probs.shape[2], options.shape[2]
    weights, chances, sums = np.empty(log_probs.shape[1], np.float32), np.empty(count, np.float32), np.empty(count)
    for b in range(options.shape[0]):
        frames, rows = lens[b], log_probs[utterances[b]]
        for k in range(options.shape[1]):
            columns, repeated = np.minimum(options[b, k], vocab - 1), last[b, k]
            peak = -1e30  # less than anything; of a prefix without a path all differences are still -inf
            for t in range(frames):
                peak = max(peak, either[b, k, t])
            for t in range(frames):
                weights[t] = exp(F32(either[b, k, t] - peak), LEAST)
            sums[:] = 0.0
            for t in range(frames):
                if weights[t] < 1e-30:  # most frames: a prefix ends in few places
                    continue
                for i in range(count):
                    chances[i] = rows[t, columns[i]]
                for i in range(count):
                    sums[i] += weights[t] * exp(chances[i], LEAST)
            for i in range(count):
                v = options[b, k, i]
                if v == vocab:
                    found[b, k, i] = either[b, k, frames]
                    continue
                if v == repeated:  # it needs a blank between
                    sums[i] = 0.0
                    for t in range(frames):
                        sums[i] += math.exp(blank[b, k, t] - peak + rows[t, v])
                found[b, k, i] = peak + math.log(sums[i]) if sums[i] > 0.0 and v != blank_id else -np.inf


@njit(cache=True)
def grow_prefixes(log_probs, lens, utterances, parents, tokens, either, blank, last, blank_id, either2, blank2):
    """Forward variables either2, blank2 (B, K', T + 1) of prefix `parents` plus `tokens`, both (B, K')."""
    for b in range(tokens.shape[0]):
        rows = log_probs[utterances[b]]
        for k in range(tokens.shape[1]):
            parent, token, label = parents[b, k], tokens[b, k], -np.inf
            before = blank[b, parent] if token == last[b, parent] else either[b, parent]
            either2[b, k, 0] = blank2[b, k, 0] = -np.inf
            for t in range(lens[b]):
                label = _add(label, before[t]) + rows[t, token]
                blank2[b, k, t + 1] = either2[b, k, t] + rows[t, blank_id]
                either2[b, k, t + 1] = _add(label, blank2[b, k, t + 1])


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
    # Of less than e^-37 of the greater no digit would be left; it is also -inf, and then -inf - -inf is no number.
    return a + math.log1p(math.exp(b - a)) if b - a > -37.0 else a


@njit(cache=True)
def _slot(keys, key):
    """Where a key stands in the table, or the free place where it belongs (linear probing)."""
    slot = ((key * 0x9E3779B97F4A7C1) >> 20) & (len(keys) - 1)
    while keys[slot] >= 0 and keys[slot] != key:
        slot = (slot + 1) & (len(keys) - 1)
    return slot


@njit(cache=True)
def _insert(h, c, to_blank, to_label, added, found, held, spare):
    """Put a candidate into the lists, which hold at most `beam`, best first. Returns how many they hold."""
    source, choice = held[1], held[2]
    blank, label, total, rank = spare
    paths, beam = _add(to_blank, to_label), len(total)
    score = paths + added
    if paths == -np.inf or (found == beam and score <= rank[beam - 1]):
        return found
    i = min(found, beam - 1)
    while i > 0 and rank[i - 1] < score:
        source[i], choice[i], blank[i], label[i], total[i], rank[i] = (
            source[i - 1],
            choice[i - 1],
            blank[i - 1],
            label[i - 1],
            total[i - 1],
            rank[i - 1],
        )
        i -= 1
    source[i], choice[i], blank[i], label[i], total[i], rank[i] = h, c, to_blank, to_label, paths, score
    return min(found + 1, beam)
