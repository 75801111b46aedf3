"""The plots of the page of `asrtts compare`: training curves, and error against cost, as SVG in the page's colours.

Drawn by matplotlib, whose SVG is small, still and needs no script. A system is told by its marker and its dashes as
well as by its colour; the colours are Okabe and Ito's, a shade darker where white paper asks for it.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asrtts.comparison.fairness import System, common
from asrtts.comparison.measuring import Missing
from asrtts.storage import parse_json
from asrtts.training.journal import LOG

POINTS = 80  # of a curve; more of them are averaged
MARKERS = "osD^vPX*<>"
DASHES = ["-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2))]
COLOURS = 7  # --s0 to --s6 of page.css
INK = "#010203"  # stands for the page's own ink, and #0a000N for its N-th colour

Curve = list[tuple[float, float]]
Plot = dict[str, str]
Point = tuple[int, dict[str, Any], float, float, Any]  # number and row of a system, cost, error, its interval


def style(number: int) -> dict[str, Any]:
    """How the n-th system is drawn: no two of the first seventy alike, nor of the first seven without colour."""
    return {
        "color": f"#0a000{number % COLOURS}",
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
    }


# Training curves --------------------------------------------------------------------------------------------------


def curves(systems: Sequence[System]) -> tuple[list[Plot], list[str]]:
    """Training loss and validation error against updates, every run a line; and what is left out, with the reason.

    Several decodings of a run have one training: its line is that of the first.
    """
    found: list[tuple[int, str, tuple[Curve, Curve]]] = []
    missing: dict[str, list[str]] = defaultdict(list)  # reason -> runs
    first: dict[Path, str] = {}
    for number, system in enumerate(systems):
        for member, label in zip(system.members, system.labels, strict=True):
            drawn = first.setdefault(member.exp.resolve(), label)
            history = read(member.exp) if drawn == label else Missing(f"it is that of {drawn}")
            if isinstance(history, Missing):
                missing[history].append(label)
            else:
                found.append((number, system.name, history))
    plots = []
    for heading, which, axis in (
        ("Training loss", 0, "loss, nats an utterance"),
        ("Validation error", 1, "wrong tokens, %"),
    ):
        lines = [(number, name, history[which]) for number, name, history in found if history[which]]
        if lines:
            drawn = _svg(lambda axes, lines=lines, axis=axis: _lines(axes, lines, axis), heading)
            plots.append({"heading": heading, "svg": drawn})
    return plots, [f"No training curve: {', '.join(labels)}: {reason}." for reason, labels in missing.items()]


def read(exp: Path) -> tuple[Curve, Curve] | Missing:
    """The training losses of a run and its validation errors in percent, by update."""
    path = exp / LOG
    if not path.is_file():
        return Missing(f"there is no {LOG}")
    losses, errors = [], []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = parse_json(line)
            if "validation" in event:
                errors.append((float(event["update"]), 100 * float(event["validation"]["error"])))
            elif "loss" in event:
                losses.append((float(event["update"]), float(event["loss"])))
        except (ValueError, KeyError, TypeError, OverflowError):
            continue  # half a line, written as the process was killed
    losses, errors = ([point for point in curve if all(map(math.isfinite, point))] for curve in (losses, errors))
    if not losses and not errors:
        return Missing(f"{LOG} holds no update")
    return _averaged(losses), errors


def _averaged(curve: Curve) -> Curve:
    """At most POINTS points, each the mean of its neighbours."""
    width = -(-len(curve) // POINTS) or 1
    groups = (curve[first : first + width] for first in range(0, len(curve), width))
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _lines(axes: Any, lines: Sequence[tuple[int, str, Curve]], label: str) -> None:
    named: set[str] = set()
    for number, name, curve in lines:
        x, y = zip(*curve, strict=True)
        shown = None if name in named else name  # further seeds look alike
        named.add(name)
        axes.plot(x, y, label=shown, markevery=max(1, len(x) // 6), linewidth=1.4, markersize=5, **style(number))
    values = [value for _, _, curve in lines for _, value in curve]
    low, high = min(values), max(values)
    if low > 0 and high > 20 * low:
        axes.set_yscale("log")
        _plain(axes.yaxis)
    else:
        axes.set_ylim(bottom=min(0, low), top=None if high > 0 else 1)
    axes.set_xlabel("updates")
    axes.set_ylabel(label)


# Error against cost -----------------------------------------------------------------------------------------------


def costs(comparison: dict[str, Any]) -> tuple[list[Plot], list[str]]:
    """The judged error rate against multiply-adds and against bytes; sizes of one family are joined by a line."""
    rate = "wer" if comparison["judged_by"] == "words" else "cer"
    axes: list[tuple[str, str, Callable[[Any], Any]]] = [
        ("multiply-adds", "millions of multiply-adds a second of audio", _macs),
        ("size", "size on disk, MB", lambda m: m["size_mb"]["value"]),
    ]
    plots, lines = [], []
    for what, label, of in axes:
        points = []
        missing: dict[str, list[str]] = defaultdict(list)  # reason -> systems
        for number, system in enumerate(comparison["systems"]):
            cost, error = of(system["measures"]), system[rate]["percent"]
            if cost is None or error is None:
                missing[_why(system, what)].append(system["name"])
            else:
                points.append((number, system, cost, error, system[rate]["interval_95"]))
        if len(points) > 1:
            heading = f"{rate.upper()} against {what}"
            drawn = _svg(lambda a, p=points, x=label: _scatter(a, p, x, f"{rate.upper()} %"), heading)
            plots.append({"heading": heading, "svg": drawn})
        lines += [f"Not drawn against {what}: {', '.join(names)}: {reason}." for reason, names in missing.items()]
    return plots, lines


def family(system: dict[str, Any]) -> str:
    """Systems of one family differ in their size only: heads, losses and search are the same, but for tuned weights."""
    search = [system["decode"].get(key) for key in ("method", "beam", "lm", "lodr")]
    return f"{system['losses']}, {system['views']} views, {search}, {system['search_effort']}"


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those (cost, error) that no other point beats in both, the cheapest first."""
    best: list[tuple[float, float]] = []
    for cost, error in sorted(points):
        if not best or error < best[-1][1]:
            best.append((cost, error))
    return best


