"""Train an open task into a run folder with the one loop: begin or resume, fit, record."""

from __future__ import annotations

import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from asrtts import storage
from asrtts.experiment import decodings, run_folder
from asrtts.experiment.run_folder import Run
from asrtts.experiment.settings import TaskSettings, family
from asrtts.experiment.task_door import OpenTask, Place
from asrtts.training import memory, parallel
from asrtts.training.computer import computer
from asrtts.training.trainer import Trainer, wants_bf16

AND = " and then "  # between the computers that a run was trained on


def fit(
    run: Run,
    settings: TaskSettings,
    task: OpenTask,
    device: torch.device,
    *,
    init: str | None = None,
    restart: bool = False,
) -> None:
    """Train until the run is finished; one that is there is resumed, or thrown away with `restart`.

    Args:
        init: weights to begin with, `TOOLKIT:FILE`.

    Raises:
        UserError: the folder holds something else; whatever stops a training.
    """
    rank, world = parallel.start()
    task.start_workers()
    if init:
        task.initialize(init)
    facts = facts_of(settings, task) | computed_with(settings, device) | {"computer": computer(device)}
    facts |= init_facts(init) if init else {}
    if rank == 0 and restart:
        run.discard()
    with storage.held(run.folder) if rank == 0 else nullcontext():
        if rank == 0:
            if run.is_begun:
                run.check_unchanged(settings, facts)
            else:
                run.begin(settings, task.assets(), facts)
        parallel.wait()
        trainer = Trainer(task.trainable, settings.training, run.folder, settings.seed, device, task.unit)
        resumed = trainer.resume()
        finished = trainer.done or trainer.update >= settings.training.updates
        if rank == 0:
            say(f"{run.folder}: {facts['parameters'] / 1e6:.2f} M parameters, {task.summary}, {device.type}")
            if resumed and not finished:
                _record_computer(run, facts["computer"])
            if resumed:
                say(f"{'finished' if finished else 'resuming'} at update {trainer.update}")
        if not finished:
            task.restore(run)
            stream = task.batches(Place(trainer.epoch, trainer.batch, rank, world))
            with memory.limited(device, parallel.local_world()), closing(stream):
                trainer.fit(stream, task.measure)
        if rank == 0 and run.facts().get("updates") != trainer.update:
            run.record(train_minutes=round(trainer.seconds / 60, 2), updates=trainer.update, **memory.peak(device))
    parallel.stop()


def facts_of(settings: TaskSettings, task: OpenTask) -> dict[str, Any]:
    """What run.json says of a run before it is trained."""
    return {
        "parameters": task.parameters(),
        **task.facts,
        "seed": settings.seed,
        "family": family(settings, task.name, task.inputs),
        **task.inputs,
        "versions": run_folder.versions(),
    }


def computed_with(settings: TaskSettings, device: torch.device) -> dict[str, str]:
    """The device, and what `training.precision` comes to on it, as run.json has them."""
    bf16 = wants_bf16(settings.training.precision, device)
    return {"device": device.type, "precision": "bf16" if bf16 else "float32"}


def init_facts(source: str) -> dict[str, Any]:
    """What run.json says of the weights to begin with; of a run of this project, the minutes that it took too."""
    folder = Path(source.partition(":")[2]).parent
    before = Run(folder).facts() if (folder / run_folder.SETTINGS).is_file() else {}
    minutes = decodings.train_minutes(before)
    return {"init": source} | ({} if minutes is None else {"init_minutes": round(minutes, 2)})


def _record_computer(run: Run, here: str) -> None:
    """Add a computer that a resumed run was not trained on before: its minutes are of several then."""
    before = run.facts().get("computer", "not recorded")
    if here not in before.split(AND):
        run.record(computer=before + AND + here)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
