"""N-grams with back-off, as the automaton that a search walks through.

A state is what the model remembers: the longest end of the history that it knows as a context. Each state has arcs for
the tokens that were seen after it, and falls back to a shorter state for all others. All states lie in flat arrays, so
that many are looked up in one call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asrtts.search.language_model import State

NEVER = -99 * np.log(10)  # what ARPA files write for zero probability: adding it can be undone, minus infinity not


@dataclass
class Ngrams:
    """A back-off model as an ARPA file has it; entry n - 1 of each list is of the n-grams.

    Ids: 1 to V - 1 are tokens, V is the end of a sentence and V + 1 its start.
    """

    vocab_size: int  # V, the blank (id 0) included
    tokens: list[np.ndarray]  # (N, n)
    log_probs: list[np.ndarray]  # (N,), natural
    backoffs: list[np.ndarray]  # (N,), natural; zero for the highest order

    @property
    def order(self) -> int:
        return len(self.tokens)

    def without_impossible_unigrams(self) -> Ngrams:
        """The blank is no unigram; the start is one, which is never predicted but is a context."""
        kept = self.tokens[0][:, 0] != 0
        first = [x[0][kept] for x in (self.tokens, self.log_probs, self.backoffs)]
        rest = (x[1:] for x in (self.tokens, self.log_probs, self.backoffs))
        return Ngrams(self.vocab_size, *([one, *more] for one, more in zip(first, rest, strict=True)))


class NgramModel:
    """A LanguageModel of search/language_model.py; its state is the number of a state of the automaton, (N,)."""

    def __init__(self, ngrams: Ngrams) -> None:
        self.vocab_size, self.order = ngrams.vocab_size, ngrams.order
        self.arrays, self.first_state = _automaton(ngrams)

    def start(self, count: int, device: torch.device) -> tuple[Tensor, State]:
        states = np.full(count, self.first_state, dtype=np.int64)
        return self._scores(states, device), (torch.from_numpy(states).to(device),)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        from asrtts.search import ngram_kernels

        after = ngram_kernels.advance(state[0].cpu().numpy(), tokens.cpu().numpy(), *self.arrays)
        return self._scores(after, tokens.device), (torch.from_numpy(after).to(tokens.device),)

    def _scores(self, states: np.ndarray, device: torch.device) -> Tensor:
        from asrtts.search import ngram_kernels

        return torch.from_numpy(ngram_kernels.scores(states, self.order, *self.arrays)).to(device)


def _automaton(ngrams: Ngrams) -> tuple[tuple[np.ndarray, ...], int]:
    """The arrays that ngram_kernels walks through, and the state at the start of a sentence. State 0 knows nothing."""
    base, eos, bos = ngrams.vocab_size + 2, ngrams.vocab_size, ngrams.vocab_size + 1
    grams, scores, backs = _sorted(ngrams, base)
    ids = _Numbers(grams, base)
    # leads[n][i]: the state that a history ending in this (n + 1)-gram is in.
    leads: list[np.ndarray] = []
    source, token, score, target = [], [], [], []
    backoff, shorter = [np.zeros(1)], [np.zeros(1, dtype=np.int64)]
    states = 1
    for n, rows in enumerate(grams, 1):
        rest = np.zeros(len(rows), dtype=np.int64)  # the state of the longest known end that is shorter
        for k in range(1, n):
            found = ids.find(rows[:, n - k :])
            rest = np.where(found >= 0, leads[k - 1][found], rest)
        is_state = np.zeros(len(rows), dtype=bool)
        if n < len(grams):
            context = ids.find(grams[n][:, :-1])
            assert (context >= 0).all(), f"a {n + 1}-gram's context is no {n}-gram"
            is_state[context] = True
            is_state |= backs[n - 1] != 0
        lead = rest.copy()
        lead[is_state] = states + np.arange(is_state.sum())
        states += int(is_state.sum())
        backoff.append(backs[n - 1][is_state])
        shorter.append(rest[is_state])
        if n > 1:
            source.append(leads[n - 2][ids.find(rows[:, :-1])])
            token.append(rows[:, -1])
            score.append(scores[n - 1])
            target.append(lead)
        leads.append(lead)
    source, token, score, target = (np.concatenate(x) if x else np.zeros(0) for x in (source, token, score, target))
    order = np.argsort(source, kind="stable")  # tokens of a state stay sorted
    ends = np.bincount(source.astype(np.int64), minlength=states).cumsum()
    root, root_target = np.full(base, NEVER), np.zeros(base, dtype=np.int64)
    root[grams[0][:, 0]], root_target[grams[0][:, 0]] = scores[0], leads[0]
    root[0] = 0.0  # the blank is no token: the model says nothing of it
    arrays = (
        np.concatenate([[0], ends]).astype(np.int64),
        token[order].astype(np.int32),
        score[order].astype(np.float32),
        target[order].astype(np.int32),
        np.concatenate(backoff).astype(np.float32),
        np.concatenate(shorter).astype(np.int32),
        root[: eos + 1].astype(np.float32),
        root_target[: eos + 1].astype(np.int32),
    )
    return arrays, int(root_target[bos])


def _sorted(ngrams: Ngrams, base: int) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """The n-grams of each order in the order of their ids, with finite scores."""
    grams, scores, backs = [], [], []
    for rows, score, back in zip(ngrams.tokens, ngrams.log_probs, ngrams.backoffs, strict=True):
        order = np.lexsort(rows.T[::-1]) if len(rows) else np.zeros(0, dtype=np.int64)
        grams.append(rows[order].astype(np.int64))
        scores.append(np.maximum(score[order], NEVER))
        backs.append(np.maximum(back[order], NEVER))
    return grams, scores, backs


class _Numbers:
    """Finds the number of an n-gram: that of its context and its last token name it, level by level."""

    def __init__(self, grams: list[np.ndarray], base: int) -> None:
        self.base = base
        self.keys: list[np.ndarray] = []
        for rows in grams:
            above = self.find(rows[:, :-1]) if self.keys else np.zeros(len(rows), dtype=np.int64)
            self.keys.append(above * base + rows[:, -1])  # ascending, as the rows are; negative: no context

    def find(self, rows: np.ndarray) -> np.ndarray:
        """(M, k) -> (M,); -1 for a k-gram that is not there."""
        found = np.zeros(len(rows), dtype=np.int64)
        for k in range(rows.shape[1]):
            key, keys = found * self.base + rows[:, k], self.keys[k]
            place = np.searchsorted(keys, key)
            there = (found >= 0) & (place < len(keys))
            there[there] = keys[place[there]] == key[there]
            found = np.where(there, place, -1)
        return found