def _macs(measures: dict[str, Any]) -> float | None:
    parts = [measures[key]["value"] for key in ("encoder_macs", "search_macs")]
    return None if None in parts else sum(parts)


def _why(system: dict[str, Any], what: str) -> str:
    keys = ("encoder_macs", "search_macs") if what == "multiply-adds" else ("size_mb",)
    reason = next((why for key in keys if (why := system["measures"][key]["why"])), None)
    return reason or "no error rate, since the references hold no words"


def _scatter(axes: Any, points: Sequence[Point], x: str, y: str) -> None:
    families: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        families[family(point[1])].append(point)
    for sizes in families.values():
        _sizes(axes, sizes)
    best = frontier([(cost, error) for _, _, cost, error, _ in points])
    xs, ys = zip(*best, strict=True)
    axes.step(xs, ys, where="post", color=INK, alpha=0.35, linewidth=5, solid_joinstyle="round", zorder=0)
    cheapest, dearest = (end(cost for _, _, cost, _, _ in points) for end in (min, max))
    if dearest > 5 * cheapest:
        axes.set_xscale("log")
        _plain(axes.xaxis)
    else:
        axes.set_xlim(left=0, right=1.1 * dearest or 1)
    axes.set_ylim(bottom=0, top=None if any(error for *_, error, _ in points) else 1)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _sizes(axes: Any, points: Sequence[Point]) -> None:
    """The sizes of a family look alike; each says beside it what its name has of its own."""
    look = style(points[0][0])
    names = [system["name"] for _, system, *_ in points]
    heading: str | None = common(names) or ", ".join(names)
    for (_, _, cost, error, interval), own in zip(points, apart(names), strict=True):
        spread = [[max(0, error - interval[0])], [max(0, interval[1] - error)]] if interval else None
        bar = {**look, "linestyle": "none", "label": heading}
        axes.errorbar(cost, error, yerr=spread, capsize=3, markersize=7, elinewidth=1.2, **bar)
        axes.annotate(own, (cost, error), (5, 5), textcoords="offset points", fontsize=8)
        heading = None  # the legend names a family once
    if len(points) > 1:
        xs, ys = zip(*sorted((cost, error) for _, _, cost, error, _ in points), strict=True)
        axes.plot(xs, ys, linewidth=1.2, color=look["color"], linestyle=look["linestyle"])


def apart(names: Sequence[str]) -> list[str]:
    """What each name has of its own: ctc-dim72, ctc-dim144 -> dim72, dim144; nothing for one that stands alone."""
    if len(names) == 1:
        return [""]
    parts = [name.split("-") for name in names]
    if len(set(map(len, parts))) > 1:
        return list(names)
    columns = [column for column in zip(*parts, strict=True) if len(set(column)) > 1]
    return ["-".join(own) for own in zip(*columns, strict=True)]


# SVG --------------------------------------------------------------------------------------------------------------


def _svg(draw: Callable[[Any], None], heading: str) -> str:
    """What `draw` puts on axes, as an SVG element without colours and sizes of its own."""
    import matplotlib  # here: it takes half a second
    from matplotlib.figure import Figure

    settings = {
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK),
        **{"svg.fonttype": "none", "svg.hashsalt": heading, "font.size": 10, "axes.grid": True, "grid.alpha": 0.15},
        "text.parse_math": False,  # a name may have dollar signs
        **{"grid.color": INK, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False},
    }
    with matplotlib.rc_context(settings):
        figure = Figure(layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        handles, names = axes.get_legend_handles_labels()
        columns = 1 if any(len(name) > 18 for name in names) else 2
        rows = -(-len(names) // columns)
        figure.set_size_inches(5.2, 3.6 + 0.2 * max(0, rows - 4))  # else a long legend would leave no room to draw
        figure.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=3, borderaxespad=0)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    for number in range(COLOURS):
        svg = svg.replace(f"#0a000{number}", f"var(--s{number})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{heading}" ', 1)


def _plain(axis: Any) -> None:
    """Numbers as people write them on a logarithmic axis: 20, 50, 100."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())
