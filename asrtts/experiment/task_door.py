"""What a file of asrtts/tasks gives: `Settings`, `open(settings, device)` and `load(run)`.

`open` returns an `OpenTask`. `fitting.fit` hands it to the one loop; nothing below asks which task it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from asrtts.experiment.settings import task
from asrtts.registry import UserError, suggestion

if TYPE_CHECKING:
    from asrtts.experiment.run_folder import Run


class Asset(Protocol):
    """What the run folder must keep beside the weights: tokens, statistics, a mel definition, phones."""

    def save(self, path: Path) -> None: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Place:
    """Where a training stands in its data, and which of its processes asks."""

    epoch: int = 1
    batch: int = 0  # the next one of the epoch
    rank: int = 0
    world: int = 1


class OpenTask:
    """A task whose data is open and whose model is built.

    Attributes:
        name: of the kind of model, for tables and families of runs, e.g. "ctc+attention".
        trainable: what the trainer trains; on the CPU, with its starting weights.
        inputs: hashes of what it is trained on by the names that run.json has for them, e.g. data_hash.
        facts: what else run.json says of it, e.g. the weights of its heads.
        summary: the data in a few words, e.g. "848 utterances".
        measures: the numbers that `measure` gives, one of which `training.select` names.
        unit: of the lengths in a batch's `ids`.
    """

    name: str
    trainable: nn.Module
    inputs: dict[str, str]
    facts: dict[str, Any]
    summary: str
    measures: tuple[str, ...] = ("loss", "error")
    unit: str = "s"

    def start_workers(self) -> None:
        """Start what takes seconds and can go on while the folder is prepared."""

    def refuse(self) -> None:
        """Raises UserError for whatever would stop the training later."""

    def initialize(self, source: str) -> None:
        """Fill the starting weights from `--init SOURCE`. Raises UserError where the task or the source cannot."""
        raise UserError(f"--init {source}: this task begins with random weights; leave the option out")

    def assets(self) -> dict[str, Asset]:
        """The assets by their names in the run folder; asked for once, when the run begins."""
        return {}

    def restore(self, run: Run) -> None:
        """Take the assets from the run folder: `batches` and `measure` use these."""

    def batches(self, place: Place) -> Iterator[dict[str, Any]]:
        """Batches for ever, from a place on; each has `place`, `share` and `ids`."""
        raise NotImplementedError

    def measure(self) -> dict[str, float]:
        """The numbers of a validation on held-out data; less is better."""
        raise NotImplementedError

    def parameters(self) -> int:
        return sum(p.numel() for p in self.trainable.parameters())


def open_task(settings: Any, device: torch.device) -> OpenTask:
    """Open the task that settings name. Raises UserError for whatever would stop the training later."""
    opened = task(settings.task).open(settings, device)
    if (select := settings.training.select) not in opened.measures:
        raise UserError(
            f"training.select: a validation gives no number '{select}'{suggestion(select, opened.measures)}"
        )
    opened.refuse()
    return opened
