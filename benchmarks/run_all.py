"""Run every benchmark and write one table of ratios: benchmarks/RESULTS.md.

    python benchmarks/run_all.py [--threads 1] [--repeat 5] [NAME ...]

Each script runs in a process of its own. One that fails is named at the end, and the exit status is 1.
With names, only these run, and the table is printed but not written: RESULTS.md holds one run of all. It is written
after each script, so that a run that is broken off leaves what it has, and says what it lacks.
"""

from __future__ import annotations

import datetime
import importlib
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from _common import NOT_INSTALLED, Row, arguments, machine, markdown

from asrtts import storage

HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """The scripts that have rows: those that hold `def rows(`."""
    others = [path for path in sorted(HERE.glob("*.py")) if not path.stem.startswith("_")]
    return [path.stem for path in others if "\ndef rows(" in path.read_text(encoding="utf-8")]


def measure(name: str, threads: int, repeat: int) -> list[Row]:
    """The rows of one script; each is shown as soon as it is there."""
    torch.set_num_threads(threads)
    found = []
    for row in importlib.import_module(name).rows(repeat):
        print(markdown([row]).splitlines()[-1], file=sys.stderr, flush=True)
        found.append(row)
    return found


def report(rows: list[Row], failed: list[str], waiting: list[str], begun: str, repeat: int) -> str:
    """The page: where and when, the table, and what it lacks."""
    missed = [f"{r.what} ({r.case}) against {r.peer}: {r.ratio:.3g}, wanted {r.goal:.3g}" for r in rows if r.missed]
    reached = sum(r.goal is not None and r.ratio is not None and not r.missed for r in rows)
    absent = sorted({r.peer for r in rows if r.note == NOT_INSTALLED})
    lines = [f"Goals reached: {reached}; missed: {'; '.join(missed) or 'none'}"]
    lines += [f"Peers that are not installed: {', '.join(absent) or 'none'}", *failed]
    lines += [f"Not run: {', '.join(waiting)}"] if waiting else []
    return (
        f"# Benchmarks\n\n`make bench`, {datetime.date.today().isoformat()}, on {begun} when it began; a load above "
        f"the number of threads is other work on the machine. Medians over {repeat} rounds or fewer.\n\n"
        "Time is ours / the peer's, measured in turns in one process; below 1 we are faster. How, and what the columns "
        "mean: `benchmarks/_common.py`.\n\n" + markdown(rows) + "".join(f"\n{line}.\n" for line in lines)
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())} (default: all)")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(names()))
    if unknown:
        parser.error(f"no benchmark is named {unknown[0]}; there are: {', '.join(names())}")
    torch.set_num_threads(args.threads)
    rows, failed, waiting, begun = [], [], args.names or names(), machine()
    while waiting:
        name, *waiting = waiting
        print(f"{name} ...", file=sys.stderr, flush=True)
        # An executor, not a Pool: its process may start processes, to measure memory.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            try:
                rows += executor.submit(measure, name, args.threads, args.repeat).result()
            except Exception as error:  # whatever it is, the other benchmarks are still worth their time
                failed.append(f"{name} failed: {type(error).__name__}: {' '.join(str(error).split()):.200}")
        text = report(rows, failed, waiting, begun, args.repeat)
        if not args.names:
            storage.write(HERE / "RESULTS.md", text)
    print(text if args.names else f"{HERE / 'RESULTS.md'}: {len(rows)} rows")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
