"""How sure an error rate is, and a difference of two: the bootstrap, several seeds, several pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asrtts.metrics.distributions import normal_quantile, t_p, t_quantile

RESAMPLES = 5000
# The same seed for every system: all are judged on the same resampled test sets.
SEED = 1

# Utterance draws held at once, 32 MB of indices.
_DRAWS = 4_000_000

LEVEL = 0.95  # of every interval
POWER = 0.8  # the chance to find a difference that is there, in `words_needed`
# Below this the observed difference is mostly chance, and more than a hundred times the test set would be asked for.
SMALLEST_Z = 0.25


def interval(
    errors: np.ndarray, lengths: np.ndarray, groups: Sequence[str] | None = None
) -> tuple[float, float] | None:
    """Percentile interval of the error rate sum(errors) / sum(lengths), as fractions.

    Args:
        errors: (N,) errors of every utterance.
        lengths: (N,) reference tokens of every utterance.
        groups: as in `resampled_rates`.

    Returns:
        None where there is nothing to draw from.
    """
    rates = resampled_rates(np.asarray(errors)[:, None], lengths, groups)
    return None if rates is None else percentiles(rates[:, 0])


def percentiles(rates: np.ndarray) -> tuple[float, float]:
    """What holds LEVEL of resampled rates or differences (R,)."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(rates, [tail, 1 - tail])
    return float(low), float(high)


def resampled_rates(errors: np.ndarray, lengths: np.ndarray, groups: Sequence[str] | None = None) -> np.ndarray | None:
    """The error rates of several systems on the same resampled test sets (Bisani and Ney 2004).

    Whole utterances are drawn with replacement, since errors within one utterance go together. With `groups` (one
    name an utterance) whole groups are drawn: speakers differ more than their utterances, so this says what to expect
    of other speakers, and is wider. The difference of two columns is the paired bootstrap.

    Args:
        errors: (N, systems), errors of every utterance.
        lengths: (N,) reference tokens of every utterance.

    Returns:
        (RESAMPLES, systems), as fractions, less the test sets that drew no reference tokens; None where there is
        nothing to draw from: fewer than two utterances (or groups) with reference tokens.
    """
    table = np.column_stack([np.asarray(errors, dtype=np.float64), np.asarray(lengths, dtype=np.float64)])
    if groups is not None:
        names, group = np.unique(np.asarray(groups), return_inverse=True)
        sums = np.zeros((len(names), table.shape[1]))
        np.add.at(sums, group, table)
        table = sums
    if (table[:, -1] > 0).sum() < 2:  # every drawn test set would be the same one again, and the interval 20.0-20.0
        return None
    random, sums = np.random.default_rng(SEED), []
    size = len(table)
    at_once = max(1, _DRAWS // size)
    for first in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - first)
        drawn = random.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
        sums.append(times.astype(np.float64) @ table)
    drawn_sums = np.concatenate(sums)
    drawn_sums = drawn_sums[drawn_sums[:, -1] > 0]
    return drawn_sums[:, :-1] / drawn_sums[:, -1:]


@dataclass(frozen=True)
class Seeds:
    """A difference of two systems that were trained several times; as fractions."""

    difference: float
    interval: tuple[float, float]
    t: float
    freedom: float
    p: float  # two-sided
    seed_variance: float  # the parts of the variance of `difference`
    utterance_variance: float


def over_seeds(a: np.ndarray, b: np.ndarray, lengths: np.ndarray, paired: bool = False) -> Seeds | None:
    """Is the mean of one system over seeds another than that of the other, for other seeds and other utterances?

    Two things vary: the seeds and the utterances. The variance of the difference is taken as the sum of both parts,
    each estimated with the other one averaged out,

        var(rates of a) / seeds of a + var(rates of b) / seeds of b + var(difference over utterances),

    and the difference over its root as Student's t, with Welch and Satterthwaite's degrees of freedom: with three
    seeds the t counts, as no bootstrap over three can. What seeds and utterances do together is counted in both parts,
    so the test is a little too careful, as is the bootstrap over both (Owen 2007, "The pigeonhole bootstrap").

    Runs that share something are paired. Where two heads of a seed began with one encoder, a good one is good for both;
    where two decodings are of the same run, a bad run is bad with either search. What they share is no doubt about the
    difference. There each seed gives one difference, and the first two parts become one,

        var(difference over runs) / runs,

    with one degree of freedom less than there are runs, as in a paired t test, and as where the same readers judge the
    same cases in two ways (Dorfman, Berbaum and Metz 1992). Two runs say little of how much their differences vary:
    where that is by a tenth of all errors, 6 of 100 equal searches of the same runs are told apart, by a fifth, 11,
    and 9 to 12 of 100 equal heads on one encoder; of those with three seeds 2 to 7 (simulated).

    Args:
        a: (N, seeds of a), errors of every utterance in each run. b: likewise.
        lengths: (N,) reference tokens of every utterance.
        paired: column i of a and column i of b began with the same weights, or are decodings of the same training.

    Returns:
        None where it cannot be had: a system with one seed, fewer than two utterances, no words or no variance at all.
    """
    total = float(np.sum(lengths))
    if min(a.shape[1], b.shape[1], len(lengths)) < 2 or total == 0:
        return None
    vary = (a - b,) if paired else (a, b)
    parts = [(float(np.var(runs.sum(axis=0) / total, ddof=1)) / runs.shape[1], runs.shape[1] - 1) for runs in vary]
    by_utterance = a.mean(axis=1) - b.mean(axis=1)
    difference = float(by_utterance.sum()) / total
    residual = by_utterance - difference * np.asarray(lengths)  # of a ratio of sums, linearized
    count = len(residual)
    parts.append((float(residual @ residual) * count / (count - 1) / total**2, count - 1))
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return None
    freedom = variance**2 / sum(part**2 / df for part, df in parts)
    t = difference / math.sqrt(variance)
    half = t_quantile((1 + LEVEL) / 2, freedom) * math.sqrt(variance)
    *seeds, utterances = (part for part, _ in parts)
    bounds = (difference - half, difference + half)
    return Seeds(difference, bounds, t, freedom, t_p(t, freedom), sum(seeds), utterances)


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected so that 5 % is the chance of any false finding among all (Holm 1979)."""
    corrected, highest = [0.0] * len(ps), 0.0
    for place, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[i]))
        corrected[i] = highest
    return corrected


def words_needed(z: float, words: int, tests: int = 1) -> int | None:
    """Words of a test set on which a difference as large as the observed one would be found, 4 times of 5.

    The observed difference may be far from the true one, so this is an order of magnitude.

    Args:
        z: the observed statistic on `words` words, which grows with the root of their number.
        tests: among which p is to be below 5 %.

    Returns:
        None where the difference is too small to say.
    """
    if abs(z) < SMALLEST_Z:
        return None
    return math.ceil(words * (_wanted_z(tests) / z) ** 2)


def words_needed_with_seeds(found: Seeds, words: int, tests: int = 1) -> int | None:
    """As `words_needed`; more words make the variance over seeds no smaller, so no number of them may be enough: 0."""
    if abs(found.t) < SMALLEST_Z:
        return None
    left = (found.difference / _wanted_z(tests)) ** 2 - found.seed_variance
    return math.ceil(words * found.utterance_variance / left) if left > 0 else 0


def _wanted_z(tests: int) -> float:
    return normal_quantile(1 - (1 - LEVEL) / 2 / tests) + normal_quantile(POWER)
