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

from asrtts.asr.model import AsrModel
from asrtts.comparison import fairness
from asrtts.comparison.fairness import Member, System
from asrtts.data.utterance import Utterance
from asrtts.experiment import decodings
from asrtts.experiment.decodings import Line
from asrtts.lm import lm_folder
from asrtts.metrics import emission, error_rate, significance, verdict
from asrtts.metrics.verdict import Outputs
from asrtts.registry import UserError


class Missing(str):
    """Why there is no value."""


def judged(
    words: Sequence[Outputs], characters: Sequence[Outputs], utterances: Sequence[Utterance]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str, list[dict[str, Any]]]:
    """The rates in words and in characters, in which of both the pairs are counted, and the pairs."""
    speakers = [utterance.speaker for utterance in utterances]
    known = speakers if all(speakers) and len(set(speakers)) > 1 else None
    wer, cer = rates(words, known), rates(characters, known)
    unit = error_rate.judged_by([utterance.text for utterance in utterances])
    systems = characters if unit == "characters" else words
    drawn = verdict.resampled(systems), verdict.resampled(systems, known) if known else None
    return wer, cer, unit, verdict.pairs(systems, *drawn, unit)


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


# Measures ---------------------------------------------------------------------------------------------------------


Of = Callable[[Member], "float | Missing"]


@dataclass(frozen=True)
class Measure:
    """A row of the table. `of` gives a run's value and `over` joins those of several seeds, where runs recorded it."""

    heading: str
    show: Callable[[Any], str]
    of: Of | None = None
    over: Callable[[list[float]], float] = max


def _fact(key: str, reason: str, scale: float = 1.0) -> Callable[[Member], float | Missing]:
    return lambda member: scale * member.facts[key] if member.facts.get(key) is not None else Missing(reason)


def _size(member: Member) -> float | Missing:
    """Of the weights and of the language models that had a say."""
    path = member.exp / f"{member.summary.get('weights', 'model')}.safetensors"
    try:
        files = [path, *(lm_folder.model_file(folder) for folder, _ in member.search.lms)]
    except UserError as error:
        return Missing(str(error))
    gone = next((file for file in files if not file.is_file()), None)
    return Missing(f"there is no {gone.name}") if gone else sum(file.stat().st_size for file in files) / 1e6


def _train_minutes(member: Member) -> float | Missing:
    minutes = decodings.train_minutes(member.facts)
    return Missing("not recorded: training has not ended") if minutes is None else minutes


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


def _perplexity(value: float | None, uniform: float) -> str:
    return "none" if value is None else f"{value:.1f} of {uniform:.0f}"


def _three(value: float) -> str:
    """Three digits at least: 0.262, 11.4, 1,234"""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.0f} k"


COSTS = {
    "parameters": Measure("parameters", _count, _fact("parameters", "no run.json")),
    "size_mb": Measure("size on disk, MB", "{:.1f}".format, _size),
    "encoder_macs": Measure("M multiply-adds a second, encoder", _three),
    "search_macs": Measure("M multiply-adds a second, search", _three),
    "rtf": Measure("RTF, one thread", "{:.4f}".format, _rtf, statistics.fmean),
    "decode_memory_mb": Measure("peak memory, decoding, MB", "{:.0f}".format, _memory("decoding")),
    "train_memory_mb": Measure("peak memory, training, MB", "{:.0f}".format, _memory("training")),
    "train_minutes": Measure(
        "training, minutes",
        "{:.1f}".format,
        _train_minutes,
        statistics.fmean,
    ),
}
PROPERTIES = {
    "search_steps": Measure("search steps an utterance", "{:.1f}".format),
    "lengths": Measure("frames T, tokens U an utterance", lambda pair: f"{pair[0]:.1f}, {pair[1]:.1f}"),
    "internal_lm": Measure("internal LM, perplexity of a token", lambda v: _perplexity(*v)),
    "alignment": Measure("a token is read from", lambda v: "one frame" if v[0] == "hard" else f"{v[1]:.1f} frames"),
    "monotonic": Measure("tokens read in order, %", lambda v: "100, always" if v[1] == "hard" else f"{v[0]:.1f}"),
    "emission_delay_ms": Measure("emission delay, ms: median, 90 %", lambda pair: f"{pair[0]:.0f}, {pair[1]:.0f}"),
}
MEASURES = {**COSTS, **PROPERTIES}
Measured = dict[str, dict[str, Any]]


