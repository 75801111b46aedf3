"""The mean of a run's best or last snapshots: the model that is decoded and exported."""

from __future__ import annotations

from pathlib import Path

import torch

from asrtts.experiment.run_folder import Run
from asrtts.nn import weights_file
from asrtts.registry import UserError
from asrtts.training import checkpoint
from asrtts.training.trainer import best_first


def average(run: Run, best: int | None = None, last: int | None = None) -> list[int]:
    """Write model.safetensors; returns the updates of the snapshots that went into it.

    Raises:
        UserError: there are no snapshots yet, more are asked for than are kept, or one is damaged.
    """
    latest = checkpoint.load_latest(run.folder / "checkpoints")
    snapshots = latest[1]["snapshots"] if latest else []
    if not snapshots:
        raise UserError(f"{run.folder}: no snapshots yet; they are made at each validation of `asrtts train` (stage 3)")
    chosen = choose(snapshots, best, last, run)
    paths = [run.folder / "snapshots" / f"{update:08d}.safetensors" for update, _ in chosen]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise UserError(
            f"{run.folder}/snapshots: {len(missing)} of the {len(paths)} wanted are not kept ({missing[0]}); "
            "ask for fewer, or train with a larger training.keep_best or training.keep_last"
        )
    updates = [update for update, _ in chosen]
    run.save_model(mean_weights(paths), averaged=updates, average=rule(best, last, run))
    return updates


def choose(snapshots: list[list[float]], best: int | None, last: int | None, run: Run) -> list[list[float]]:
    """[(update, validation), ...] of the snapshots to average, by update; of equal ones the later is the better.

    Raises:
        UserError: more are asked for than were made.
    """
    for option, count in (("--best", best), ("--last", last)):
        if count is not None and not 1 <= count <= len(snapshots):
            raise UserError(
                f"{option} {count}: {run.folder} has made {len(snapshots)} snapshots; ask for 1 to that many"
            )
    which, count = rule(best, last, run).split()
    return sorted(best_first(snapshots)[: int(count)]) if which == "best" else snapshots[-int(count) :]


def rule(best: int | None, last: int | None, run: Run) -> str:
    """`best 5` or `last 10`, as asked for or as the run's settings have it."""
    if best is None and last is None:
        training = run.settings.training
        best, last = (None, training.keep_last) if training.keep_last else (training.keep_best, None)
    return f"best {best}" if best is not None else f"last {last}"


def mean_weights(paths: list[Path]) -> dict[str, torch.Tensor]:
    """Mean of the float tensors, summed in float64; counters are taken from the last file."""
    total: dict[str, torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for path in paths:
        weights = weights_file.load(path)
        for key, value in weights.items():
            if value.is_floating_point() and key in total:
                total[key] += value.double()
            else:
                total[key] = value.double() if value.is_floating_point() else value
    return {k: (v / len(paths)).to(weights[k].dtype) if v.is_floating_point() else v for k, v in total.items()}
