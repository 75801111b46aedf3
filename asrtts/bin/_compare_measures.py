"""What `asrtts compare` knows of each system: error rates and their intervals, and what they cost.

A value that a run does not have is None, with the reason beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from asrtts.bin import _compare_fair
from asrtts.bin._compare_fair import Member, System
from asrtts.experiment import Run
from asrtts.metrics import error_rate, significance, verdict
from asrtts.metrics.verdict import Outputs


class Missing(str):
    """Why there is no value."""


def rates(systems: Sequence[Outputs], speakers: Sequence[str] | None) -> list[dict[str, Any]]:
    """The error rate of every system at one level, in percent, over its runs and of each of them."""
    by_utterance = verdict.resampled(systems)
    by_speaker = verdict.resampled(systems, speakers) if speakers else None
    return [_rate(system, by_utterance, by_speaker, column) for column, system in enumerate(systems)]


def _rate(
    system: Outputs, by_utterance: np.ndarray | None, by_speaker: np.ndarray | None, column: int
) -> dict[str, Any]:
    tallies = [error_rate.tally(edits) for edits in system.edits]
    found: dict[str, Any] = {"percent": None, "deviation": None}
    percents = [100 * tally.rate for tally in tallies] if tallies[0].ref else []
    if percents:
        found["percent"] = statistics.fmean(percents)
        found["deviation"] = statistics.stdev(percents) if len(percents) > 1 else None
    for key, drawn in (("interval_95", by_utterance), ("interval_95_by_speaker", by_speaker)):
        bounds = None if drawn is None else significance.percentiles(drawn[:, column])
        found[key] = bounds and [100 * bound for bound in bounds]
    found["ref"] = tallies[0].ref
    for key, kind in (("sub", "sub"), ("del", "dele"), ("ins", "ins"), ("sentences_wrong", "wrong")):
        found[key] = statistics.fmean(getattr(tally, kind) for tally in tallies)
    found["runs"] = [
        {"percent": 100 * t.rate if t.ref else None, "sub": t.sub, "del": t.dele, "ins": t.ins, "wrong": t.wrong}
        for t in tallies
    ]
    return found


# Costs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A row of the table; `of` gives a run's value, `over` joins those of several seeds."""

    heading: str
    of: Callable[[Member], float | Missing]
    over: Callable[[list[float]], float]
    show: Callable[[float], str]


def _fact(key: str, reason: str, scale: float = 1.0) -> Callable[[Member], float | Missing]:
    return lambda member: scale * member.facts[key] if member.facts.get(key) is not None else Missing(reason)


def _size(member: Member) -> float | Missing:
    path = member.exp / f"{member.summary.get('weights', 'model')}.safetensors"
    return path.stat().st_size / 1e6 if path.is_file() else Missing(f"there is no {path.name}")


def _rtf(member: Member) -> float | Missing:
    """Of one thread, since two threads help one head more than another."""
    summary = member.summary
    if summary.get("rtf") is None:
        return Missing("no decode summary")
    if summary.get("device") not in (None, "cpu"):
        return Missing(
            f"decoded on {summary['device']}; `asrtts decode EXP MANIFEST --device cpu --threads 1` measures it"
        )
    if summary.get("threads") != 1:
        return Missing("decoded on several threads; `asrtts decode EXP MANIFEST --threads 1` measures it")
    return summary["rtf"]


def _memory(of: str) -> Callable[[Member], float | Missing]:
    def peak(member: Member) -> float | Missing:
        record = member.facts if of == "training" else member.summary
        value = record.get("peak_gpu_memory_mb") or record.get("peak_memory_mb")
        return Missing(f"not recorded: {of} by an older asrtts") if value is None else value

    return peak


def _number(form: str) -> Callable[[float], str]:
    return lambda value: form.format(value)


def _count(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.0f} k"


NOT_TRAINED = "not recorded: training has not ended"
MEASURES = {
    "parameters": Measure("parameters", _fact("parameters", "no run.json"), max, _count),
    "size_mb": Measure("size on disk, MB", _size, max, _number("{:.1f}")),
    "train_minutes": Measure(
        "training, minutes", _fact("train_minutes", NOT_TRAINED), statistics.fmean, _number("{:.0f}")
    ),
    "train_memory_mb": Measure("peak memory, training, MB", _memory("training"), max, _number("{:.0f}")),
    "decode_memory_mb": Measure("peak memory, decoding, MB", _memory("decoding"), max, _number("{:.0f}")),
    "rtf": Measure("RTF, one thread", _rtf, statistics.fmean, _number("{:.4f}")),
}


def costs(system: System) -> dict[str, dict[str, Any]]:
    """Every measure of a system: {"value": ..., "why": None} or {"value": None, "why": the reason}."""
    found = {}
    for key, measure in MEASURES.items():
        values = [measure.of(member) for member in system.members]
        reasons = [value for value in values if isinstance(value, Missing)]
        found[key] = {"value": None if reasons else measure.over(values), "why": reasons[0] if reasons else None}
    return found


def described(system: System) -> dict[str, Any]:
    """What was trained and how it was searched: every weight of the loss, the views, the search."""
    first = system.members[0]
    with torch.device("meta"):  # shapes and settings, no memory
        model = Run(first.exp).build_model(first.settings, vocab_size=2)
    weights = " + ".join(f"{name} {weight:g}" for name, weight in model.weights.items())
    auxiliary = [part for head in model.heads.values() for part in head.auxiliary()]
    return {
        "losses": ", ".join([weights, *auxiliary]),
        "loss_weights": model.weights,
        "auxiliary_losses": auxiliary,
        "views": model.views,
        "search": _search(first),
        "decode": first.summary,
    }


def _search(member: Member) -> str:
    """joint_beam 10"""
    method, beam = member.summary.get("method"), member.summary.get("beam")
    return f"{method or 'not recorded'}{f' {beam}' if (beam or 1) > 1 else ''}"


def allowed(unequal: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The differences that were allowed, as the table shows them."""
    return {
        key: {name: _compare_fair.shown(value) for name, value in values.items()} for key, values in unequal.items()
    }
