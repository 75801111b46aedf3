"""Write a manifest's audio and texts as tar shards, which a disk or a network reads in large stretches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from asrtts.config import MOST, ArgumentParser, whole
from asrtts.data import sharding
from asrtts.data.shard_record import MANIFEST
from asrtts.data.utterance import Utterance


def parser() -> ArgumentParser:
    options = ArgumentParser("shard", __doc__)
    options.add_argument("manifest", help="e.g. data/train")
    options.add_argument("folder", type=Path, help="of the shards, e.g. shards/train")
    options.add_argument(
        "--utterances", type=whole(1, MOST), default=1000, metavar="N", help="in a shard (default: 1000)"
    )
    options.add_argument("--seed", type=whole(0, (1 << 32) - 1), default=1, help="of the order (default: 1)")
    options.epilog = (
        "Utterances are shuffled over the shards, so that the few which a window of batches reads are a sample of all. "
        "Train with data.train=FOLDER/manifest and batching.block=N. What is finished is not written again."
    )
    return options


def main(argv: list[str]) -> None:
    args = parser().parse_args(argv)

    def progress(written: Iterator[Utterance], count: int) -> Iterable[Utterance]:
        return track(written, "writing shards", count, console=Console(stderr=True), transient=True)

    made = sharding.make(args.manifest, args.folder, args.utterances, args.seed, progress)
    if made.finished_before:
        print(f"{args.folder}: finished before")
        return
    size = sum(made.sizes.values())
    print(
        f"{args.folder}: {made.utterances} utterances in {len(made.sizes)} shards, {size / 1e6:.0f} MB, and {MANIFEST}"
    )
