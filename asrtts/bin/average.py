"""Average the weights of a run's best or last snapshots into the model that is decoded and exported."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from asrtts.config import ArgumentParser
from asrtts.experiment import Run
from asrtts.registry import UserError
from asrtts.training import checkpoint


def parser() -> ArgumentParser:
    args = ArgumentParser("average", __doc__)
    args.add_argument("exp", type=Path, help="folder of the run, e.g. exp/ctc")
    which = args.add_mutually_exclusive_group()
    which.add_argument(
        "--last", type=int, metavar="N", help="the N newest snapshots (default: all that were kept last)"
    )
    which.add_argument("--best", type=int, metavar="N", help="the N snapshots that validated best")
    return args


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    run = Run.open(args.exp)
    found = checkpoint.load_latest(run.folder / "checkpoints")
    snapshots = found[1]["snapshots"] if found else []
    if not snapshots:
        raise UserError(f"{run.folder}: no snapshots yet; they are made at each validation of `asrtts train` (stage 3)")
    chosen = choose(snapshots, args.best, args.last or run.experiment.training.keep_last)
    paths = [run.folder / "snapshots" / f"{update:08d}.safetensors" for update, _ in chosen]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise UserError(
            f"{run.folder}/snapshots: {len(missing)} of the {len(paths)} wanted are not kept ({missing[0]}); "
            "ask for fewer, or train with a larger training.keep_best or training.keep_last"
        )
    checkpoint.save_weights(run.folder / "model.safetensors", mean_weights(paths))
    run.record(averaged=[update for update, _ in chosen])
    print(
        f"{run.folder}/model.safetensors: mean of {len(chosen)} snapshots, "
        f"updates {min(chosen)[0]} to {max(chosen)[0]}",
        file=sys.stderr,
    )


def choose(snapshots: list[list[float]], best: int | None, last: int) -> list[list[float]]:
    """[(update, validation), ...] of the snapshots to average; of equal ones the later is the better."""
    if best:
        return sorted(snapshots, key=lambda s: (s[1], -s[0]))[:best]
    return snapshots[-last:]


def mean_weights(paths: list[Path]) -> dict[str, torch.Tensor]:
    """Mean of the float tensors, summed in float64; counters are taken from the last file."""
    total: dict[str, torch.Tensor] = {}
    for path in paths:
        weights = checkpoint.load_weights(path)
        for key, value in weights.items():
            if value.is_floating_point() and key in total:
                total[key] += value.double()
            else:
                total[key] = value.double() if value.is_floating_point() else value
    last = checkpoint.load_weights(paths[-1])
    return {k: (v / len(paths)).to(last[k].dtype) if v.is_floating_point() else v for k, v in total.items()}
