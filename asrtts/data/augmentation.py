"""What is done to training audio and features so that the model hears more than was recorded.

Every choice is drawn from (seed, epoch, utterance), never from a worker's own state: the same run gives the same
batches with any number of workers, and a resumed one goes on exactly.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
from pydantic import AfterValidator, Field
from torch import Tensor

from asrtts.config import CountOrNone, Settings
from asrtts.data.audio import resample
from asrtts.data.sound_files import opened
from asrtts.registry import UserError

SOUND_FILES = (".wav", ".flac", ".ogg")
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Speed = Annotated[float, Field(ge=0.25, le=4.0)]
Decibels = Annotated[float, Field(ge=-100.0, le=100.0)]


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= bounds[1]:
        raise ValueError(f"holds [{bounds[0]:g}, {bounds[1]:g}]; wanted the lower end first")
    return bounds


Range = Annotated[tuple[Decibels, Decibels], AfterValidator(_ascending)]


class SpecAugment(Settings):
    """Masks over features (Park et al. 2019), set to zero, which is the mean after normalization."""

    time_masks: int = Field(2, ge=0, le=1000)
    time_mask_frames: CountOrNone = 40  # the widest a mask can be
    time_mask_share: Share = 0.2  # and never more than this share of the utterance (adaptive, Park et al. 2020)
    freq_masks: int = Field(2, ge=0, le=1000)
    freq_mask_bins: CountOrNone = 27  # the widest
    warp_frames: CountOrNone = 0  # time warping by up to this many frames; 0: none


class Additive(Settings):
    """Noise mixed in at a signal-to-noise ratio drawn from a range."""

    folder: str  # searched for wav, flac and ogg files
    probability: Share = 0.5  # that an utterance gets noise
    snr_db: Range = (5.0, 20.0)


class Reverberation(Settings):
    """Convolution with a measured or simulated room impulse response."""

    folder: str  # searched for wav, flac and ogg files
    probability: Share = 0.3  # that an utterance is convolved


class Config(Settings):
    speed: tuple[Speed, ...] = Field((1.0,), min_length=1)  # factors, drawn evenly (Ko et al. 2015: 0.9, 1.0, 1.1)
    gain_db: Range = (0.0, 0.0)  # how much louder or softer, drawn from this range
    noise: Additive | None = None  # null: none is mixed in
    reverberation: Reverberation | None = None  # null: as recorded
    spec_augment: SpecAugment | None = Field(default_factory=SpecAugment)  # null: no masks


NONE = Config(spec_augment=None)


def check(config: Config) -> None:
    """Raises UserError now for a folder that holds no sound: else it would end the training in its first batches."""
    for source in (config.noise, config.reverberation):
        if source:
            sound_files(source.folder)


def speeds(config: Config, seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """The speed factor (N,) of each utterance in this epoch; batches are cut by it before any audio is read."""
    if len(config.speed) == 1:
        return np.full(len(indices), config.speed[0])
    return np.asarray(config.speed)[_mix(seed, epoch, indices) % np.uint64(len(config.speed))]


def augment_wave(config: Config, wave: np.ndarray, speed: float, sample_rate: int, rng: np.random.Generator):
    """Speed, room, noise and gain, in that order, on samples (S,) in [-1, 1]."""
    if speed != 1.0:
        wave = resample(wave, round(sample_rate * speed), sample_rate)
    if config.reverberation and rng.random() < config.reverberation.probability:
        wave = reverberate(wave, _response(_drawn_file(config.reverberation.folder, rng), sample_rate))
    if config.noise and rng.random() < config.noise.probability:
        snr_db = rng.uniform(*config.noise.snr_db)
        path = _drawn_file(config.noise.folder, rng)
        wave = add_noise(wave, _stretch(path, len(wave) / sample_rate, sample_rate, rng), snr_db, rng)
    if config.gain_db != (0.0, 0.0):
        wave = wave * np.float32(10 ** (rng.uniform(*config.gain_db) / 20))
    return wave


def reverberate(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve with an impulse response; length, energy and the place of the direct sound stay as they were."""
    peak = int(np.abs(response).argmax())
    size = 1 << (len(wave) + len(response) - 2).bit_length()
    wet = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[peak : peak + len(wave)]
    scale = np.sqrt(np.square(wave).sum() / max(np.square(wet).sum(), 1e-12))
    return (wet * scale).astype(np.float32)


