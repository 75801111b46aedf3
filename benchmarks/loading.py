"""What more processes that make batches bring, and what each of them holds.

An epoch of FLAC files, changed in speed and masked, is read by one process and by two; times are wall time, and on two
cores the process that takes the batches needs some of it too. The batches are compared: whoever makes them, they are to
be the same to the bit. The memory of a process that makes them is that which it shares with nobody, with a short and
with a long manifest behind it: its copy of the index would show.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import soundfile
import torch
from _common import Row, main, slope
from fbank import utterances

from asrtts.data import augmentation, batching, features, manifest
from asrtts.data.dataset import UtteranceDataset, batches
from asrtts.data.utterance import Utterance

FILES, EACH = 64, 32  # every file stands so many times in the epoch
FEATURES = features.Config()
AUGMENT = augmentation.Config(speed=[0.9, 1.0, 1.1], spec_augment=augmentation.SpecAugment())
BATCHING = batching.Config(seconds=100.0)
COUNTS = (10_000, 1_000_000)  # utterances of a short and of a long manifest
PART = 0.7  # of the time of one process that two may need where two cores are free; 0.5 is all that there is to gain


def rows(repeat: int = 5) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        files = recorded(Path(folder))
        dataset = listed(Path(folder) / "epoch.jsonl", files, FILES * EACH)
        yield of_time(dataset, min(repeat, 3))
        yield of_memory(Path(folder), files)


def recorded(folder: Path) -> list[Utterance]:
    found = []
    for number, wave in enumerate(utterances(FILES)):
        path = folder / f"{number}.flac"
        soundfile.write(path, wave, FEATURES.sample_rate)
        found.append(Utterance(str(number), str(path), "", seconds=len(wave) / FEATURES.sample_rate))
    return found


def listed(path: Path, files: list[Utterance], count: int) -> UtteranceDataset:
    """A data set of so many utterances, which are these files again and again."""
    several = (files[n % len(files)] for n in range(count))
    manifest.write(path, (Utterance(f"{n:08d}", f.audio, "", seconds=f.seconds) for n, f in enumerate(several)))
    plain = features.Statistics(torch.zeros(FEATURES.num_bins), torch.ones(FEATURES.num_bins))
    return UtteranceDataset(batching.Index(path), FEATURES, plain, no_tokens, augment=AUGMENT)


def no_tokens(_: str) -> list[int]:
    return []


def epoch(dataset: UtteranceDataset, workers: int, most: int | None = None) -> Iterator[dict]:
    """The batches of the first epoch, or as many."""
    wanted = list(batching.epoch_batches(BATCHING, AUGMENT, dataset.index.seconds, 1, 1))[:most]
    asked = batching.requests(BATCHING, AUGMENT, dataset.index.seconds, 1)
    return batches(dataset, (next(asked) for _ in wanted), workers)


def of_time(dataset: UtteranceDataset, repeat: int) -> Row:
    """Seconds of an epoch by one process and by two, from the first batch on: starting them is not counted."""
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeat):
        for workers, found in times.items():
            made = epoch(dataset, workers)
            next(made)
            begin = time.perf_counter()
            for _ in made:
                pass
            found.append(time.perf_counter() - begin)
    ratios = [two / one for one, two in zip(times[1], times[2], strict=True)]
    seconds = float(dataset.index.seconds.sum())
    alone, two = statistics.median(times[1]), statistics.median(times[2])
    note = f"{seconds / alone:,.0f} and {seconds / two:,.0f} x real time; {same_batches(dataset)}"
    case = f"{len(dataset.index):,} FLAC files, speed and SpecAugment; 2 processes"
    return Row("batches from FLAC", case, two, "ours, 1 process", alone, statistics.median(ratios), PART, note=note)


def same_batches(dataset: UtteranceDataset) -> str:
    here = epoch(dataset, 0, 8)
    for one, two in zip(epoch(dataset, 1, 8), epoch(dataset, 2, 8), strict=True):
        other = next(here)
        if not all(torch.equal(other["feats"], b["feats"]) and other["ids"] == b["ids"] for b in (one, two)):
            return "BATCHES DIFFER"
    return "the same batches, to the bit, as by none"


def of_memory(folder: Path, files: list[Utterance]) -> Row:
    held = []
    for count in COUNTS:
        dataset = listed(folder / f"{count}.jsonl", files, count)
        asked = batching.requests(BATCHING, AUGMENT, dataset.index.seconds, 1)
        made = batches(dataset, (next(asked) for _ in range(64)), 1)
        for _ in range(16):
            next(made)
        held.append(alone_mib())
        made.close()
    case = f"1 process, manifests of {COUNTS[0]:,} and {COUNTS[1]:,} utterances"
    return Row(
        what="growth of memory, a process that makes batches",
        case=case,
        ours=None,
        peer="itself",
        ratio=slope(COUNTS, held),
        goal=0.1,
        ours_mib=held[1],
        theirs_mib=held[0],
    )


def alone_mib() -> float:
    """Memory of the one process that makes batches, as far as it shares it with no other."""
    (worker,) = multiprocessing.active_children()
    lines = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines()
    kept = [int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))]
    return sum(kept) / 1024


if __name__ == "__main__":
    main(__doc__, rows)
