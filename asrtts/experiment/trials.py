"""Try a few updates of a training in a process of its own, smallest batches first, and measure what they cost."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrtts.data import batching, features
from asrtts.data.batching import Request
from asrtts.data.worker import end_with_parent
from asrtts.experiment.settings import task
from asrtts.registry import UserError
from asrtts.training import cost_model, parallel
from asrtts.training.cost_model import Costs, Trial
from asrtts.training.trainer import TooLarge, Trainer

FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of batching.seconds, tried in this order
PATIENCE = 30.0  # seconds of trials; what would take longer is extrapolated
EXTREMES, OTHERS = 2, 6  # batches of a size: first of the longest and of middling utterances, then as they come


@dataclass(frozen=True)
class Child:
    """What the process that tries the batches says of itself."""

    parameters: int
    worker_bytes: int  # of a process that makes batches: all it has loaded before it builds a model


def of_one(batch: batching.Config, processes: int) -> batching.Config:
    """What one process holds of each batch."""
    count = max(1, batch.max_utterances // processes)
    return batch.model_copy(update={"seconds": batch.seconds / processes, "max_utterances": count})


def run_trials(
    settings: Any, index: batching.Index, device: torch.device, usable: float, processes: int
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


def batches_of(settings: Any, seconds: np.ndarray, size: float) -> Iterator[Request]:
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
def laboratory(settings: Any, device: torch.device, processes: int = 1):
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


def _try_batches(pipe: Connection, settings: Any, device_name: str, folder: str, processes: int) -> None:
    """The child: answers each request with what `measure` gives, or None where memory runs out, until it is ended."""
    end_with_parent()
    os.environ.pop("RANK", None)  # under torchrun: it would wait for the others
    device = torch.device(device_name)
    parallel.use_threads(settings.training.threads, processes if processes > 1 else None)
    try:
        batching.Index(settings.data.train)
        loaded = cost_model.peak(torch.device("cpu"))
        opened = task(settings.task).open(settings, device)
        alone = settings.training.model_copy(update={"accumulate": 1})
        trainer = Trainer(opened.trainable.train(), alone, Path(folder), settings.seed, device)
        trainer.skips_too_large = False
        pipe.send(Child(opened.parameters(), loaded))
        none = features.Statistics(torch.zeros(1), torch.ones(1))
        data = opened.dataset(none)
        while True:
            request = pipe.recv()
            batch = data[request]
            if data.statistics is none:
                data.statistics = features.Statistics.of([(batch["feats"], batch["feat_lens"])])
                batch = data[request]
            try:
                pipe.send(cost_model.measure(trainer, batch))
            except TooLarge:
                pipe.send(None)
    except UserError as error:
        pipe.send(error)
    except EOFError:
        pass


def shape_of(settings: Any, seconds: np.ndarray, request: Request) -> tuple[float, float]:
    """The padded seconds of a batch and its longest utterance."""
    longest = float((seconds[list(request.indices)] / request.speeds).max())
    if multiple := settings.batching.round_seconds:
        longest = math.ceil(longest / multiple) * multiple
    longest = round(longest / settings.features.hop_seconds) * settings.features.hop_seconds
    return len(request.indices) * longest, longest
