"""What the benchmark scripts share: how a figure is measured, and the one table that it stands in.

A script is one file `benchmarks/<name>.py` with a generator

    def rows(repeat: int = 5) -> Iterator[Row]: ...

which yields a `Row` for each comparison as soon as it is measured, and two lines at its end

    if __name__ == "__main__":
        main(__doc__, rows)

so that it can be run alone. `benchmarks/run_all.py` (`make bench`) gathers the rows of all scripts into RESULTS.md.

Time is the median over rounds, and in each round every way runs once: what else the machine does then hurts all ways
alike, and their ratio is to be trusted where the times are not. With one thread it is processor time of this process,
with more it is wall time. Peak memory is measured in a process of its own.

Peers (other people's programs) are found where Python finds them, or in the folders of PEER_PATH. A row whose peer is
missing is shown with the peer's name, and without a ratio.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import importlib.metadata
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from asrtts.training.computer import processor

sys.path += [folder for folder in os.environ.get("PEER_PATH", "").split(os.pathsep) if folder]


NOT_INSTALLED = "not installed"  # the note of a row whose peer is missing


@dataclass(frozen=True)
class Row:
    """One comparison. Times are seconds; memory is the extra peak of one run, in MiB. None: not measured."""

    what: str  # e.g. "fbank 80"
    case: str  # shapes, kinds of numbers, what else matters
    ours: float | None
    peer: str  # with its version: see `version`
    theirs: float | None = None
    ratio: float | None = None  # of `ratio(times, ours, theirs)`: the median over rounds
    goal: float | None = None  # the ratio that is wanted, at most
    ours_mib: float | None = None
    theirs_mib: float | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        return None not in (self.ratio, self.goal) and self.ratio > self.goal


def interleaved(ways: dict[str, Callable[[], object]], repeat: int = 5) -> dict[str, list[float]]:
    """Seconds of every way in every round, after one round that does not count (imports, compilation, first touch)."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeat + 1):
        for name, way in ways.items():
            begin = clock()
            way()
            if number:
                times[name].append(clock() - begin)
    return times


def ratio(times: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Median over rounds of ours / theirs."""
    return statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True))


def extra_peak_mib(prepare: Callable[..., Callable[[], object]], *args: object) -> float:
    """How far memory rises above what it was before, while `prepare(*args)()` runs in a process of its own.

    Args:
        prepare: a function of a module; it makes the inputs and has run the same on something tiny, so that imports
            and compilation do not count.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_extra_peak, (prepare, args, torch.get_num_threads()))


def _extra_peak(prepare: Callable[..., Callable[[], object]], args: tuple[object, ...], threads: int) -> float:
    torch.set_num_threads(threads)
    run = prepare(*args)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or memory that was freed, but not given back, would hide what is taken now
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    """KiB of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent p of values ~ sizes**p, by least squares of the logarithms; 1: grows as fast."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    return statistics.linear_regression(x, y).slope


def peer(module: str) -> ModuleType | None:
    """A peer's module, or None where it cannot be imported; if it is there and fails, that is said."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
    except Exception as error:  # a CUDA build whose libraries this machine has not, packages that do not fit together
        print(f"{module}: {type(error).__name__}: {' '.join(str(error).split()):.200}", file=sys.stderr)
        return None


def version(package: str) -> str:
    """e.g. "torch 2.13.0"; of what is on PEER_PATH, what the module says of itself."""
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        found = getattr(peer(package), "__version__", "(version unknown)")
    return f"{package} {found}"


def machine() -> str:
    """One line: processor, what it can, threads, versions, how busy it is."""
    return (
        f"{processor()}, {torch.get_num_threads()} thread(s), "
        f"Python {platform.python_version()}, {version('torch')}, {version('numpy')}, {version('numba')}, "
        f"load average {os.getloadavg()[0]:.1f}"
    )


def markdown(rows: Iterable[Row]) -> str:
    """The table of ratios. Smaller is better for us; a goal that is missed is set in bold."""
    lines = ["| what | case | ours ms | peer | peer ms | ratio | goal | extra MiB, ours / peer | note |"]
    lines += ["|---|---|---:|---|---:|---:|---:|---:|---|"]
    for row in rows:
        found = _number(row.ratio)
        cells = [row.what, row.case, _number(row.ours, 1e3), row.peer, _number(row.theirs, 1e3)]
        cells += [f"**{found}**" if row.missed else found, _number(row.goal)]
        cells += [" / ".join(_number(x) for x in (row.ours_mib, row.theirs_mib)) if row.ours_mib is not None else ""]
        lines.append(f"| {' | '.join([*cells, row.note])} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, scale: float = 1.0) -> str:
    """Three digits that count, without an exponent."""
    if value is None:
        return "-"
    value *= scale
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else f"{value:.0f}"


def arguments(doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch and of us (default: 1)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds of which the median is taken (default: 5)")
    return parser


def main(doc: str | None, rows: Callable[[int], Iterator[Row]]) -> None:
    """Run one script alone and print its table."""
    args = arguments(doc).parse_args()
    torch.set_num_threads(args.threads)
    print(machine(), markdown(rows(args.repeat)), sep="\n\n")
