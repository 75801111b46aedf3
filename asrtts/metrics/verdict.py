"""Which of two systems is better, how sure that is, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from math import floor, log10
from typing import Any

import numpy as np

from asrtts.metrics import error_rate, significance
from asrtts.metrics.distributions import normal_quantile
from asrtts.metrics.matched_pairs import Marks, matched_pairs, segment_errors

SURE = 0.05
PAIRED = (
    3  # runs that began alike, from which on they are paired: two told 9 to 12 of 100 equal heads apart (simulated)
)


@dataclass
class Outputs:
    """What a system said to one test set, in every run that it was trained: alignments to the same references."""

    name: str
    seeds: list[int | None]  # one a run
    edits: list[list[str]]  # of every run: "CCSDI" of every utterance
    runs: list[Hashable]  # which training each is of; two systems may be decodings of the same
    begun: list[Hashable]  # what each run began with; two systems may begin alike, seed by seed

    def __post_init__(self) -> None:
        counts = [error_rate.count(run) for run in self.edits]
        self.errors = np.stack([count[:, 1:].sum(axis=1) for count in counts], axis=1)  # (N, runs)
        self.lengths = counts[0][:, :3].sum(axis=1)  # (N,)

    @cached_property
    def marks(self) -> list[Marks]:
        return [Marks(run) for run in self.edits]


def resampled(systems: Sequence[Outputs], speakers: Sequence[str] | None = None) -> np.ndarray | None:
    """Mean rate over its runs of every system on resampled test sets, as `significance.resampled_rates`."""
    means = np.stack([system.errors.mean(axis=1) for system in systems], axis=1)
    return significance.resampled_rates(means, systems[0].lengths, speakers)


def pairs(
    systems: Sequence[Outputs], rates: np.ndarray | None, by_speaker: np.ndarray | None, unit: str = "words"
) -> list[dict[str, Any]]:
    """Every two systems; differences are those of the first less the second, in points, so below 0 the first is better.

    Args:
        rates: of `resampled`, by utterance; by_speaker: by speaker. None leaves the interval out.
        unit: what errors are counted in, for the sentence.
    """
    found = [
        _pair(systems[i], systems[j], *(None if r is None else r[:, [i, j]] for r in (rates, by_speaker)))
        for i, j in combinations(range(len(systems)), 2)
    ]
    tested = [pair for pair in found if pair["p"] is not None]
    for pair, corrected in zip(tested, significance.holm([pair["p"] for pair in tested]), strict=True):
        pair["p_holm"] = corrected
    words = int(systems[0].lengths.sum())
    for pair in found:
        pair["words_needed"] = _words_needed(pair, words, len(tested))
        pair["sentence"] = _sentence(pair, words, unit)
    return found


def _pair(a: Outputs, b: Outputs, rates: np.ndarray | None, by_speaker: np.ndarray | None) -> dict[str, Any]:
    words = a.lengths.sum()
    difference = float(a.errors.mean(axis=1).sum() - b.errors.mean(axis=1).sum()) / words if words else None
    pair: dict[str, Any] = {"a": a.name, "b": b.name, "difference": None if difference is None else 100 * difference}
    for key, drawn in (("interval_95", rates), ("interval_95_by_speaker", by_speaker)):
        differences = None if drawn is None else drawn[:, 0] - drawn[:, 1]
        pair[key] = None if differences is None else [100 * bound for bound in significance.percentiles(differences)]
        if key == "interval_95":
            # Of equal ones, half: two systems that say the same are as likely to be either.
            better = None if differences is None else float((differences < 0).mean() + (differences == 0).mean() / 2)
            pair["probability_a_better"] = better
    pair["mapsswe"] = [
        {"seeds": [a.seeds[i], b.seeds[j]], **asdict(matched_pairs(segment_errors(a.marks[i], b.marks[j])))}
        for i, j in _runs_to_pair(a.seeds, b.seeds)
    ]
    pair["paired"] = a.runs == b.runs or (a.begun == b.begun and len(a.begun) >= PAIRED)
    seeds = significance.over_seeds(a.errors, b.errors, a.lengths, pair["paired"])
    pair["over_seeds"] = None if seeds is None else asdict(seeds)
    if seeds is not None:
        pair |= {"test": "over_seeds", "p": seeds.p, "no_test": None}
    elif len(a.seeds) == len(b.seeds) == 1 and words:
        (single,) = pair["mapsswe"]
        p = single["p"] if single["exact"] is None else single["exact"]
        pair |= {"test": "mapsswe", "p": p, "no_test": None}
    else:
        pair |= {"test": None, "p": None, "no_test": _why(a, b, int(words))}
    return {**pair, "p_holm": None}


def _why(a: Outputs, b: Outputs, words: int) -> str:
    """Why there is no test."""
    for system in (a, b):
        if words and len(system.seeds) == 1:
            return f"{system.name} was trained once, the other several times"
    return "the difference varies neither over seeds nor over utterances" if words else "the references are empty"


def _runs_to_pair(a: Sequence[int | None], b: Sequence[int | None]) -> list[tuple[int, int]]:
    """Runs of the same seed; the only ones where each system has one."""
    if len(a) == len(b) == 1:
        return [(0, 0)]
    return [(i, b.index(seed)) for i, seed in enumerate(a) if seed is not None and seed in b]


def _words_needed(pair: dict[str, Any], words: int, tests: int) -> int | None:
    """As `significance.words_needed`; None for a difference that was found, too, and where no test was had."""
    if pair["p_holm"] is None or pair["p_holm"] < SURE:
        return None
    if pair["test"] == "over_seeds":
        return significance.words_needed_with_seeds(significance.Seeds(**pair["over_seeds"]), words, tests)
    (single,) = pair["mapsswe"]
    z = single["z"] if single["exact"] is None else normal_quantile(1 - single["exact"] / 2)
    return None if z is None else significance.words_needed(z, words, tests)


def _sentence(pair: dict[str, Any], words: int, unit: str) -> str:
    a, b, difference = pair["a"], pair["b"], pair["difference"]
    if difference is None:
        return f"{a} and {b}: nothing to compare, the references hold no {unit}"
    bounds = pair["interval_95"]
    if pair["test"] == "over_seeds":
        bounds = [100 * bound for bound in pair["over_seeds"]["interval"]]
    if difference > 0:
        a, b, difference = b, a, -difference
        bounds = bounds and [-bounds[1], -bounds[0]]
    apart = f"{points(-difference)} points" + (f" [{points(-bounds[1])}, {points(-bounds[0])}]" if bounds else "")
    if pair["p_holm"] is None:
        said = f"{a} and {b} have the same number of errors" if difference == 0 else f"{a} has {apart} less than {b}"
        return f"{said}; no test: {pair['no_test']}"
    p = f"p = {pair['p_holm']:.2g}" if pair["p_holm"] >= 0.001 else "p < 0.001"
    if pair["p_holm"] < SURE:
        return f"{a} is better than {b} by {apart}, {p}"
    needed = pair["words_needed"]
    if needed is None:
        more = ""
    elif needed == 0:
        more = "; more seeds would be needed, not more words"
    else:
        more = f"; if it is as large as it looks, about {_rounded(needed):,} {unit} would be needed to see it"
    said = "the same number of errors" if difference == 0 else f"{a} has {apart} less"
    return f"{a} and {b} are not distinguishable on {words:,} {unit} ({said}, {p}){more}"


def points(value: float) -> str:
    """With one digit, with two where one would say 0.0 of something; no -0.0."""
    digits = 1 if value == 0 or abs(value) >= 0.05 else 2
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _rounded(count: int) -> int:
    """To two digits: the estimate is no better than that."""
    digits = max(0, floor(log10(count)) - 1)
    return round(count / 10**digits) * 10**digits
