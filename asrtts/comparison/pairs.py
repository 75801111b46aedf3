"""The pairs of a comparison: which of their sentences matter most, and a table of all that is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asrtts.metrics.verdict import SURE, points

LEADING = 15  # sentences that are said at once: all pairs of six systems; fifteen have 105

NONE = "-"  # a cell that has no value

Pair = dict[str, Any]


def leading(comparison: dict[str, Any]) -> tuple[list[Pair], list[Pair]]:
    """The pairs to say at once, and the others; those that can be told apart first, and of both those of the best."""
    pairs, systems = comparison["pairs"], comparison["systems"]
    rate = "wer" if comparison["judged_by"] == "words" else "cer"
    best = min(systems, key=lambda system: system[rate]["percent"] or 0)["name"]

    def of_best(pair: Pair) -> bool:
        return best in (pair["a"], pair["b"])

    ordered = sorted(pairs, key=lambda pair: (not told_apart(pair), not of_best(pair)))
    if len(pairs) <= LEADING:
        return ordered, []
    # Every system against the best, which one wants to choose; as many of the others as there is room for.
    matter = [pair for pair in ordered if of_best(pair)]
    matter += [pair for pair in ordered if told_apart(pair) and not of_best(pair)][: max(0, LEADING - len(matter))]
    chosen = {(pair["a"], pair["b"]) for pair in matter}
    first, rest = ([pair for pair in ordered if ((pair["a"], pair["b"]) in chosen) is said] for said in (True, False))
    return first, rest


def told_apart(pair: Pair) -> bool:
    return pair["p_holm"] is not None and pair["p_holm"] < SURE


def others(rest: Sequence[Pair]) -> str:
    """How many pairs are not said at once: "the other 90 pairs (2 of them told apart)"."""
    found = sum(map(told_apart, rest))
    which = "the other pair" if len(rest) == 1 else f"the other {len(rest)} pairs"
    return f"{which} ({found} of them told apart)" if found else which


def table(comparison: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for every pair, those that matter first; a column that no pair fills is left out."""
    first, rest = leading(comparison)
    rows = [_row(pair, comparison["judged_by"]) for pair in (*first, *rest)]
    headings = [heading for heading in (rows[0] if rows else []) if any(row[heading] != NONE for row in rows)]
    return headings, [[row[heading] for heading in headings] for row in rows]


def about(comparison: dict[str, Any]) -> list[str]:
    """What the columns say."""
    lines = [
        "A less B: below 0, A has fewer errors. A is better in: that share of the test sets drawn by the bootstrap, "
        "equal ones half. Segments and Z: of MAPSSWE."
    ]
    if any(pair["over_seeds"] for pair in comparison["pairs"]):
        lines.append(
            "Of systems with several seeds, p is that of the t test over seeds and utterances. MAPSSWE is that of each "
            "seed that both have, one after the other: it says nothing of what another seed would give."
        )
    return lines


def _row(pair: Pair, unit: str) -> dict[str, str]:
    tests = pair["mapsswe"]
    test = {"mapsswe": "MAPSSWE", "over_seeds": "t, over seeds", None: f"none: {pair['no_test']}"}[pair["test"]]
    share, needed = pair["probability_a_better"], pair["words_needed"]
    several = [] if pair["test"] == "mapsswe" else tests
    others = [one for one in tests if several or one["exact"] is not None]  # else its p is the pair's own
    over = pair["over_seeds"] and [100 * bound for bound in pair["over_seeds"]["interval"]]
    return {
        **{"A": pair["a"], "B": pair["b"]},
        "A less B, points": NONE if pair["difference"] is None else points(pair["difference"]),
        "95 %, paired bootstrap": _bounds(pair["interval_95"]),
        "95 %, by speaker": _bounds(pair["interval_95_by_speaker"]),
        "A is better in": NONE if share is None else f"{100 * share:.0f} %",
        "95 %, over seeds": _bounds(over),
        **{"test": test, "p": _each("{:.2g}", [pair["p"]]), "p, Holm": _each("{:.2g}", [pair["p_holm"]])},
        "MAPSSWE of seed": _each("{}", [_seeds(*one["seeds"]) for one in several]),
        "segments": _each("{:,}", [one["segments"] for one in tests]),
        "Z": _each("{:.2f}", [one["z"] for one in tests]),
        "p, MAPSSWE": _each("{:.2g}", [one["p"] for one in others]),
        f"{unit} needed": "more seeds" if needed == 0 else _each("{:,}", [needed]),
    }


def _bounds(interval: Sequence[float] | None) -> str:
    return NONE if interval is None else f"[{points(interval[0])}, {points(interval[1])}]"


def _each(form: str, values: Sequence[Any]) -> str:
    return ", ".join(NONE if value is None else form.format(value) for value in values) or NONE


def _seeds(a: int | None, b: int | None) -> str | None:
    return None if a is None else str(a) if a == b else f"{a} with {b}"
