"""Say before a training what it takes on this machine: hours, memory, and the largest batch that fits."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from asrtts import experiment, storage
from asrtts.bin.train import training_data
from asrtts.config import ArgumentParser, Made, whole
from asrtts.data import batching, features
from asrtts.data.batching import Request
from asrtts.data.worker import end_with_parent
from asrtts.experiment import Experiment, Run
from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer
from asrtts.training import cost_model, parallel
from asrtts.training.cost_model import Costs, Trial
from asrtts.training.trainer import Trainer, wants_bf16

SHARE = 0.8  # of the free memory: others use the machine too, and the predictions are no better
FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of batching.seconds, tried in this order
PATIENCE = 30.0  # seconds of trials; what would take longer is extrapolated
EXTREMES, OTHERS = 2, 6  # batches of a size: first of the longest and of middling utterances, then as they come
MOST_PROCESSES = 4096
SAMPLE = 50_000  # utterances of an epoch that are cut into batches, to know how many there are


@dataclass(frozen=True)
class Plan:
    """What trainings with batches of one size take."""

    batch_seconds: float  # batching.seconds
    updates_per_epoch: float
    seconds_per_update: float
    hours_per_epoch: float
    hours: float  # for training.updates, without validation
    peak_gb: float  # of all processes on this machine; on a GPU, of its memory


@dataclass(frozen=True)
class Child:
    """What the process that tries the batches says of itself."""

    parameters: int
    worker_bytes: int  # of a process that makes batches: all it has loaded before it builds a model


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


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    experiment.load(args.conf, _overrides(args.settings))


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    if os.environ.get("RANK", "0") != "0":
        return  # torchrun started several: the first one plans
    if args.memory_gb is not None and not args.memory_gb > 0:
        raise UserError(f"--memory-gb {args.memory_gb:g}: wanted a number above 0")
    processes = args.processes
    settings = experiment.load(args.conf, _overrides(args.settings))
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


def of_one(batch: batching.Config, processes: int) -> batching.Config:
    """What one process holds of each batch."""
    count = max(1, batch.max_utterances // processes)
    return batch.model_copy(update={"seconds": batch.seconds / processes, "max_utterances": count})


def run_trials(
    settings: Experiment, index: batching.Index, device: torch.device, usable: float, processes: int
) -> tuple[Child, list[Trial]]:
    """Try one process's part of batches, smaller ones first, until they would take more than `usable` bytes or all of
    the patience.

    Raises:
        UserError: even the smallest runs out of memory.
    """
    trials: list[Trial] = []
    seen: set[tuple[float, float]] = set()
    settings = settings.model_copy(update={"batching": of_one(settings.batching, processes)})
    sizes = [settings.batching.seconds * fraction for fraction in FRACTIONS]

    def attempt(request: Request) -> bool:
        """Whether it could be afforded."""
        shape = padded, longest = shape_of(settings, index.seconds, request)
        if shape in seen:
            return True
        if trials:
            costs, past = Costs.of(trials), time.monotonic() - started
            soon = past + 2 * float(costs.seconds(padded, longest, 1.0))
            if soon > PATIENCE or max(trials[-1].peak, costs.peak(padded, longest, len(seen) + 1)) > usable:
                return False
        seen.add(shape)
        if cost := run(request):
            trials.append(Trial(padded, longest, len(seen), *cost))
        return cost is not None

    with laboratory(settings, device, processes) as (child, run):
        if run(next(batches_of(settings, index.seconds, sizes[0]))) is None:  # loads what all others use
            raise UserError(f"a batch of {sizes[0]:g} s already runs out of memory; take a smaller model")
        started, reached = time.monotonic(), sizes[0]
        for size in sizes:
            if not all(map(attempt, itertools.islice(batches_of(settings, index.seconds, size), EXTREMES))):
                break
            reached = size
        others = itertools.islice(batches_of(settings, index.seconds, reached), EXTREMES, EXTREMES + OTHERS)
        all(map(attempt, others))
    return child, trials


def batches_of(settings: Experiment, seconds: np.ndarray, size: float) -> Iterator[Request]:
    """Batches of `size` seconds as training cuts them: of the longest utterances, of middling ones, then of any."""
    config, slowest = settings.batching, min(settings.augmentation.speed)
    order = np.argsort(seconds, kind="stable")
    for top in (len(order), len(order) // 2 + 1):
        longest = float(seconds[order[top - 1]]) / slowest
        count = max(1, min(int(size / longest), config.max_utterances))
        indices = np.resize(order[max(0, top - count) : top][::-1], count).tolist()
        yield Request(1, 0, tuple(indices), (slowest,) * count, count)
    config = config.model_copy(update={"seconds": size})
    yield from batching.requests(config, settings.augmentation, seconds, settings.seed)


@contextmanager
def laboratory(settings: Experiment, device: torch.device, processes: int = 1):
    """A process that trains a model on what it is asked to, so that its memory is that of a training.

    Gives what it says of itself, and a function that tries a request: None if that ran out of memory.

    Raises:
        UserError: what the settings, the data or the tokens do not allow.
    """
    context = multiprocessing.get_context("spawn")  # a fork would begin with this process's memory
    here, there = context.Pipe()
    scratch = tempfile.TemporaryDirectory()
    given = there, settings, str(device), scratch.name, processes
    process = context.Process(target=_try_batches, args=given, daemon=True)
    process.start()
    there.close()

    def receive() -> Any:
        try:
            answer = here.recv()
        except (EOFError, ConnectionError):
            return None
        if isinstance(answer, UserError):
            raise answer
        return answer

    def run(request: Request) -> tuple[float, float, int] | None:
        here.send(request)
        return receive()

    try:
        child = receive()
        if child is None:
            raise UserError("the model does not fit in the memory that is free; take a smaller one")
        yield child, run
    finally:
        here.close()
        process.terminate()
        process.join()
        scratch.cleanup()


def _try_batches(pipe: Connection, settings: Experiment, device_name: str, folder: str, processes: int) -> None:
    """The child: answers each request with what `measure` gives, or None where memory runs out, until it is ended."""
    end_with_parent()
    os.environ.pop("RANK", None)  # under torchrun: it would wait for the others
    device = torch.device(device_name)
    parallel.use_threads(settings.training.threads, processes if processes > 1 else None)
    try:
        index, tokenizer = batching.Index(settings.data.train), Tokenizer.load(Path(settings.data.tokens))
        loaded = cost_model.peak(torch.device("cpu"))
        model = Run(folder).build_model(settings, tokenizer.vocab_size)
        alone = settings.training.model_copy(update={"accumulate": 1})
        trainer = Trainer(model.train(), alone, Path(folder), settings.seed, device)
        pipe.send(Child(sum(p.numel() for p in model.parameters()), loaded))
        none = features.Statistics(torch.zeros(1), torch.ones(1))
        data = training_data(settings, index, none, tokenizer, model.views)
        while True:
            request = pipe.recv()
            batch = data[request]
            if data.statistics is none:
                data.statistics = features.Statistics.of([(batch["feats"], batch["feat_lens"])])
                batch = data[request]
            try:
                pipe.send(cost_model.measure(trainer, batch))
            except (torch.OutOfMemoryError, MemoryError):
                pipe.send(None)
    except UserError as error:
        pipe.send(error)
    except EOFError:
        pass


def shape_of(settings: Experiment, seconds: np.ndarray, request: Request) -> tuple[float, float]:
    """The padded seconds of a batch and its longest utterance."""
    longest = float((seconds[list(request.indices)] / request.speeds).max())
    if multiple := settings.batching.round_seconds:
        longest = math.ceil(longest / multiple) * multiple
    longest = round(longest / settings.features.hop_seconds) * settings.features.hop_seconds
    return len(request.indices) * longest, longest


def plan(
    settings: Experiment,
    seconds: np.ndarray,
    costs: Costs,
    size: float,
    makers: float,
    processes: int = 1,
    here: int = 1,
) -> Plan:
    """A training with batches of `size` seconds; `makers` bytes are held by the processes that make those of one.

    Each of so many processes takes its part of a batch, at the same time, of which the first has the most rows; `here`
    of them share the memory.
    """
    config, accumulate = settings.batching.model_copy(update={"seconds": size}), settings.training.accumulate
    shapes, covered = [], 0
    for request in batching.requests(config, settings.augmentation, seconds, settings.seed, world=processes):
        if request.epoch > 1 or covered >= SAMPLE:
            break
        shapes.append(shape_of(settings, seconds, request))
        covered += request.total
    padded, longest = np.array(shapes).T
    batches = len(shapes) * len(seconds) / covered
    of_batch = float(costs.seconds(padded, longest, len(set(shapes)) / len(shapes)).mean())
    return Plan(
        batch_seconds=size,
        updates_per_epoch=batches / accumulate,
        seconds_per_update=of_batch * accumulate,
        hours_per_epoch=of_batch * batches / 3600,
        hours=of_batch * accumulate * settings.training.updates / 3600,
        peak_gb=here * (costs.peak(padded, longest, len(set(shapes))) + makers) / 1e9,
    )


def show(
    settings: Experiment,
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
