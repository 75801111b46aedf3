"""The one definition of log mel filter bank features (fbank), Kaldi-compatible, and their normalization.

Povey window, pre-emphasis 0.97, DC removed per frame, frames centred on the hop (Kaldi's snip_edges=false),
no dither, samples on the 16-bit scale. Hundreds of frames at a time are windowed by one compiled loop, transformed by
one real FFT and multiplied with the mel filters: eight times as fast as the frame-by-frame C++ of kaldi-native-fbank,
within 3e-3 in log.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from asrtts.config import Settings
from asrtts.registry import UserError
from asrtts.storage import parse_json, short_hash

PREEMPHASIS = 0.97
FLOOR = 1.1920928955078125e-07  # float32 epsilon, Kaldi's floor below the logarithm
CHUNK_FRAMES = 1024  # multiplied with the mel filters at a time
FFT_FRAMES = 128  # transformed at a time: 256 KiB of samples, and as much of spectrum, stay in the cache of a core
FILTER_BLOCK = 16  # mel filters in one product; all 80 at once, mostly zeros, take three times as long


class Config(Settings):
    """What an fbank is. It travels inside every exported model."""

    sample_rate: int = Field(16000, ge=1000, le=1_000_000)  # Hz; audio at another rate is resampled
    num_bins: int = Field(80, ge=3, le=10_000)  # mel filters
    frame_seconds: float = Field(0.025, gt=0.001, le=1.0)
    hop_seconds: float = Field(0.010, gt=0.001, le=1.0)
    low_hz: float = Field(20.0, ge=0.0)
    high_hz: float = 0.0  # 0 or below: counted from half the sample rate, as Kaldi does

    @property
    def frame(self) -> int:
        """Samples in a frame, cut off to a whole number, as Kaldi does."""
        return int(self.sample_rate * self.frame_seconds + 1e-6)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sample_rate * self.hop_seconds + 1e-6)

    @property
    def top_hz(self) -> float:
        """The upper edge of the highest filter."""
        return self.high_hz if self.high_hz > 0 else self.sample_rate / 2 + self.high_hz

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.hop_seconds > self.frame_seconds:
            raise ValueError(f"hop_seconds {self.hop_seconds} leaves gaps between frames of {self.frame_seconds} s")
        if not self.low_hz < self.top_hz <= self.sample_rate / 2:
            raise ValueError(
                f"filters from low_hz {self.low_hz:g} to high_hz {self.top_hz:g}: the upper one must be the higher, "
                f"and at most {self.sample_rate / 2:g}, half the sample rate"
            )
        return self


def num_frames(config: Config, samples: int) -> int:
    """Frames that `samples` samples give: one for each hop, rounded."""
    return (samples + config.hop // 2) // config.hop


def fbank(config: Config, waves: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Log mel features of a batch.

    Args:
        waves: B arrays (S_b,), float32 in [-1, 1], at config.sample_rate. One shorter than half a hop has no frame.

    Returns:
        feats (B, T, F) float32, zero beyond each length, and feat_lens (B,) int64.
    """
    size, hop = config.frame, config.hop
    lens = [num_frames(config, len(wave)) for wave in waves]
    feats = torch.empty(len(waves), max(lens, default=0), config.num_bins)
    # Made once, as fresh memory costs as much as the FFT. Beyond a frame it stays zero, which pads the FFT.
    room = min(CHUNK_FRAMES, sum(lens) + len(lens) * (size // hop))
    windowed = np.zeros((min(FFT_FRAMES, room), _tables(config)[2]), dtype=np.float32)
    power = np.empty((room, windowed.shape[1] // 2), dtype=np.float32)
    for rows in _chunks(lens):
        # One line of samples, each utterance reflected at its edges; frames that lie across two of them are not used.
        starts = np.cumsum([0] + [lens[row] + size // hop for row in rows]).tolist()  # in hops
        line = np.empty(starts[-1] * hop, dtype=np.float32)
        for row, start, end in zip(rows, starts, starts[1:], strict=False):
            _reflect(waves[row], line[start * hop : end * hop], size // 2 - hop // 2)
        mel = _mel_energies(config, line, windowed, power)
        for row, start in zip(rows, starts, strict=False):
            torch.log(mel[start : start + lens[row]], out=feats[row, : lens[row]])
    for row, length in enumerate(lens):
        feats[row, length:] = 0
    return feats, torch.tensor(lens, dtype=torch.int64)


@dataclass(frozen=True)
class Statistics:
    """Global mean and standard deviation of each feature bin over the training data."""

    mean: Tensor  # (F,)
    std: Tensor  # (F,)

    def __reduce__(self) -> tuple[Any, ...]:
        """By value: torch would send tensors to another process through /dev/shm, which may be full."""
        return _statistics_of_arrays, (self.mean.numpy(), self.std.numpy())

    def normalize(self, feats: Tensor, feat_lens: Tensor) -> Tensor:
        """(B, T, F) with zero mean and unit variance; padding stays zero."""
        valid = torch.arange(feats.shape[1])[None, :] < feat_lens[:, None]
        return ((feats - self.mean) / self.std) * valid[:, :, None]

    @classmethod
    def of(cls, batches: Iterable[tuple[Tensor, Tensor]]) -> Statistics:
        """From batches of (feats, feat_lens), accumulated in float64."""
        total, squares, count = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 0
        for feats, feat_lens in batches:
            valid = torch.arange(feats.shape[1])[None, :] < feat_lens[:, None]
            frames = feats[valid].double()
            total, squares, count = total + frames.sum(0), squares + frames.square().sum(0), count + len(frames)
        if count < 2:
            raise UserError("no frames to take feature statistics from: is the training manifest empty?")
        mean = total / count
        return cls(mean.float(), (squares / count - mean.square()).clamp_min(1e-8).sqrt().float())

    def save(self, path: Path) -> None:
        values = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        Path(path).write_text(json.dumps(values), encoding="utf-8")

    def fingerprint(self) -> str:
        """The same for the same numbers."""
        return short_hash([self.mean.tolist(), self.std.tolist()])

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Raises UserError if the file is missing, or does not hold a mean and a positive deviation for each bin."""
        try:
            values = parse_json(Path(path).read_text(encoding="utf-8"))
            mean, std = (torch.tensor(values[key], dtype=torch.float32) for key in ("mean", "std"))
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
            raise UserError(f"{path}: no feature statistics ({reason}); train again into a new folder") from None
        if mean.ndim != 1 or mean.shape != std.shape or not (mean.isfinite() & std.isfinite() & (std > 0)).all():
            raise UserError(f"{path}: damaged feature statistics; train again into a new folder")
        return cls(mean, std)


def _statistics_of_arrays(mean: np.ndarray, std: np.ndarray) -> Statistics:
    return Statistics(torch.tensor(mean), torch.tensor(std))


def _chunks(lens: list[int]) -> Iterable[list[int]]:
    """Rows to be worked on together: short utterances share the cost of a call. Those without a frame are left out."""
    rows: list[int] = []
    frames = 0
    for row, length in enumerate(lens):
        if rows and frames + length > CHUNK_FRAMES:
            yield rows
            rows, frames = [], 0
        if length:
            rows.append(row)
            frames += length
    if rows:
        yield rows


def _reflect(wave: np.ndarray, line: np.ndarray, left: int) -> None:
    """Write the wave into a stretch of the line, `left` samples from its start, mirrored at both ends to fill it.

    Frame t starts at t * hop + hop / 2 - size / 2, so the first begins before the first sample.
    """
    right = len(line) - left - len(wave)
    if right > 0 and max(left, right) <= len(wave):
        line[:left], line[left : left + len(wave)], line[-right:] = wave[:left][::-1], wave, wave[-right:][::-1]
    else:  # a very short wave is mirrored again and again
        line[:] = np.pad(wave, (left, max(0, right)), mode="symmetric")[: len(line)]


def _mel_energies(config: Config, line: np.ndarray, windowed: np.ndarray, power: np.ndarray) -> Tensor:
    """(T, F) of the frames that start at every hop of a line (S,); `windowed` and `power` are room to work in."""
    from asrtts.data import fbank_kernels as kernels

    hop = config.hop
    window, blocks, _ = _tables(config)
    count = (len(line) - config.frame) // hop + 1
    out = torch.empty(count, config.num_bins)
    for start in range(0, count, len(power)):
        rows = slice(start, min(start + len(power), count))
        squares = power[: rows.stop - start]
        for at in range(0, len(squares), len(windowed)):
            frames = windowed[: len(squares) - at]
            kernels.window_frames(line[(start + at) * hop :], hop, window, PREEMPHASIS, frames)
            spectrum = torch.view_as_real(torch.fft.rfft(torch.from_numpy(frames)))
            kernels.power(spectrum.flatten(1).numpy(), squares[at : at + len(frames)])
        for bins, filters, mel in blocks:
            torch.mm(torch.from_numpy(squares[:, bins]), mel, out=out[rows, filters])
    return out.clamp_min_(FLOOR)


@lru_cache(maxsize=8)
def _tables(config: Config) -> tuple[np.ndarray, list[tuple[slice, slice, Tensor]], int]:
    """Povey window, scaled (size,), mel filters, and the FFT's length, a power of two.

    A mel filter is zero but for a few bins, so the filters are cut into blocks: (FFT bins, filters, weights of these).
    """
    size = config.frame
    padded = 1 << (size - 1).bit_length()
    n = torch.arange(size, dtype=torch.float64)
    window = (0.5 - 0.5 * torch.cos(2 * math.pi * n / (size - 1))) ** 0.85
    edges = torch.linspace(_mel(config.low_hz), _mel(config.top_hz), config.num_bins + 2, dtype=torch.float64)
    bins = torch.tensor(
        [_mel(k * config.sample_rate / padded) for k in range(padded // 2)], dtype=torch.float64
    )  # Kaldi leaves the Nyquist bin out
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    mel = torch.minimum(rising, falling).clamp_min(0).float()
    blocks = []
    for start in range(0, config.num_bins, FILTER_BLOCK):
        filters = slice(start, min(start + FILTER_BLOCK, config.num_bins))
        used = mel[:, filters].any(1).nonzero().flatten().tolist() or [0]
        rows = slice(used[0], used[-1] + 1)
        blocks.append((rows, filters, mel[rows, filters].contiguous()))
    return (window * 32768.0).float().numpy(), blocks, padded  # Kaldi's scale: 16-bit integers


def _mel(hz: float) -> float:
    return 1127.0 * math.log(1.0 + hz / 700.0)
