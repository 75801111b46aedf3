"""Do two systems differ on the same speech: NIST's matched-pairs sentence-segment word error test, MAPSSWE.

Errors within a sentence go together, those of different segments do not: a segment is what lies between stretches of
at least two words that both systems got right, or the ends of the utterance. If the systems are equally good, the
difference of their errors in a segment has a mean of zero. Gillick and Cox 1989; Pallett, Fisher and Fiscus 1990.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asrtts.metrics.distributions import normal_p

ENOUGH = 50  # segments from which on Z is taken as normal


@dataclass(frozen=True)
class MatchedPairs:
    """Where all segments differ by the same amount there is no Z (sc_stats says 0); p is then that of a sign test."""

    segments: int  # with an error of at least one system
    mean: float  # errors of the first less those of the second, a segment
    deviation: float
    z: float | None
    p: float  # two-sided, of Z as a normal variable, as sc_stats has it
    exact: float | None = None  # the p to judge by where there are fewer than ENOUGH segments: see `sign_flips`


class Marks:
    """The errors of a system's alignments ("CCSDI", one an utterance), placed at the words of the reference."""

    def __init__(self, edits: Sequence[str]) -> None:
        wrong, before, after = bytearray(), [], []
        self.first = np.zeros(len(edits) + 1, dtype=np.int64)  # where each utterance begins
        for number, of_utterance in enumerate(edits, 1):
            inserted = 0
            for edit in of_utterance:
                if edit == "I":
                    inserted += 1
                else:
                    wrong.append(edit != "C")
                    before.append(inserted)
                    inserted = 0
            after.append(inserted)
            self.first[number] = len(wrong)
        self.wrong = np.frombuffer(bytes(wrong), dtype=np.uint8).astype(np.int64)  # (W,) substituted or deleted
        self.before = np.array(before, dtype=np.int64)  # (W,) insertions before each word
        self.after = np.array(after, dtype=np.int64)  # (N,) insertions behind the last word of each utterance


def segment_errors(a: Marks, b: Marks) -> np.ndarray:
    """Errors of both systems in every segment with an error: (segments, 2).

    Example, a segment's errors in brackets (the first word in it is a segment's end as well: two right words are near):
        a   C [S  C  D] C  C  C [I] C  C      2 and 1 errors, then 1 and 0
        b   C [C  C  S] C  C  C [ ] C  C
    """
    assert np.array_equal(a.first, b.first), "alignments to different references"
    words = len(a.wrong)
    right = (a.wrong + b.wrong) == 0
    inserted = (a.before + b.before) > 0
    starts = np.zeros(words + 1, dtype=bool)  # one place more: where a last utterance without words begins
    starts[1:-1] = right[1:] & right[:-1] & ~inserted[1:]
    starts[a.first[:-1]] = True
    segment = np.cumsum(starts[:words])
    empty = np.diff(a.first) == 0  # utterances without words: whatever is inserted into one is a segment of its own
    last = np.empty(len(a.after), dtype=np.int64)
    last[~empty] = segment[a.first[1:][~empty] - 1]
    last[empty] = segment[-1:].sum() + 1 + np.arange(empty.sum())
    size = int(last.max(initial=0)) + 1
    errors = np.zeros((size, 2), dtype=np.int64)
    for column, marks in enumerate((a, b)):
        errors[:, column] += np.bincount(segment, marks.wrong + marks.before, size).astype(np.int64)
        errors[:, column] += np.bincount(last, marks.after, size).astype(np.int64)
    return errors[errors.any(axis=1)]


def matched_pairs(errors: np.ndarray) -> MatchedPairs:
    """The test on the segments' errors (segments, 2)."""
    differences = errors[:, 0] - errors[:, 1]
    count = len(differences)
    exact = sign_flips(differences) if count < ENOUGH else None
    if not differences.any():
        return MatchedPairs(count, 0.0, 0.0, 0.0, 1.0, exact)
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1)) if count > 1 else 0.0
    if deviation == 0:
        return MatchedPairs(count, mean, 0.0, None, 0.5 ** (count - 1), exact)
    z = mean / (deviation / math.sqrt(count))
    return MatchedPairs(count, mean, deviation, z, normal_p(z), exact)


def sign_flips(differences: np.ndarray) -> float:
    """Chance of a sum as far from zero if the sign of each whole number were that of a coin, exactly.

    The randomization test of Fisher 1935 and Pitman 1937. Three segments of 1, 1 and 2 errors, all for one system, have
    a Z of 4, which a normal variable exceeds in 1 of 16,000; the coins fall so one time of four.
    """
    chances = np.ones(1)  # of the sums from -s to s
    for step in np.abs(differences):
        chances = (np.pad(chances, (0, 2 * step)) + np.pad(chances, (2 * step, 0))) / 2
    sums = np.arange(len(chances)) - len(chances) // 2
    return min(1.0, float(chances[np.abs(sums) >= abs(int(differences.sum()))].sum()))
