"""The one table of `asrtts compare`: a column for every system, a row for every measure; the pairs and notes below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asrtts.comparison import pairs
from asrtts.comparison.measuring import COSTS, PROPERTIES

Comparison = dict[str, Any]
Row = tuple[str, list[str]]
Section = tuple[str, list[Row]]


def show(comparison: Comparison, console: Console | None = None) -> None:
    """Print it: as wide as fits in a terminal, plain and never cut in a file or a pipe."""
    console = uncut(console)
    console.print(Text(title(comparison)))  # a name may have brackets, which a plain string would lose as mark-up
    names = [system["name"] for system in comparison["systems"]]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for heading, rows in sections(comparison):
        table.add_row(Text(heading, style="bold"))
        for label, cells in rows:
            style = "bold" if label in ("WER %", "CER %") else ""
            table.add_row(f"  {label}", *(Text(cell, style=style) for cell in cells))
        table.add_section()
    console.print(table)
    show_below(comparison, console)


def uncut(console: Console | None = None) -> Console:
    """A terminal as it is; a file or a pipe without colours, and so wide that no line is cut."""
    console = console or Console(highlight=False)
    if console.is_terminal:
        return console
    return Console(file=console.file, width=1000, color_system=None, highlight=False)


def show_below(comparison: Comparison, console: Console) -> None:
    """The sentences of the pairs that matter most, and the notes."""
    for lines in (verdicts(comparison, "the files below"), comparison["notes"]):
        console.print("", *map(Text, lines), sep="\n")
    console.print()


def markdown_below(comparison: Comparison) -> list[str]:
    """The same as lines of a page, and the table of the pairs."""
    below: list[str] = []
    for texts in (verdicts(comparison, "the table below"), comparison["notes"]):
        below += ["", *(f"- {text}" for text in texts)]
    headings, rows = pairs.table(comparison)
    if rows:
        below += ["", "## Pairs", "", line(headings), line(["---"] * len(headings)), *map(line, rows)]
        below += [part for text in pairs.about(comparison) for part in ("", text)]
    return below


def markdown(comparison: Comparison) -> str:
    """The same as a page."""
    names = [system["name"] for system in comparison["systems"]]
    lines = [f"# {title(comparison)}", "", line(["", *names]), line(["---", *["---:"] * len(names)])]
    for heading, rows in sections(comparison):
        lines.append(line([f"**{heading}**", *[""] * len(names)]))
        lines += [line([label, *cells]) for label, cells in rows]
    lines += markdown_below(comparison)
    return "\n".join(lines) + "\n"


def title(comparison: Comparison) -> str:
    counts = {"utterance": "utterances", "speaker": "speakers", "word": "words", "character": "characters"}
    found = ((comparison[many], one, many) for one, many in counts.items())
    return f"{comparison['test']}: {', '.join(f'{n:,} {one if n == 1 else many}' for n, one, many in found if n)}"


def sections(comparison: Comparison) -> list[Section]:
    systems = comparison["systems"]

    def row(label: str, of: Any) -> Row:
        return label, [of(system) for system in systems]

    found: list[Section] = []
    for level, unit in (("wer", "words"), ("cer", "characters")):
        rows = [
            row(f"{level.upper()} %", lambda s, k=level: percent(s[k]["percent"])),
            row("95 %, by utterance", lambda s, k=level: interval(s[k]["interval_95"])),
            row("95 %, by speaker", lambda s, k=level: interval(s[k]["interval_95_by_speaker"])),
            row("standard deviation over seeds", lambda s, k=level: percent(s[k]["deviation"])),
            row("sub, del, ins", lambda s, k=level: " ".join(count(s[k][e]) for e in ("sub", "del", "ins"))),
        ]
        if level == "wer":
            rows.append(row("sentences wrong %", lambda s: percent(s["sentences_wrong_percent"])))
        found.append((f"errors in {unit}", rows))
    found.append(
        (
            "what was trained and searched",
            [
                row("losses", lambda s: s["losses"]),
                row("encoder began with", lambda s: _began(s["init"])),
                row("views of an utterance", lambda s: str(s["views"])),
                row("seeds", lambda s: " ".join(str(run["seed"]) for run in s["runs"])),
                row("search", lambda s: s["search"]),
                *((f"not equal: {key}", [values[s["name"]] for s in systems]) for key, values in _allowed(comparison)),
            ],
        )
    )
    for heading, measures in (("what it costs", COSTS), ("how it decodes", PROPERTIES)):
        rows = [
            row(measure.heading, lambda s, k=key, m=measure: _shown(s["measures"][k]["value"], m.show))
            for key, measure in measures.items()
        ]
        found.append((heading, rows))
    return found


def _began(init: str) -> str:
    return f"{init} weights" if init != "random weights" else init


def verdicts(comparison: Comparison, place: str) -> list[str]:
    """The sentences that matter most; where the others are found, if there are any."""
    first, rest = pairs.leading(comparison)
    found = [f"{pair['sentence']}." for pair in first]
    return [*found, f"{pairs.others(rest).capitalize()}: in {place}."] if rest else found


def _allowed(comparison: Comparison) -> Sequence[tuple[str, dict[str, str]]]:
    return list(comparison["fair"]["not_equal"].items())


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def count(value: float) -> str:
    """A number of errors; a mean over seeds with a digit more."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def interval(bounds: list[float] | None) -> str:
    return f"{bounds[0]:.1f}-{bounds[1]:.1f}" if bounds else "-"


def _shown(value: Any, show: Any) -> str:
    return "-" if value is None else show(value)
