"""Which utterances stand together in a batch: sorted inside a shuffled window, cut at padded seconds.

The epoch is shuffled, each window of it sorted by length and cut into batches, and the batches of the window are
shuffled again. Padding stays below 1 % with windows of 10,000 and batches up to 300 s (larger batches want a larger
window), memory is O(window) beyond the index, and every epoch sees other neighbours. An index takes 12 bytes an
utterance: its byte offset in the manifest and its seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, PositiveFloat

from asrtts.config import Count, Settings
from asrtts.data import augmentation, manifest, manifest_cache
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError


class Config(Settings):
    seconds: PositiveFloat = 120.0  # padded audio in a batch, over all processes
    window: Count = 10000  # utterances sorted together
    # Lines of the manifest that stay together when an epoch is shuffled. With the utterances of a shard, a window reads
    # a few whole shards, and an epoch begins without a list of all utterances.
    block: Count = 1
    max_utterances: Count = 512
    # Lengths are rounded up to a multiple of this; 0: not. oneDNN compiles for every shape of a batch on a CPU: with
    # 0.32 the same 150 updates on AN4 took three quarters of the time and memory, with 6.5 % padding instead of 1.6.
    round_seconds: float = Field(0.0, ge=0.0, le=10.0)


class Index:
    """Random access to a manifest's lines: 12 bytes an utterance, the lines stay on disk.

    Those of a large manifest stay on disk too, beside it, and are shared by all processes that read it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = manifest.locate(path)
        table = manifest_cache.remembered(self.path, "index", self._read)
        count = len(table) // 12
        self.offsets = table[: 8 * count].view(np.int64)
        self.seconds = table[8 * count :].view(np.float32)

    def _read(self) -> bytes:
        """The offsets, then the seconds of all lines."""
        offsets, seconds, at = [], [], 0
        for lines, number in manifest.chunks(self.path):
            durations = np.array(manifest.seconds_of(lines, self.path, number), dtype=np.float32)
            ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n")) + 1
            starts = np.concatenate(([0], ends))[: len(durations)]  # the last line may have no end
            if not durations.all():
                wrong = int(durations.argmin())
                where = f"{self.path}:{number + wrong}"
                utterance = manifest.parse(lines[starts[wrong] :].split(b"\n", 1)[0], where)
                raise UserError(f"{where}: utterance {utterance.utt_id} has no duration; run `asrtts prepare`")
            offsets.append(starts + at)
            seconds.append(durations)
            at += len(lines)
        if not offsets:
            raise UserError(f"{self.path}: holds no utterances; make it again with `asrtts prepare` (stage 1)")
        return np.concatenate(offsets).tobytes() + np.concatenate(seconds).tobytes()

    def __getstate__(self) -> dict[str, Any]:
        """A process that makes batches opens the manifest itself: millions of numbers need not be sent to it."""
        return {"path": self.path, "key": manifest_cache.key(self.path)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])
        if manifest_cache.key(self.path) != state["key"]:
            raise UserError(f"{self.path}: has changed while it was being used; give the same command again")

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Utterance:
        with open(self.path, "rb") as lines:
            lines.seek(self.offsets[index])
            return manifest.parse(lines.readline(), f"{self.path}:{index + 1}")


@dataclass(frozen=True, slots=True)
class Request:
    """A batch to be made: this process's rows of it, and what all processes together hold."""

    epoch: int
    batch: int  # number within the epoch
    indices: tuple[int, ...]  # utterances of this process
    speeds: tuple[float, ...]
    total: int  # utterances of all processes

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in the training: epoch, and number within it."""
        return self.epoch, self.batch

    @property
    def share(self) -> float:
        """The part of the batch's utterances that this process has."""
        return len(self.indices) / self.total

    @classmethod
    def plain(cls, rows: Sequence[int], number: int = 0) -> Request:
        """These utterances as they are, for evaluation."""
        return cls(0, number, tuple(rows), (1.0,) * len(rows), len(rows))


def plain_batches(config: Config, seconds: np.ndarray) -> list[Request]:
    """All utterances once, as they are, in batches of similar length: what evaluation reads. Always the same ones."""
    batches = epoch_batches(config, augmentation.NONE, seconds, 0, 0)
    return [
        Request(0, number, tuple(rows.tolist()), (1.0,) * len(rows), len(rows))
        for number, (rows, _) in enumerate(batches)
    ]


def epoch_batches(
    config: Config, speed: augmentation.Config, seconds: np.ndarray, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The (indices, speeds) of each batch of an epoch, window by window."""
    rng = np.random.default_rng([seed, epoch])
    for window in _windows(config, len(seconds), rng):
        factors = augmentation.speeds(speed, seed, epoch, window)
        lengths = _rounded_up(seconds[window] / factors, config.round_seconds)
        by_length = np.argsort(lengths, kind="stable")
        window, factors, lengths = window[by_length], factors[by_length], lengths[by_length]
        cuts = _cut(lengths, config)
        for cut in rng.permutation(len(cuts) - 1):
            rows = slice(cuts[cut], cuts[cut + 1])
            yield window[rows], factors[rows]


def requests(
    config: Config,
    speed: augmentation.Config,
    seconds: np.ndarray,
    seed: int,
    *,
    epoch: int = 1,
    batch: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Request]:
    """All batches from (epoch, batch) on, for ever. Process `rank` of `world` takes every world-th row of each."""
    while True:
        for number, (indices, factors) in enumerate(epoch_batches(config, speed, seconds, seed, epoch)):
            if number < batch:
                continue
            if len(indices) < world:  # every process needs a row: the batch repeats its own
                indices, factors = np.resize(indices, world), np.resize(factors, world)
            mine = slice(rank, None, world)
            yield Request(epoch, number, tuple(indices[mine].tolist()), tuple(factors[mine].tolist()), len(indices))
        epoch, batch = epoch + 1, 0


def _windows(config: Config, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """All utterances once, blocks of them in random order, a window's worth at a time."""
    block = min(config.block, config.window, max(count, 1))
    order = rng.permutation(-(-count // block)).astype(np.int32)
    together = config.window // block
    for start in range(0, len(order), together):
        rows = order[start : start + together, None] * np.int64(block) + np.arange(block)
        yield rows[rows < count]


def _rounded_up(lengths: np.ndarray, multiple: float) -> np.ndarray:
    return np.ceil(lengths / multiple) * multiple if multiple else lengths


def _cut(lengths: np.ndarray, config: Config) -> list[int]:
    """Boundaries [0, ..., N] of batches over ascending lengths, each at most config.seconds when padded."""
    cuts = [0]
    for row, length in enumerate(lengths):
        count = row - cuts[-1] + 1
        if count > 1 and (count * length > config.seconds or count > config.max_utterances):
            cuts.append(row)
    return [*cuts, len(lengths)] if len(lengths) else cuts
