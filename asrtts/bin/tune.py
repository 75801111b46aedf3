"""Choose the weights of language models and other settings of a search, by the errors on dev."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from asrtts import config, storage
from asrtts.asr.decoding import Decoding
from asrtts.config import ArgumentParser, Made, warn
from asrtts.data import batching, manifest
from asrtts.experiment import arguments
from asrtts.experiment.run_folder import Run
from asrtts.experiment.tuning import RATES, TRIED, encode, errors, grid
from asrtts.registry import UserError
from asrtts.training import memory, parallel

SHOWN = 10  # points in the table


def parser() -> ArgumentParser:
    args = ArgumentParser("tune", __doc__)
    arguments.add_arguments(args, "e.g. data/dev; never a test set", "of every point, e.g. lm=exp/lm")
    args.add_argument(
        "--try",
        action="append",
        default=[],
        dest="tried",
        metavar="key=a,b,c",
        help=f"values of a key, also several times (default: {', '.join(TRIED)}, as far as they mean something)",
    )
    args.add_argument("--name", default="lm", help="of what is written: EXP/tuned/NAME.yaml (default: lm)")
    args.add_argument("--batch-seconds", type=float, default=60.0, help="padded audio in a batch (default: 60)")
    args.add_argument("--threads", type=int, default=0, help="default: all cores")
    args.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    args.epilog = (
        "The encoder runs once, and what it gives is held in memory. Then: asrtts decode EXP... TEST --tuned NAME"
    )
    return args


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    parallel.refuse_threads(args.threads)
    args = arguments.told_apart(args)
    arguments.refuse_absent(args, made)
    config.build(Decoding, config.overridden({}, args.settings), "tune")
    config.build(batching.Config, {"seconds": args.batch_seconds}, "--batch-seconds")


def main(argv: list[str]) -> None:
    args = arguments.told_apart(parser().parse_args(argv))
    parallel.use_threads(args.threads)
    runs = [Run.open(exp, "recognition") for exp in args.exp]
    if not args.name or args.name != Path(args.name).name:
        raise UserError(f"--name '{args.name}': wanted a bare name, e.g. lm")
    index = batching.Index(args.manifest)
    hashed = manifest.fingerprint(index.path)
    for run in runs:  # every mistake that can be, before the first is tuned
        refuse_test(index.path, hashed, run)
    for run in runs:
        tune(run, index, {"on": str(index.path), "data_hash": hashed, "utterances": len(index)}, args)


def tune(run: Run, index: batching.Index, about: dict[str, Any], args: argparse.Namespace) -> None:
    """Try the points of one run and write the best, and `about` and all of them beside it."""
    values = run.settings.decoding.model_dump()
    config.put_overrides(values, args.settings)
    full = config.build(Decoding, {**values, **dict.fromkeys(("lm_weight", "lodr_weight"), 1.0)}, "tune")
    device = parallel.pick_device(args.device)
    recognizer = run.load()
    model = recognizer.model.to(device)
    values["method"] = model.method(full)  # of all points, also where a weight is 0
    planned = grid(args.tried, args.settings, full, values["method"])
    points = [config.build(Decoding, {**values, **point}, "tune") for point in planned]
    differ = [key for key in TRIED if len({getattr(point, key) for point in points}) > 1]
    keys = differ or list(planned[0])  # a point that is alone is shown whole
    loaded = {
        folder: lm for (folder, _), (lm, _) in zip(full.lms, recognizer.language_models(full, device), strict=True)
    }
    cut = config.build(batching.Config, {"seconds": args.batch_seconds}, "--batch-seconds")
    with memory.limited(device):
        encoded = list(encode(recognizer, index, cut))
    console = Console(stderr=True)
    tried, unit = [], "words"
    for point in track(points, f"{run.folder}: {len(points)} points", console=console, transient=True):
        rates, unit = errors(recognizer, index, encoded, point, loaded)
        tried.append({key: getattr(point, key) for key in keys} | rates)
    order = sorted(range(len(points)), key=lambda i: (tried[i][RATES[unit][0]], tried[i][RATES[unit][1]], i))
    best = order[0]
    goal = run.folder / "tuned" / f"{args.name}.yaml"
    about = {**about, "judged_by": unit, "best": best, "points": tried}
    storage.write(goal.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    rate = RATES[unit][0]
    score = f"{rate.upper()} {tried[best][rate]:.2f} on {index.path}"
    told = f"# The best of {len(points)} points, {score}; all of them: {args.name}.json\n"
    storage.write(goal, told + yaml.safe_dump(points[best].model_dump(), sort_keys=False))
    show(tried, keys, order)
    chosen = ", ".join(f"{key}={tried[best][key]:g}" for key in keys)
    print(f"{goal}: {chosen}{'' if differ else ', the only point'}, {score}", file=sys.stderr)
    for key in differ:
        if tried[best][key] == max(point[key] for point in tried):
            warn(f"{key}: the largest value was the best; larger ones: --try {key}=...")


def refuse_test(path: Path, hashed: str, run: Run) -> None:
    """What is chosen on a test set makes its result worthless; what is chosen on the training set knows the answers."""
    if hashed == run.facts().get("data_hash"):
        raise UserError(f"{path}: {run.folder} was trained on it; tune on dev, e.g. data/dev")
    for test in sorted({path, *path.parent.glob("test*.jsonl")}):
        if test.stem.startswith("test") and manifest.fingerprint(test) == hashed:
            raise UserError(f"{path}: this is a test set ({test.name}); tune on dev, e.g. data/dev")


def show(tried: Sequence[dict[str, float]], keys: Sequence[str], order: Sequence[int]) -> None:
    """The best points, best first."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, title=f"the best {min(SHOWN, len(tried))} of {len(tried)} points"
    )
    for heading in (*keys, "WER", "CER"):
        table.add_column(heading, justify="right")
    for i in order[:SHOWN]:
        cells = [f"{tried[i][key]:g}" for key in keys]
        style = "bold green" if i == order[0] else None
        table.add_row(*cells, f"{tried[i]['wer']:.2f}", f"{tried[i]['cer']:.2f}", style=style)
    Console().print(table)
