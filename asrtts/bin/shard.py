"""Write a manifest's audio and texts as tar shards, which a disk or a network reads in large stretches."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from asrtts import storage
from asrtts.config import MOST, ArgumentParser, Made, whole
from asrtts.data import batching, manifest, sharding
from asrtts.registry import UserError

ABOUT = "shards.json"  # what the shards were made of


def parser() -> ArgumentParser:
    args = ArgumentParser("shard", __doc__)
    args.add_argument("manifest", help="e.g. data/train")
    args.add_argument("folder", type=Path, help="of the shards, e.g. shards/train")
    args.add_argument("--utterances", type=whole(1, MOST), default=1000, metavar="N", help="in a shard (default: 1000)")
    args.add_argument("--seed", type=whole(0, (1 << 32) - 1), default=1, help="of the order (default: 1)")
    args.epilog = (
        "Utterances are shuffled over the shards, so that the few which a window of batches reads are a sample of all. "
        "Train with data.train=FOLDER/manifest and batching.block=N. What is finished is not written again."
    )
    return args


def check(args: argparse.Namespace, made: Made) -> None:
    """Raises UserError for values that would stop this command when its stage comes."""
    if args.manifest not in made:
        manifest.locate(args.manifest)
    made.add(args.folder)


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)
    goal, index = args.folder, batching.Index(args.manifest)
    place = goal.absolute()
    about = {"data_hash": manifest.fingerprint(index.path), "utterances": args.utterances, "seed": args.seed}
    about["folder"] = str(place)  # in which the manifest says that the shards are
    if goal.exists():
        refuse_others(goal, about)
        print(f"{goal}: finished before")
        return
    beside = goal.with_name(goal.name + ".part")
    order = np.random.default_rng(args.seed).permutation(len(index))
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        written = sharding.write(index, order, beside, args.utterances)
        shown = track(written, "writing shards", len(index), console=Console(stderr=True), transient=True)
        found = (replace(utterance, audio=str(place / Path(utterance.audio).name)) for utterance in shown)
        manifest.write(beside / "manifest.jsonl", found)
        storage.write(beside / ABOUT, json.dumps(about, indent=1) + "\n")
        beside.replace(goal)
    except OSError as error:
        raise storage.storage_error(goal, error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # of a run that was refused
    shards = sorted(goal.glob("*.tar"))
    size = sum(shard.stat().st_size for shard in shards)
    print(f"{goal}: {len(index)} utterances in {len(shards)} shards, {size / 1e6:.0f} MB, and manifest.jsonl")


def refuse_others(goal: Path, about: dict[str, Any]) -> None:
    """Raises UserError unless the folder holds the shards that were asked for."""
    path = goal / ABOUT
    if not path.is_file():
        raise UserError(f"{goal}: is there already, and no {ABOUT} says of what; name another folder or delete it")
    before = storage.json_object(path.read_bytes(), str(path), "delete the folder")
    for key, value in about.items():
        if before.get(key) != value:
            raise UserError(
                f"{goal}: is there already, with {key} {before.get(key)}, now it is {value}; name another folder or "
                "delete it"
            )
