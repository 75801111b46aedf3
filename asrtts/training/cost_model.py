"""What a training will cost, from a few updates that were tried: seconds and peak memory by the size of a batch.

With P the padded audio of a batch and L its longest utterance, in seconds, an update takes a + b P + c P L seconds:
encoder, heads and loss work on each frame, attention and a Transducer's lattice on each frame times the length. Memory
is m + n P + o P L + g K, where K counts the shapes of batches so far: oneDNN keeps what it compiled for each.
"""

from __future__ import annotations

import itertools
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from asrtts.training.trainer import Trainer

# Shapes whose kernels oneDNN keeps: its cache holds 1024 of them, of which a Conformer takes about 40 a shape. On AN4
# the memory of a training grew by 27 MB with each of the first 25 shapes, and little afterwards.
KEPT_SHAPES = 25


@dataclass(frozen=True, slots=True)
class Trial:
    """What one batch cost."""

    padded: float  # seconds of audio, padding included
    longest: float  # seconds
    shapes: int  # tried so far, this one included
    first: float  # seconds of an update with a new shape, which a CPU compiles for
    again: float  # of the next one
    peak: int  # bytes that this process has held so far


@dataclass(frozen=True)
class Costs:
    """Of an update, by its batch."""

    first: np.ndarray  # a, b, c of a shape that is new
    again: np.ndarray  # and of one that is not
    memory: np.ndarray  # m, n, o, g

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> Costs:
        sizes = np.array([[1.0, t.padded, t.padded * t.longest, t.shapes] for t in trials])
        columns = ("first", "again", "peak")
        first, again, held = (np.array([float(getattr(t, name)) for t in trials]) for name in columns)
        return cls(_fit(sizes[:, :3], first), _fit(sizes[:, :3], again), _fit(sizes, held))

    def seconds(self, padded: np.ndarray, longest: np.ndarray, new: float) -> np.ndarray:
        """Of an update with each of some batches, of which a share `new` has a new shape."""
        a, b, c = new * self.first + (1 - new) * self.again
        return a + b * padded + c * padded * longest

    def peak(self, padded: np.ndarray, longest: np.ndarray, shapes: int) -> float:
        """Bytes of a process that trains with batches like these, of so many shapes."""
        m, n, o, g = self.memory
        return float(m + np.max(n * padded + o * padded * longest) + g * min(shapes, KEPT_SHAPES))

    def largest(self, usable: float, longest: float) -> float:
        """The padded seconds whose peak is `usable` bytes; not above 0 if the model alone takes more."""
        m, n, o, g = self.memory
        return (usable - m - g * KEPT_SHAPES) / max(n + o * longest, 1.0)


def measure(trainer: Trainer, batch: dict[str, Any]) -> tuple[float, float, int]:
    """Update the model with one batch, twice: seconds of the first and of the second time, and the peak memory.

    The trainer is spoiled for any other use.

    Raises:
        torch.OutOfMemoryError: there is no room for it on the GPU.
    """
    took = []
    for _ in range(2):
        started = time.perf_counter()
        trainer._step(itertools.repeat(batch))
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        took.append(time.perf_counter() - started)
    return took[0], took[1], peak(trainer.device)


def peak(device: torch.device) -> int:
    """Bytes that this process has held at most: of the GPU, else of main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def free(device: torch.device) -> int:
    """Bytes that a process can have now: of the GPU, else of main memory and of the container's share of it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(available, _free_in_container(Path("/sys/fs/cgroup")))


def _free_in_container(group: Path) -> int:
    """Bytes below the limit of a control group (version 2); files that it caches can be dropped."""
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        held = int((group / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # none, or "max"
        return sys.maxsize
    return max(0, limit - held + int(stat.get("inactive_file", 0)))


def _fit(sizes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The weights (K,) >= 0 of columns of `sizes` (N, K) that give `values` (N,) > 0, least in relative squares.

    Least squares under that bound are those of some set of columns, and there are few sets.
    """
    scaled = sizes / values[:, None]
    best, least = np.zeros(sizes.shape[1]), np.inf
    for count in range(1, min(sizes.shape) + 1):
        for chosen in map(list, itertools.combinations(range(sizes.shape[1]), count)):
            weights = np.zeros(sizes.shape[1])
            weights[chosen] = np.linalg.lstsq(scaled[:, chosen], np.ones(len(values)), rcond=None)[0]
            error = np.square(scaled @ weights - 1).sum()
            if (weights >= 0).all() and error < least - 1e-9:  # of equal ones, the fewest columns
                best, least = weights, error
    return best