def recorded(system: System) -> Measured:
    """What the runs of a system recorded: {"value": ..., "why": None} or {"value": None, "why": the reason}."""
    found = {}
    for key, measure in MEASURES.items():
        if measure.of is not None:
            found[key] = joined([measure.of(member) for member in system.members], measure.over)
    return found


def joined(values: Sequence[float | Missing], over: Callable[[list[float]], float]) -> dict[str, Any]:
    """One value of those of several runs; missing where one of them is."""
    reasons = [value for value in values if isinstance(value, Missing)]
    return {"value": None if reasons else over(values), "why": reasons[0] if reasons else None}


def search_steps(lines: Sequence[Line]) -> float | Missing:
    """Mean over the utterances, as the search counted them."""
    steps = [line.steps for line in lines if line.steps is not None]
    return (
        statistics.fmean(steps)
        if len(steps) == len(lines)
        else Missing("decoded by an older asrtts; decode again with --restart")
    )


def emission_delay(
    system: System,
    judged: Outputs,
    split: Callable[[str], Sequence[str]],
    utterances: dict[str, Utterance],
    ends: dict[str, emission.Ends | None] | None,
) -> dict[str, Any]:
    """Milliseconds from the end of each right word to the frame where it was emitted: median and 90th percentile.

    Args:
        judged: alignments of words or of characters, as `split` makes them of a text.
        ends: of every utterance, as `emission.ends` gives them; None without an alignment.
    """
    if ends is None:
        return {"value": None, "why": "no --alignment; `asrtts align` makes one"}
    times = emission.word_times if split is error_rate.words else emission.character_times
    found: list[float] = []
    for member, edits in zip(system.members, judged.edits, strict=True):
        # Not `decodings.lines`: these are the references that are scored, some utterances or words may be left out.
        timed = decodings.again(member.exp, member.decoding, utterances, decodings.TimedLine)
        lines = {line.utt_id: line for line in timed if line.utt_id in ends}
        for (utt_id, known), edit in zip(ends.items(), edits, strict=True):
            emitted = times((piece.token, piece.time) for piece in lines[utt_id].tokens)
            units = split(lines[utt_id].hyp)
            whole = len(units) == len(edit) - edit.count(error_rate.DELETED)  # no word was left out as <unk>
            if (
                known
                and whole
                and [unit for unit in units if unit != error_rate.SPACE] == [unit for unit, _ in emitted]
            ):
                left = iter(emitted)
                found += emission.delays(edit, known, [None if u == error_rate.SPACE else next(left)[1] for u in units])
    if not found:
        return {"value": None, "why": "no right word stands in the alignment as it does in the manifest"}
    return {"value": [1000 * statistics.median(found), 1000 * float(np.quantile(found, 0.9))], "why": None}


def measured(properties: dict[str, Any] | Missing) -> Measured:
    """What `model_properties.measure` found, as rows."""
    if isinstance(properties, Missing):
        keys = ("encoder_macs", "search_macs", "lengths", "internal_lm", "alignment", "monotonic")
        return {key: {"value": None, "why": str(properties)} for key in keys}
    p = properties
    values = {
        "encoder_macs": p["encoder_macs"],
        "search_macs": p["search_macs"],
        "lengths": [p["frames"], p["tokens"]],
        "internal_lm": [p["internal_lm_perplexity"], p["uniform_perplexity"]],
        "alignment": [p["alignment"], p["attention_frames"]],
        "monotonic": [p["monotonic_percent"], p["alignment"]],
    }
    return {key: joined([value], max) for key, value in values.items()}


def described(system: System) -> dict[str, Any]:
    """What was trained and how it was searched: every weight of the loss, the views, the search."""
    first = system.members[0]
    with torch.device("meta"):  # shapes and settings, no memory
        s = first.settings
        model = AsrModel(s.encoder, s.heads, s.features.num_bins, vocab_size=2)
    weights = " + ".join(f"{name} {weight:g}" for name, weight in model.weights.items())
    auxiliary = [part for head in model.heads.values() for part in head.auxiliary()]
    return {
        "losses": ", ".join([weights, *auxiliary]),
        "loss_weights": model.weights,
        "auxiliary_losses": auxiliary,
        "views": model.views,
        "init": fairness.begun_from(first),
        "search": decodings.search([member.summary for member in system.members]),
        "search_effort": fairness.own_effort(first),
        "decode": first.summary,
    }


def allowed(unequal: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The differences that were allowed, as the table shows them."""
    return {key: {name: fairness.shown(value) for name, value in values.items()} for key, values in unequal.items()}
