"""The table of `asrtts crossvalidate`: a row for every setting, its error rates over all folds and in each."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asrtts.comparison.notes import of_pairs, of_speakers
from asrtts.comparison.table import interval, line, markdown_below, percent, show_below, title, uncut

Found = dict[str, Any]


def show(found: Found, console: Console | None = None) -> None:
    """Print it: as wide as fits in a terminal, plain and never cut in a file or a pipe."""
    console = uncut(console)
    console.print(heading(found))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    headings, rows = cells(found)
    for name in headings:
        table.add_column(name, justify="right" if name != headings[0] else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    show_below(found, console)


def markdown(found: Found) -> str:
    """The same as a page."""
    headings, rows = cells(found)
    lines = [f"# {heading(found)}", "", line(headings), line(["---", *["---:"] * (len(headings) - 1)])]
    lines += [*map(line, rows), *markdown_below(found)]
    return "\n".join(lines) + "\n"


def heading(found: Found) -> str:
    return title({**found, "test": f"{found['folds']} folds by {found['by']}"})


def cells(found: Found) -> tuple[list[str], list[list[str]]]:
    """The headings, and a row for every setting."""
    rate = "wer" if found["judged_by"] == "words" else "cer"
    numbers = range(1, found["folds"] + 1)
    headings = ["", "WER %", "95 %", "by speaker", "CER %", "95 %", *(f"{rate.upper()}, fold {n}" for n in numbers)]
    rows = []
    for system in found["systems"]:
        wer, cer = system["wer"], system["cer"]
        row = [percent(wer["percent"]), interval(wer["interval_95"]), interval(wer["interval_95_by_speaker"])]
        row += [percent(cer["percent"]), interval(cer["interval_95"])]
        rows.append([system["name"], *row, *(percent(fold[rate]) for fold in system["folds"])])
    return headings, rows


def notes(found: Found) -> list[str]:
    """What stands below the table."""
    about = (
        f"Each setting is {found['folds']} models of one seed, and each speaks of the fold that it was not trained on: "
        "what another seed would give is not in the intervals."
    )
    begun = [f"Each model begins with an encoder that {found['encoder']} trained on the same folds."]
    changed = [f"{s['name']}: {','.join([s['conf'], *s['settings']])}." for s in found["systems"] if s["settings"]]
    of_all = [f"Set in all: {' '.join(found['common'])}."] if found["common"] else []
    tests = of_pairs(found) if len(found["systems"]) > 1 else []
    return [*tests, about, *(begun if found["encoder"] else []), *of_speakers(found["speakers"]), *changed, *of_all]
