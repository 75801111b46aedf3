"""Write a manifest's audio and texts as tar shards, which a disk or a network reads in large stretches."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from asrtts import storage
from asrtts.config import MOST, ArgumentParser, whole
from asrtts.data import batching, manifest, sharding
from asrtts.registry import UserError


def parser() -> ArgumentParser:
    args = ArgumentParser("shard", __doc__)
    args.add_argument("manifest", help="e.g. data/train")
    args.add_argument("folder", type=Path, help="of the shards, e.g. shards/train")
    args.add_argument("--utterances", type=whole(1, MOST), default=1000, metavar="N", help="in a shard (default: 1000)")
    args.add_argument("--seed", type=whole(0, (1 << 32) - 1), default=1, help="of the order (default: 1)")
    args.epilog = (
        "Utterances are shuffled over the shards, so that the few which a window of batches reads are a sample of all. "
        "Train with data.train=FOLDER/manifest and batching.block=N. A folder that is there already is left alone."
    )
    return args


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    goal = args.folder
    if goal.exists():
        raise UserError(f"{goal}: is there already; name another folder or delete it")
    beside = goal.with_name(goal.name + ".part")
    index = batching.Index(args.manifest)
    order = np.random.default_rng(args.seed).permutation(len(index))
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        written = sharding.write(index, order, beside, args.utterances)
        shown = track(written, "writing shards", len(index), console=Console(stderr=True), transient=True)
        place = goal.absolute()
        found = (replace(utterance, audio=str(place / Path(utterance.audio).name)) for utterance in shown)
        manifest.write(beside / "manifest.jsonl", found)
        beside.replace(goal)
    except OSError as error:
        raise storage.storage_error(goal, error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # of a run that was refused
    shards = sorted(goal.glob("*.tar"))
    size = sum(shard.stat().st_size for shard in shards)
    print(f"{goal}: {len(index)} utterances in {len(shards)} shards, {size / 1e6:.0f} MB, and manifest.jsonl")
