"""What `asrtts prepare` prints: a line a split, and a line a kind of finding with one example and its fix."""

from __future__ import annotations

import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from asrtts.data.diagnosis import KINDS, Finding, Seen, drops
from asrtts.data.utterance import Utterance


def show(seen: list[Seen], kept: dict[str, list[Utterance]], findings: list[Finding], effects: dict[str, str]) -> None:
    """Print both tables; `effects` is what each kind does in this run."""
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False, highlight=False)
    console.print(_splits(seen, kept))
    console.print(_kinds(findings, effects) if findings else "nothing found that would harm")


def _splits(seen: list[Seen], kept: dict[str, list[Utterance]]) -> Table:
    table = Table("split", box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("found", "kept", "hours", "speakers", "shortest", "median", "longest"):
        table.add_column(title, justify="right")
    for split, found in Counter(s.split for s in seen).items():
        seconds = [u.seconds for u in kept[split]] or [0.0]
        speakers = len({u.speaker for u in kept[split] if u.speaker})
        lengths = (min(seconds), statistics.median(seconds), max(seconds))
        numbers = (str(found), str(len(kept[split])), f"{sum(seconds) / 3600:.2f}", str(speakers or "?"))
        table.add_row(split, *numbers, *(f"{s:.1f} s" for s in lengths))
    return table


def _kinds(findings: list[Finding], effects: dict[str, str]) -> Table:
    groups = defaultdict(list)
    for finding in findings:
        groups[finding.kind].append(finding)
    table = Table("finding", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("count", justify="right")
    for title in ("effect", "example", "fix"):
        table.add_column(title, overflow="fold")
    for kind, group in groups.items():
        first = group[0]
        where = " ".join(part for part in (first.split, first.utt_id or Path(first.audio).name) if part)
        dropped = sum(drops(finding, effects) for finding in group)
        effect = "STOP" if effects[kind] == "stop" else f"drop {dropped}" if dropped else "note"
        table.add_row(kind, str(len(group)), effect, f"{where}: {first.found}", KINDS[kind].fix)
    return table
