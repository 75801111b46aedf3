"""What stands below the table of `asrtts compare`: what a number says, what could not be had, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from asrtts.comparison.measuring import MEASURES
from asrtts.metrics.matched_pairs import ENOUGH

FEW_SPEAKERS = 10


def notes(comparison: dict[str, Any]) -> list[str]:
    """Lines, in the order of the table."""
    systems, pairs = comparison["systems"], comparison["pairs"]
    found = [*of_pairs(comparison), *_of_seeds(systems), *of_speakers(comparison["speakers"])]
    if comparison["utterances_left_out"]:
        whole = comparison["utterances"] + comparison["utterances_left_out"]
        found.append(f"Only {comparison['utterances']} of the {whole} utterances: the others were not decoded by all.")
    found += _of_too_little(comparison)
    for system in systems:
        for run in system["runs"]:
            if run["empty_hypotheses"]:
                found.append(
                    f"{run['run']}: {run['empty_hypotheses']} of {comparison['utterances']} hypotheses are empty."
                )
    few = [pair for pair in pairs if pair["test"] == "mapsswe" and pair["mapsswe"][0]["exact"] is not None]
    if few:
        fewest = min(pair["mapsswe"][0]["segments"] for pair in few)
        found.append(
            f"{'The pair has' if len(pairs) == 1 else f'{len(few)} of the {len(pairs)} pairs have'} fewer than "
            f"{ENOUGH} segments with errors (the fewest {fewest}); their p is that of an exact randomization test."
        )
    silent: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key, names in comparison["fair"]["unknown"].items():
        silent[tuple(names)].append(key)
    for names, keys in silent.items():
        found.append(f"Not checked to be equal: {_named(keys)}, which {_named(names)} did not record.")
    return [*found, *_of_computers(systems), *_of_costs(systems)]


def _of_too_little(comparison: dict[str, Any]) -> list[str]:
    """What the references have too little of."""
    lines = []
    if comparison["unknown_words"]:
        lines.append(f"Words of the references that are <unk>, left out of the errors: {comparison['unknown_words']}.")
    if not comparison["words"]:
        lines.append("No error rate: the references hold no words. What was decoded is counted as inserted.")
    elif comparison["systems"][0]["wer"]["interval_95"] is None:
        lines.append("No interval by utterance: one utterance alone has words.")
    return lines


def of_pairs(comparison: dict[str, Any]) -> list[str]:
    pairs = comparison["pairs"]
    tested = [pair for pair in pairs if pair["p"] is not None]
    if not tested:
        return [] if pairs else ["One system: nothing to compare it with."]
    tests = {
        "mapsswe": "matched-pairs sentence-segment word error test (NIST MAPSSWE)",
        "over_seeds": "t test over seeds and utterances",
    }
    used = " or ".join(tests[test] for test in tests if any(pair["test"] == test for pair in tested))
    corrected = f", after Holm's correction over {len(tested)} pairs" if len(tested) > 1 else ""
    by = (
        ""
        if comparison["judged_by"] == "words"
        else " Pairs are judged by characters: most of the text is in a script without blanks."
    )
    seeds = any(pair["test"] == "over_seeds" and pair["paired"] for pair in tested)
    paired = " Runs of one seed that began with the same weights are paired." if seeds else ""
    return [f"p: {used}{corrected}.{paired} Brackets: 95 %.{by}"]


def _of_seeds(systems: list[dict[str, Any]]) -> list[str]:
    alone = [system["name"] for system in systems if len(system["runs"]) == 1]
    if not alone:
        return []
    whose = "Every system" if len(alone) == len(systems) else _named(alone)
    were = "were each" if len(alone) > 1 and whose != "Every system" else "was"
    return [f"{whose} {were} trained once: that says nothing of what another seed would give."]


def of_speakers(count: int | None) -> list[str]:
    if count is None:
        return ["No interval by speaker: the manifest does not name the speaker of every utterance."]
    if count == 1:
        return ["No interval by speaker: there is one."]
    if count < FEW_SPEAKERS:
        return [f"The intervals by speaker rest on {count} speakers; they are too narrow."]
    return []


def _of_computers(systems: list[dict[str, Any]]) -> list[str]:
    """Which times were taken on different computers, as far as that is known."""
    found = []
    for key, where in (("rtf", "decoded_on"), ("train_minutes", "computer")):
        used: dict[str, list[str]] = defaultdict(list)  # computer -> systems
        for system in systems:
            if system["measures"][key]["value"] is not None:
                for computer in dict.fromkeys(run[where] for run in system["runs"] if run[where]):
                    used[computer].append(system["name"])
        if len(used) > 1:
            told = "; ".join(f"{_named(names)} on {computer}" for computer, names in used.items())
            found.append(f"{MEASURES[key].heading}: not to be compared, as of different computers: {told}.")
    return found


def _of_costs(systems: list[dict[str, Any]]) -> list[str]:
    """The reason of every dash, once for all systems that have it."""
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)  # (systems, reason) -> rows
    for key, measure in MEASURES.items():
        reasons: dict[str, list[str]] = defaultdict(list)
        for system in systems:
            if system["measures"][key]["why"]:
                reasons[system["measures"][key]["why"]].append(system["name"])
        for reason, names in reasons.items():
            rows[_named(names), reason].append(measure.heading)
    return [f"{'; '.join(headings)}: {names}: {reason}." for (names, reason), headings in rows.items()]


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
