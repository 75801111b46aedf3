"""How sure an error rate is: confidence intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 5000
# The same seed for every system: all are judged on the same resampled test sets.
SEED = 1

# Utterance draws held at once, 32 MB of indices.
_DRAWS = 4_000_000


def interval(
    errors: np.ndarray, lengths: np.ndarray, groups: Sequence[str] | None = None, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of the error rate sum(errors) / sum(lengths), as fractions.

    Whole utterances are drawn with replacement, since errors within one utterance go together. With `groups` (one
    name an utterance) whole groups are drawn: speakers differ more than their utterances, so this interval says what
    to expect of other speakers, and is wider. Bisani and Ney 2004.

    Args:
        errors: (N,) errors of every utterance.
        lengths: (N,) reference tokens of every utterance.

    Returns:
        None where there is nothing to draw from: no reference tokens, or a single group.
    """
    errors, lengths = np.asarray(errors, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    assert errors.shape == lengths.shape and errors.ndim == 1
    if groups is not None:
        names, group = np.unique(np.asarray(groups), return_inverse=True)
        errors = np.bincount(group, weights=errors, minlength=len(names))
        lengths = np.bincount(group, weights=lengths, minlength=len(names))
    if lengths.sum() == 0 or (groups is not None and len(errors) < 2):
        return None
    rates = _resampled_rates(errors, lengths)
    tail = (1 - level) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return float(low), float(high)


def _resampled_rates(errors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The error rate of every resampled test set: (RESAMPLES,), less those that drew no reference tokens."""
    random = np.random.default_rng(SEED)
    rates = []
    at_once = max(1, _DRAWS // len(errors))
    for first in range(0, RESAMPLES, at_once):
        drawn = random.integers(len(errors), size=(min(at_once, RESAMPLES - first), len(errors)))
        total = lengths[drawn].sum(axis=1)
        rates.append(errors[drawn].sum(axis=1)[total > 0] / total[total > 0])
    return np.concatenate(rates)
