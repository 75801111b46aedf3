"""compare.html: all of a comparison in one file that loads nothing, with its utterances to read, hear and look at."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asrtts import __version__
from asrtts.comparison import page_utterances, pairs, plots, table
from asrtts.comparison.fairness import System
from asrtts.comparison.measuring import MEASURES

# Columns of the table that can be sorted: key of the measure, heading.
COLUMNS = {
    "parameters": "parameters",
    "size_mb": "MB on disk",
    "encoder_macs": "M mult.-adds/s, encoder",
    "search_macs": "M mult.-adds/s, search",
    "rtf": "RTF",
    "train_minutes": "training, min",
}


def html(
    comparison: dict[str, Any],
    systems: Sequence[System],
    rows: Sequence[page_utterances.Row],
    media: dict[int, dict[str, Any]],
) -> str:
    """The page.

    Args:
        rows: of `page_utterances.rows`.
        media: of `media.media`, by the number of its row.
    """
    listed = range(len(rows))
    if len(rows) > page_utterances.LISTED:
        listed = sorted({*page_utterances.informative(rows, page_utterances.LISTED), *media})
    place = {number: at for at, number in enumerate(listed)}
    shown = {
        "names": [system["name"] for system in comparison["systems"]],
        "seeds": [[run["seed"] for run in system["runs"]] for system in comparison["systems"]],
        "rows": [rows[number] for number in listed],
        "media": [place[number] for number in media],
    }
    leading, rest = pairs.leading(comparison)
    headings, every_pair = pairs.table(comparison)
    curves, no_curves = plots.curves(systems)
    costs, no_costs = plots.costs(comparison)
    environment = Environment(
        loader=PackageLoader("asrtts.comparison", "_page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": table.count, "breakable": breakable}
    folder = resources.files("asrtts.comparison") / "_page"
    return environment.get_template("page.html").render(
        title=table.title(comparison),
        comparison=comparison,
        columns=COLUMNS,
        measures=MEASURES,
        sections=table.sections(comparison),
        pairs={
            **{"leading": leading, "rest": rest, "others": pairs.others(rest)},
            **{"headings": headings, "rows": every_pair, "about": pairs.about(comparison)},
        },
        scales={level: scale(comparison["systems"], level) for level in ("wer", "cer")},
        plots=[{**plot, "svg": Markup(plot["svg"])} for plot in (*curves, *costs)],
        not_drawn=[*no_curves, *no_costs],
        data=shown,
        media=[(place[number], of) for number, of in media.items()],
        left_out=len(rows) - len(listed),
        speakers=sorted({row["speaker"] for row in shown["rows"]} - {""}),
        unsure=any(value is not None for row in shown["rows"] for value in row["sure"]),
        version=__version__,
        style=Markup((folder / "page.css").read_text("utf-8")),
        script=Markup((folder / "page.js").read_text("utf-8")),
    )


def breakable(name: str) -> Markup:
    """A name that may be broken where its parts meet, and nowhere else."""
    return Markup("<wbr>").join(re.split(r"(?<=[_:/=])(?=.)", name))


def scale(systems: Sequence[dict[str, Any]], level: str) -> float:
    """Where the axis of the intervals ends: a round number of percent beyond all of them."""
    ends = [system[level]["percent"] or 0 for system in systems]
    for system in systems:
        ends += [bounds[1] for key in ("interval_95", "interval_95_by_speaker") if (bounds := system[level][key])]
        ends += [run["percent"] or 0 for run in system[level]["runs"]]
    top = max(ends) or 1.0
    step = 10 ** math.floor(math.log10(top))
    return next(step * factor for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * factor >= top)
