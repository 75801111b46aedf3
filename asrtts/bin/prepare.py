"""Make the manifests of a corpus and look for everything in it that would make training wrong."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asrtts import registry
from asrtts.config import ArgumentParser
from asrtts.data import manifest
from asrtts.data.inspection import Inspection, Limits, inspect
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

Splits = dict[str, list[Utterance]]


def parser() -> ArgumentParser:
    options = ArgumentParser("prepare", __doc__)
    options.add_argument("corpus", help="a file of asrtts/corpora, e.g. an4")
    options.add_argument("root", type=Path, help="where stage 0 put the corpus, e.g. downloads")
    options.add_argument("data", type=Path, help="where the manifests go, e.g. data")
    options.add_argument("--corpus", type=Path, metavar="DIR", dest="there", help="a corpus that is there already")
    options.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per CPU)")
    options.add_argument("--min-seconds", type=float, default=Limits.min_seconds, help="default: %(default)s")
    options.add_argument("--max-seconds", type=float, default=Limits.max_seconds, help="default: %(default)s")
    return options


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    limits = Limits(args.min_seconds, args.max_seconds)
    splits = _utterances(args.corpus, _roots(args.root, args.there))
    inspected = _inspect_all(splits, limits, args.jobs)
    kept = {}
    for split, found in inspected.items():
        pairs = zip(splits[split], found, strict=True)
        kept[split] = [
            replace(u, seconds=i.seconds, sample_rate=i.sample_rate)
            for u, i in pairs
            if i.seconds and not {"unreadable", "truncated", "not-finite"} & {kind for kind, _ in i.findings}
        ]
    if not kept.get("train"):
        raise UserError(f"{args.corpus}: no audio of a train split can be read; get the corpus again (stage 0)")
    _write(args.data, kept)
    for split, utterances in kept.items():
        hours = sum(u.seconds for u in utterances) / 3600
        print(f"{args.data / split}.jsonl: {len(utterances)} of {len(splits[split])} utterances, {hours:.2f} h")


def _roots(root: Path, there: Path | None) -> list[Path]:
    """Where to look: what --corpus names first; else stage 0's folder, then ASRTTS_CORPORA."""
    if there:
        return [there, root]
    return [root, *(Path(folder) for folder in [os.environ.get("ASRTTS_CORPORA")] if folder)]


def _utterances(corpus: str, roots: list[Path]) -> Splits:
    """The corpus from the first folder that holds it; where none does, the error of the first."""
    module = registry.find("asrtts.corpora", corpus)
    errors = []
    for root in roots:
        try:
            return module.utterances(root)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _inspect_all(splits: Splits, limits: Limits, jobs: int) -> dict[str, list[Inspection]]:
    """Every utterance's inspection, in the order of the listing whatever the number of processes."""
    listed = [u for utterances in splits.values() for u in utterances]
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        results = iter(list(progress.track(_map(listed, limits, jobs), len(listed), description="reading audio")))
    return {split: [next(results) for _ in utterances] for split, utterances in splits.items()}


def _map(listed: list[Utterance], limits: Limits, jobs: int) -> Iterator[Inspection]:
    look = partial(inspect, limits=limits)
    if jobs <= 1:
        yield from map(look, listed)
        return
    try:
        with ProcessPoolExecutor(jobs) as pool:
            yield from pool.map(look, listed, chunksize=16)
    except BrokenProcessPool:
        raise UserError("a process died while reading audio (memory?); try again with --jobs 1") from None


def _write(data: Path, splits: Splits) -> None:
    """All manifests or none: written in a folder beside their place, then renamed."""
    data.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".prepare-", dir=data))
    try:
        for split, utterances in splits.items():
            manifest.write(beside / f"{split}.jsonl", utterances)
        for path in sorted(beside.iterdir()):
            os.replace(path, data / path.name)
    finally:
        shutil.rmtree(beside)
