"""Say before a training what it takes on this machine: hours, memory, and the largest batch that fits."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from asrtts import storage
from asrtts.config import ArgumentParser, whole
from asrtts.data import batching
from asrtts.experiment.cost_plan import Plan, plan
from asrtts.experiment.settings import load
from asrtts.experiment.trials import Child, run_trials
from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import cost_model, parallel
from asrtts.training.cost_model import Costs
from asrtts.training.trainer import wants_bf16

SHARE = 0.8  # of the free memory: others use the machine too, and the predictions are no better
MOST_PROCESSES = 4096


def parser() -> ArgumentParser:
    args = ArgumentParser("plan", __doc__)
    args.add_argument("conf", help="settings, e.g. conf/ctc.yaml")
    what = "the training manifest, if it is not data.train; overrides, e.g. batching.seconds=80"
    args.add_argument("settings", nargs="*", default=[], metavar="manifest|key=value", help=what)
    args.add_argument("--memory-gb", type=float, metavar="GB", help="memory to plan for (default: what is free now)")
    many = "processes that torchrun will start (default: WORLD_SIZE, else 1): each has its part of every batch, and a "
    many += "GPU of its own, or all of them share this machine's cores and memory"
    args.add_argument("--processes", type=whole(1, MOST_PROCESSES), default=_world_size(), metavar="N", help=many)
    args.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    args.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    args.epilog = (
        "A few updates are tried in a process of its own, smallest batches first, for about half a minute. "
        "Nothing is trained or kept. Exit status 2 says that batching.seconds as set does not fit."
    )
    return args


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    if os.environ.get("RANK", "0") != "0":
        return  # torchrun started several: the first one plans
    if args.memory_gb is not None and not args.memory_gb > 0:
        raise UserError(f"--memory-gb {args.memory_gb:g}: wanted a number above 0")
    processes = args.processes
    settings = load(args.conf, _overrides(args.settings))
    if settings.task != "recognition":
        raise UserError(f"{args.conf}: plan knows recognition alone, this is task: {settings.task}")
    device = parallel.pick_device(args.device)
    index = batching.Index(settings.data.train)
    Tokenizer.load(Path(settings.data.tokens))  # refused now, not by the process that tries
    memory = args.memory_gb * 1e9 if args.memory_gb else cost_model.free(device)
    here = processes if device.type == "cpu" else 1  # processes that this memory is for
    usable = SHARE * memory / here
    child, trials = run_trials(settings, index, device, usable, processes)
    costs = Costs.of(trials)
    makers = settings.training.workers * child.worker_bytes if device.type == "cpu" else 0
    longest = float(index.seconds.max()) / min(settings.augmentation.speed)
    largest = processes * costs.largest(usable - makers, longest)
    corpus = max(float(index.seconds.sum()), processes * longest)  # each process has an utterance at least
    fits = _rounded_down(min(largest, corpus))
    sizes = [settings.batching.seconds, *([fits] if fits >= processes * longest else [])]
    plans = [plan(settings, index.seconds, costs, size, makers, processes, here) for size in sizes]
    show(settings, index, device, child, memory, plans, processes)
    if args.json:
        numbers = {"parameters": child.parameters, "memory_gb": memory / 1e9, "share": SHARE, "trials": trials}
        numbers |= {"processes": processes, "as_set": plans[0], "largest": plans[1] if len(plans) > 1 else None}
        storage.write(args.json, json.dumps(numbers, indent=1, default=asdict) + "\n")
    refuse_too_large(args.conf, plans, memory)


def _overrides(words: list[str]) -> list[str]:
    """The words behind conf/x.yaml as settings: one without "=" is the manifest."""
    return [word if "=" in word else f"data.train={word}" for word in words]


def _world_size() -> int:
    """What torchrun or a scheduler says, if it is there and a number."""
    text = os.environ.get("WORLD_SIZE", "1")
    return max(1, int(text)) if text.isdecimal() else 1


def show(
    settings: Any,
    index: batching.Index,
    device: torch.device,
    child: Child,
    memory: float,
    plans: list[Plan],
    processes: int,
) -> None:
    """One table: a column for the batch as set and one for the largest that fits."""
    training = settings.training
    many = processes if processes > 1 else None
    threads = f", {training.threads or parallel.cores(many)} threads" if device.type == "cpu" else ""
    threads += f" each of {processes} processes" if many else ""
    precision = "bf16" if wants_bf16(training.precision, device) else "float32"
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False, highlight=False)
    console.print(f"{'+'.join(settings.heads)}: {child.parameters / 1e6:.2f} M parameters, {precision}, ", end="")
    console.print(f"{device.type}{threads}; {len(index)} utterances, {index.seconds.sum() / 3600:.2f} h")
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("as set", "largest that fits")[: len(plans)]:
        table.add_column(title, justify="right")
    rows = {
        "batching.seconds": [f"{p.batch_seconds:g}" for p in plans],
        "updates per epoch": [f"{p.updates_per_epoch:,.0f}" for p in plans],
        "seconds per update": [f"{p.seconds_per_update:.3g}" for p in plans],
        "hours per epoch": [f"{p.hours_per_epoch:.3g}" for p in plans],
        f"hours for {training.updates:,} updates": [f"{p.hours:.3g}" for p in plans],
        "peak memory": [f"{p.peak_gb:.2f} GB" for p in plans],
    }
    for title, values in rows.items():
        table.add_row(title, *values)
    console.print(table)
    left_out = "validation and what the processes send each other are" if many else "validation is"
    console.print(f"{memory / 1e9:.2f} GB of memory, of which {SHARE:.0%} are planned for; {left_out} not counted")


def refuse_too_large(conf: str, plans: list[Plan], memory: float) -> None:
    """Raises UserError if the batch as set, the first of the plans, takes more than the memory allows."""
    as_set = plans[0]
    if as_set.peak_gb * 1e9 <= SHARE * memory:
        return
    fits = f"batching.seconds={plans[1].batch_seconds:g} is the largest that fits" if len(plans) > 1 else ""
    raise UserError(
        f"{conf}: batching.seconds={as_set.batch_seconds:g} takes {as_set.peak_gb:.2f} GB at its peak; "
        f"{SHARE * memory / 1e9:.2f} GB can be used, {SHARE:.0%} of {memory / 1e9:.2f}; "
        + (fits or "no batch with the longest utterance fits: take a smaller model, or drop long ones in stage 1")
    )


def _rounded_down(seconds: float) -> float:
    """To two digits, as a person would write it."""
    if seconds <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return round(math.floor(seconds / step) * step, 6)
