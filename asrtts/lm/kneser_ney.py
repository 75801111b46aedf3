"""Modified Kneser-Ney estimation of n-grams (Chen and Goodman 1999, section 3), interpolated, three discounts an order.

The highest order counts how often an n-gram was seen; the lower ones count the different tokens that it was seen after,
except where nothing but the start of a sentence can stand before. The unigrams are interpolated with the uniform
distribution, so that no token is impossible.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from asrtts.config import warn
from asrtts.registry import UserError
from asrtts.search.ngram import Ngrams

FALLBACK = np.array([0.0, 0.5, 1.0, 1.5])  # discounts of an order whose counts of counts give none, as KenLM's


def estimate(sentences: Iterable[Sequence[int]], order: int, vocab_size: int) -> Ngrams:
    """The model of sentences of token ids 1 to V - 1. Warns of an order with too little text for its discounts.

    Memory is about 40 bytes a token and order.

    Raises:
        UserError: there is no token in the text.
    """
    assert order >= 1
    eos, bos = vocab_size, vocab_size + 1
    sentences = [[bos, *tokens, eos] for tokens in sentences]
    lens = np.array([len(s) for s in sentences], dtype=np.int64)
    if not (lens > 2).any():
        raise UserError("no text to estimate a language model from: every sentence is empty")
    text = np.concatenate([np.asarray(s, dtype=np.int64) for s in sentences])
    place = np.arange(len(text)) - np.repeat(lens.cumsum() - lens, lens)  # of a token in its sentence
    levels = _levels(text, place, order, vocab_size + 2)

    tokens, log_probs, backoffs = [], [], []
    probs, poor = np.zeros(0), []
    for n, level in enumerate(levels, 1):
        counts = _counts(level, levels[n] if n < order else None, bos)
        discounts = _discounts(counts)
        if discounts is None:
            discounts, poor = FALLBACK, [*poor, *([str(n)] if len(counts) else [])]
        taken = np.where(counts > 0, discounts[np.minimum(counts, 3)], 0.0)
        if n == 1:
            gamma = taken.sum() / counts.sum()
            probs = (counts - taken) / counts.sum() + gamma / vocab_size  # V - 1 tokens and the end are possible
            probs[[0, bos]] = 0.0
        else:
            contexts = len(levels[n - 2].tokens)
            whole = np.bincount(level.context, counts, contexts)
            seen = whole > 0  # an end of a sentence is never a context
            gamma = np.divide(np.bincount(level.context, taken, contexts), whole, out=np.ones(contexts), where=seen)
            probs = (counts - taken) / whole[level.context] + gamma[level.context] * probs[level.suffix]
            backoffs.append(np.log(gamma))
        tokens.append(level.tokens)
        log_probs.append(np.log(probs, out=np.full(len(probs), -np.inf), where=probs > 0))
    backoffs.append(np.zeros(len(levels[-1].tokens)))
    if poor:
        fixed = ", ".join(f"{discount:g}" for discount in FALLBACK[1:])
        warn(f"too little text to estimate the discounts of order {', '.join(poor)}; {fixed} are taken")
    return Ngrams(vocab_size, tokens, log_probs, backoffs).without_impossible_unigrams()


@dataclass
class _Level:
    """The different n-grams (N, n) of the text, and where their parts stand one level below."""

    tokens: np.ndarray
    seen: np.ndarray  # (N,), how often
    context: np.ndarray  # (N,), all but the last token
    suffix: np.ndarray  # (N,), all but the first token


def _levels(text: np.ndarray, place: np.ndarray, order: int, base: int) -> list[_Level]:
    """Each level numbers its n-grams; a number and the next token name an n-gram of the level above."""
    unigrams = np.arange(base)
    none = np.zeros(0, dtype=np.int64)
    levels = [_Level(unigrams[:, None], np.bincount(text[place > 0], minlength=base), none, none)]
    below = text  # number of the n-gram that ends at each place of the text
    for n in range(2, order + 1):
        at = np.flatnonzero(place >= n - 1)
        keys, first, number, seen = np.unique(
            below[at - 1] * base + text[at], return_index=True, return_inverse=True, return_counts=True
        )
        tokens = np.column_stack([levels[-1].tokens[keys // base], keys % base])
        levels.append(_Level(tokens, seen, keys // base, below[at[first]]))
        below = np.full(len(text), -1)
        below[at] = number
    return levels


def _counts(level: _Level, above: _Level | None, bos: int) -> np.ndarray:
    if above is None:
        return level.seen
    after = np.bincount(above.suffix, minlength=len(level.tokens))  # how many different tokens stand before
    return np.where(level.tokens[:, 0] == bos, level.seen, after)


def _discounts(counts: np.ndarray) -> np.ndarray | None:
    """What is taken from an n-gram counted 0, 1, 2, and 3 or more times (eq. 26); None: the counts give none."""
    n1, n2, n3, n4 = (np.count_nonzero(counts == c) for c in (1, 2, 3, 4))
    if min(n1, n2, n3) == 0:
        return None
    share = n1 / (n1 + 2 * n2)
    discounts = np.array([0.0, 1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3])
    return discounts if (discounts[1:] > 0).all() else None
