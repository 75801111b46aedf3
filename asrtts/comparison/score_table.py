"""The table that `asrtts score` prints: a row for every system, and for runs that differ in their seed their mean."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asrtts.experiment import decodings

Score = dict[str, Any]


def families(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Mean and standard deviation of the rates of every family of at least two runs, in percent."""
    members: dict[str, list[Score]] = {}
    for score in scores:
        if score["run"]["family"] is not None:
            members.setdefault(score["run"]["family"], []).append(score)
    return [_family(name, runs) for name, runs in members.items() if len(runs) > 1]


def show(scores: Sequence[Score], means: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """Print the table: coloured and as wide as fits in a terminal, plain and never cut in a file or a pipe."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=1000, color_system=None)
    first = scores[0]
    left_out = f", without {first['unknown_words']} <unk>" if first["unknown_words"] else ""
    console.print(
        f"{first['on']}: {first['utterances']} utterances, {first['wer']['ref']} words{left_out}; errors in %",
        markup=False,
    )
    for table in _forms(scores, means):
        if console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width:
            break
    console.print(table)


def _forms(scores: Sequence[Score], means: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """The same table, each narrower than the one before; only the last does without a column."""
    yield _filled(Table(box=box.ROUNDED), scores, means, ())
    yield _filled(Table(box=box.SIMPLE_HEAD, pad_edge=False), scores, means, ())
    narrow = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    yield _filled(narrow, scores, means, ("search", "minutes"))


def _filled(table: Table, scores: Sequence[Score], means: Sequence[dict[str, Any]], without: Sequence[str]) -> Table:
    rates = [score["wer"]["percent"] for score in scores if score["wer"]["percent"] is not None]
    best = min(rates) if len(rates) > 1 else None
    for heading in _cells(scores[0], best):
        if heading == "system":
            table.add_column(heading, overflow="fold", min_width=8)
        elif heading not in without:
            table.add_column(heading, justify="left" if heading == "search" else "right", no_wrap=True)
    by_name = {mean["family"]: mean for mean in means}
    for group in _grouped(scores, by_name):
        rows = [_cells(score, best) for score in group]
        mean = by_name.get(group[0]["run"]["family"])
        rows += [_mean_cells(mean)] if mean else []
        for row in rows:
            table.add_row(*(row.get(str(column.header), "") for column in table.columns))
        table.add_section()
    return table


def _family(name: str, runs: Sequence[Score]) -> dict[str, Any]:
    family: dict[str, Any] = {"family": name, "runs": [run["system"] for run in runs]}
    for level in ("wer", "cer", "ter"):
        rates = [run[level]["percent"] for run in runs if level in run and run[level]["percent"] is not None]
        if len(rates) == len(runs):
            family[level] = {"mean": statistics.fmean(rates), "deviation": statistics.stdev(rates)}
    return family


def _grouped(scores: Sequence[Score], means: dict[str, Any]) -> list[list[Score]]:
    """Runs of a family together, at the place of its first; the others in a block of their own."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        family = score["run"]["family"]
        groups.setdefault(family if family in means else "", []).append(score)
    return list(groups.values())


def _cells(score: Score, best: float | None) -> dict[str, Text]:
    """The row of a system, by heading."""
    wer, run, decode = score["wer"], score["run"], score["decode"]
    bold = "bold green" if best is not None and wer["percent"] == best else "bold"
    cells = {
        "system": Text(score["system"]),
        "WER": Text(_percent(wer["percent"]), style=bold),
        "95 %": Text("{:.1f}-{:.1f}".format(*wer["interval_95"]) if wer["interval_95"] else "-"),
        "CER": Text(_percent(score["cer"]["percent"])),
    }
    for heading, kind in (("Sub", "sub"), ("Del", "del"), ("Ins", "ins")):
        cells[heading] = Text(_percent(100 * wer[kind] / wer["ref"] if wer["ref"] else None))
    cells["S.Err"] = Text(_percent(100 * wer["sentences_wrong"] / score["utterances"]))
    cells["search"] = Text(decodings.search([decode]))
    cells["params"] = Text(_parameters(run["parameters"]))
    cells["minutes"] = Text("-" if run["train_minutes"] is None else f"{run['train_minutes']:.0f}")
    cells["RTF"] = Text("-" if decode["rtf"] is None else f"{decode['rtf']:.3f}")
    return cells


def _mean_cells(mean: dict[str, Any]) -> dict[str, Text]:
    """The row below the runs of a family; where their interval stands, their standard deviation."""
    cells = {"system": Text(f"mean of {len(mean['runs'])}", style="italic")}
    if "wer" in mean:
        cells["WER"] = Text(f"{mean['wer']['mean']:.1f}", style="bold")
        cells["95 %"] = Text(f"±{mean['wer']['deviation']:.1f}")
    if "cer" in mean:
        cells["CER"] = Text(f"{mean['cer']['mean']:.1f}±{mean['cer']['deviation']:.1f}")
    return cells


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _parameters(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"