def add_noise(wave: np.ndarray, noise: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Mix in a random stretch of noise, repeated if it is too short, at `snr_db` below the speech."""
    if len(noise) >= len(wave):
        start = int(rng.integers(len(noise) - len(wave) + 1))
        noise = noise[start : start + len(wave)]
    else:
        noise = np.resize(np.roll(noise, -int(rng.integers(len(noise)))), len(wave))
    power, noise_power = np.square(wave).mean(), max(np.square(noise).mean(), 1e-12)
    return (wave + noise * np.sqrt(power / noise_power / 10 ** (snr_db / 10))).astype(np.float32)


def mask_features(config: SpecAugment, feats: Tensor, frames: int, rng: np.random.Generator) -> None:
    """Mask one utterance's normalized features (T, F) in place; only its first `frames` frames are speech."""
    for _ in range(config.freq_masks):
        width = int(rng.integers(min(config.freq_mask_bins, feats.shape[1]) + 1))
        start = int(rng.integers(feats.shape[1] - width + 1))
        feats[:, start : start + width] = 0
    widest = min(config.time_mask_frames, int(frames * config.time_mask_share))
    for _ in range(config.time_masks):
        width = int(rng.integers(widest + 1))
        start = int(rng.integers(frames - width + 1))
        feats[start : start + width] = 0


def warp_features(config: SpecAugment, feats: Tensor, frames: int, rng: np.random.Generator) -> None:
    """Move one frame of (T, F) by up to `warp_frames`, and stretch and squeeze what lies on its two sides, in place."""
    reach = config.warp_frames
    if reach < 1 or frames <= 2 * reach + 2:
        return
    centre = int(rng.integers(reach + 1, frames - reach - 1))  # wherever it moves, the two ends stay
    moved = centre + int(rng.integers(-reach, reach + 1))
    old = np.interp(np.arange(frames), [0, moved, frames - 1], [0, centre, frames - 1])
    below = old.astype(np.int64)
    above, share = np.minimum(below + 1, frames - 1), feats.new_tensor(old - below)[:, None]
    feats[:frames] = feats[below] * (1 - share) + feats[above] * share


def _mix(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """splitmix64 of (seed, epoch, index): even, and vectorized over millions of indices."""
    with np.errstate(over="ignore"):
        x = indices.astype(np.uint64) + np.uint64(1) + np.uint64(epoch) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        return x ^ (x >> np.uint64(31))


def _drawn_file(folder: str, rng: np.random.Generator) -> str:
    files = sound_files(folder)
    return files[int(rng.integers(len(files)))]


@lru_cache(maxsize=16)
def sound_files(folder: str) -> list[str]:
    """The sound files below a folder, sorted. Raises UserError if there are none."""
    files = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in SOUND_FILES)
    if not files:
        what = f"no {', '.join(SOUND_FILES)} file in it" if Path(folder).is_dir() else "no such folder"
        raise UserError(f"{folder}: {what}, wanted for augmentation; name another or take the setting out")
    return files


@lru_cache(maxsize=256)
def _response(path: str, sample_rate: int) -> np.ndarray:
    """A room's impulse response: short, and used again and again."""
    response = _stretch(path, None, sample_rate, None)
    if not response.any():
        raise UserError(f"{path}: holds nothing but zeros, and no room sounds so; remove it")
    return response


def _stretch(path: str, seconds: float | None, sample_rate: int, rng: np.random.Generator | None) -> np.ndarray:
    """A random stretch of a sound file, all of it if it is not longer (or `seconds` is None)."""
    try:
        with opened(path) as sound:
            count = sound.frames if seconds is None else min(sound.frames, math.ceil(seconds * sound.samplerate) + 1)
            if count < sound.frames:
                sound.seek(int(rng.integers(sound.frames - count + 1)))
            samples, rate = sound.read(count, dtype="float32", always_2d=True)[:, 0], sound.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path}: cannot be read for augmentation ({error}); replace or remove it") from None
    samples = resample(np.ascontiguousarray(samples), rate, sample_rate)
    if not len(samples) or not np.isfinite(samples).all():
        what = "an empty file" if not len(samples) else "a file with samples that are no numbers"
        raise UserError(f"{path}: {what} cannot be used for augmentation; remove it")
    return samples
