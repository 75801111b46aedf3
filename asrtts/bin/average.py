"""Average the weights of a run's best or last snapshots into the model that is decoded and exported."""

from __future__ import annotations

import sys
from pathlib import Path

from asrtts.config import ArgumentParser
from asrtts.experiment.averaging import average
from asrtts.experiment.run_folder import Run


def parser() -> ArgumentParser:
    args = ArgumentParser("average", __doc__)
    args.add_argument("exp", type=Path, help="folder of the run, e.g. exp/ctc")
    which = args.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, metavar="N", help="the N newest snapshots")
    which.add_argument("--best", type=int, metavar="N", help="the N snapshots that validated best")
    args.epilog = "Without --last or --best: all that training.keep_last kept, or training.keep_best if that is 0."
    return args


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    run = Run.open(args.exp)
    updates = average(run, args.best, args.last)
    print(
        f"{run.folder}/model.safetensors: mean of {len(updates)} snapshots, updates {updates[0]} to {updates[-1]}",
        file=sys.stderr,
    )
