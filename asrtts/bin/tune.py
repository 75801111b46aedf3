"""Choose the weights of language models and other settings of a search, by the errors on dev."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from asrtts import config, storage
from asrtts.asr.model import GREEDY_CTC, JOINT, AsrModel, Decoding
from asrtts.bin import _runs
from asrtts.config import ArgumentParser, warn
from asrtts.data import augmentation, batching, manifest
from asrtts.data.dataset import UtteranceDataset
from asrtts.experiment import Run, refuse_too_short
from asrtts.metrics import error_rate
from asrtts.registry import UserError, suggestion
from asrtts.search.language_model import LanguageModel
from asrtts.training import parallel

# What is tried where it means something; --try says otherwise. Of equally good points the first is taken.
TRIED = {
    "lm_weight": (0.0, 0.2, 0.4, 0.7, 1.0),
    "length_bonus": (0.0, 1.0, 2.0, 3.0),
    "ctc_weight": (0.3, 0.5),
    "lodr_weight": (0.0, 0.1, 0.2),
}
OWN = ("length_bonus", "ctc_weight")  # of which a run's own value is tried, too
SHOWN = 10  # points in the table
RATES = {"words": ("wer", "cer"), "characters": ("cer", "wer")}  # what a point is chosen by, and which of equal ones


def parser() -> ArgumentParser:
    args = ArgumentParser("tune", __doc__)
    _runs.add_arguments(args, "e.g. data/dev; never a test set", "of every point, e.g. lm=exp/lm")
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


def main(argv: list[str]) -> None:
    args = _runs.told_apart(parser().parse_args(argv))
    parallel.use_threads(args.threads)
    runs = [Run.open(exp) for exp in args.exp]
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
    values = run.experiment.decoding.model_dump()
    config.put_overrides(values, args.settings)
    full = config.build(Decoding, {**values, **dict.fromkeys(("lm_weight", "lodr_weight"), 1.0)}, "tune")
    device = parallel.pick_device(args.device)
    model = run.load_model().to(device)
    refuse_too_short(index, run.experiment.features, model)
    values["method"] = model.method(full)  # of all points, also where a weight is 0
    planned = grid(args.tried, args.settings, full, values["method"])
    points = [config.build(Decoding, {**values, **point}, "tune") for point in planned]
    differ = [key for key in TRIED if len({getattr(point, key) for point in points}) > 1]
    keys = differ or list(planned[0])  # a point that is alone is shown whole
    loaded = {folder: lm for (folder, _), (lm, _) in zip(full.lms, run.language_models(full, device), strict=True)}
    cut = config.build(batching.Config, {"seconds": args.batch_seconds}, "--batch-seconds")
    encoded = list(encode(model, run, index, cut))
    console = Console(stderr=True)
    tried, unit = [], "words"
    for point in track(points, f"{run.folder}: {len(points)} points", console=console, transient=True):
        rates, unit = errors(model, run, index, encoded, point, loaded)
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


def grid(tried: Sequence[str], given: Sequence[str], full: Decoding, method: str) -> list[dict[str, float]]:
    """Every combination of the values of every key; a key that was given has its value.

    Raises:
        UserError: a key that is given and tried, or of which nothing can be tried.
    """
    given = [setting.partition("=")[0] for setting in given]
    values: dict[str, Any] = {}
    for option in tried:
        key, _, listed = option.partition("=")
        if key not in TRIED:
            raise UserError(f"--try {option}: no such key{suggestion(key, TRIED)}")
        if key in given:
            raise UserError(
                f"--try {option}: {key} is given as a setting of every point, too; leave out one of the two"
            )
        try:
            values[key] = [float(value) for value in listed.split(",")]
        except ValueError:
            raise UserError(f"--try {option}: wanted numbers, e.g. {key}=0,0.5,1") from None
    means = {
        "lm_weight": full.lm is not None,
        "lodr_weight": full.lodr is not None,
        "length_bonus": method != GREEDY_CTC,
        "ctc_weight": method == JOINT,
    }
    for key in values:
        if not means[key]:
            raise UserError(f"--try {key}: it changes nothing in {method}; name what it weighs, e.g. lm=exp/lm")
    for key, default in TRIED.items():
        if key == "length_bonus" and method.startswith("transducer"):
            continue  # its blanks weigh every token; with a bonus some models speak without end, and slowly
        if means[key] and key not in given:
            own = {getattr(full, key)} - {0.0} if key in OWN else set()
            values.setdefault(key, sorted({*default, *own}))
    if not any(values.values()):
        raise UserError(f"{method} has nothing to tune; name a language model, e.g. lm=exp/lm")
    ordered = {key: values[key] for key in TRIED if key in values}
    return [dict(zip(ordered, point, strict=True)) for point in itertools.product(*ordered.values())]


@torch.no_grad()
def encode(
    model: AsrModel, run: Run, index: batching.Index, cut: batching.Config
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """The utterances of each batch, and what the encoder gives for them."""
    dataset = UtteranceDataset(index, run.experiment.features, run.statistics, lambda text: [])
    plan = list(batching.epoch_batches(cut, augmentation.NONE, index.seconds, 0, 0))
    device = next(model.parameters()).device
    for indices, _ in track(plan, "encoding", console=Console(stderr=True), transient=True):
        rows = indices.tolist()
        batch = dataset[batching.Request(0, 0, tuple(rows), (1.0,) * len(rows), len(rows))]
        yield rows, *model.encoder(batch["feats"].to(device), batch["feat_lens"].to(device))


def errors(
    model: AsrModel,
    run: Run,
    index: batching.Index,
    encoded: Sequence[tuple[list[int], Tensor, Tensor]],
    decoding: Decoding,
    loaded: dict[str, LanguageModel],
) -> tuple[dict[str, float], str]:
    """Word and character error rate in percent, as `asrtts score` counts them, and by which of them to judge."""
    tokenizer = run.tokenizer
    lms = [(loaded[folder], weight) for folder, weight in decoding.lms]
    refs, hyps = [], []
    for rows, enc, enc_lens in encoded:
        found = model.search_encoded(enc, enc_lens, decoding, lms)
        refs += [index[row].text for row in rows]
        hyps += [tokenizer.decode(nbest[0].tokens) for nbest in found]
    refs, hyps = error_rate.without_unknown(refs, hyps)
    rates = {}
    for rate, split in (("wer", error_rate.words), ("cer", error_rate.characters)):
        total = error_rate.tally(error_rate.align([split(r) for r in refs], [split(h) for h in hyps]))
        rates[rate] = round(100 * total.errors / max(total.ref, 1), 4)
    return rates, error_rate.judged_by(refs)


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
