"""Average the weights of a run's best or last snapshots into the model that is decoded and exported."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from asrtts.config import ArgumentParser, Made
from asrtts.experiment import Run
from asrtts.registry import UserError
from asrtts.training import checkpoint
from asrtts.training.trainer import best_first


def parser() -> ArgumentParser:
    args = ArgumentParser("average", __doc__)
    args.add_argument("exp", type=Path, help="folder of the run, e.g. exp/ctc")
    which = args.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, metavar="N", help="the N newest snapshots")
    which.add_argument("--best", type=int, metavar="N", help="the N snapshots that validated best")
    args.epilog = "Without --last or --best: all that training.keep_last kept, or training.keep_best if that is 0."
    return args


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    if args.exp not in made:
        Run.open(args.exp)


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    run = Run.open(args.exp)
    found = checkpoint.load_latest(run.folder / "checkpoints")
    snapshots = found[1]["snapshots"] if found else []
    if not snapshots:
        raise UserError(f"{run.folder}: no snapshots yet; they are made at each validation of `asrtts train` (stage 3)")
    chosen = choose(snapshots, args.best, args.last, run)
    paths = [run.folder / "snapshots" / f"{update:08d}.safetensors" for update, _ in chosen]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        raise UserError(
            f"{run.folder}/snapshots: {len(missing)} of the {len(paths)} wanted are not kept ({missing[0]}); "
            "ask for fewer, or train with a larger training.keep_best or training.keep_last"
        )
    checkpoint.save_weights(run.folder / "model.safetensors", mean_weights(paths))
    run.record(averaged=[update for update, _ in chosen], average=rule(args.best, args.last, run))
    print(
        f"{run.folder}/model.safetensors: mean of {len(chosen)} snapshots, updates {chosen[0][0]} to {chosen[-1][0]}",
        file=sys.stderr,
    )


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
        training = run.experiment.training
        best, last = (None, training.keep_last) if training.keep_last else (training.keep_best, None)
    return f"best {best}" if best is not None else f"last {last}"


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
