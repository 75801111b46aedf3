"""What a training takes with batches of a size: hours, updates and memory, from the costs that were measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from asrtts.data import batching
from asrtts.experiment.trials import shape_of
from asrtts.training.cost_model import Costs

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


def plan(
    settings: Any,
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
