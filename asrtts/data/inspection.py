"""What is wrong with one utterance's audio: the checks that need its samples, and none that need another utterance."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from asrtts.data import audio, sound_files
from asrtts.data.headers import Extent
from asrtts.data.utterance import Utterance

VERSION = 7  # of what is looked for: another number, and everything is inspected again


@dataclass(frozen=True)
class Limits:
    """What audio may look like before it is reported."""

    min_seconds: float = 0.1
    max_seconds: float = 40.0
    silent_dbfs: float = -60.0  # RMS; a quiet recording of speech lies near -40
    clipped_share: float = 0.001  # of the samples at full scale; 16 in a second are heard as a crackle
    highest_peak: float = 16.0  # of a float file, 24 dB above full scale; no recorder writes so, a wrong scale does
    zero_share: float = 0.5  # of the samples exactly zero: a recorder that lost its input


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the file really holds. `digest` is of the decoded samples: a wav and its flac agree; "" where unknown."""

    seconds: float = 0.0
    sample_rate: int = 0
    digest: str = ""
    findings: tuple[tuple[str, str], ...] = ()  # (kind, what was found)


def inspect(utterance: Utterance, limits: Limits) -> Inspection:
    """Decode the utterance once and look at it. Never raises for a bad file: that is a finding."""
    import soundfile  # here, so that `asrtts prepare --help` does not load libsndfile

    extent, part = None, bool(utterance.start or utterance.seconds)  # a segment promises its own length
    try:
        source = audio.stored(utterance)
        extent = None if part else sound_files.extent(source)
        with sound_files.opened(source) as sound:
            rate, channels, frames = sound.samplerate, sound.channels, sound.frames
            first = round(utterance.start * rate)
            wanted = round(utterance.seconds * rate) if utterance.seconds else max(frames - first, 0)
            if wanted > audio.LONGEST * rate:
                return Inspection(sample_rate=rate, findings=(("unreadable", audio.too_long(wanted / rate)),))
            samples = _read(sound, min(first, frames), min(wanted, max(frames - first, 0)))
            different = sound_files.difference(extent, sound, len(samples))
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
        return Inspection(findings=(_why_unreadable(utterance.audio, error, extent),))
    if utterance.channel >= channels:
        message = f"channel {utterance.channel} is wanted, the file has {channels}"
        return Inspection(sample_rate=rate, findings=(("unreadable", message),))

    findings = []
    if different:
        findings.append(different)
    elif len(samples) < wanted - sound_files.SLACK * rate:
        findings.append(("truncated", f"{wanted / rate:.2f} s are promised, {len(samples) / rate:.2f} s are there"))
    elif not len(samples):
        findings.append(("empty", "no samples"))
    if channels > 1:
        findings.append(("channels", f"{channels} channels, number {utterance.channel} is used"))
    mono = np.ascontiguousarray(samples[:, utterance.channel])
    if len(mono):
        findings += _of_samples(mono, len(mono) / rate, limits)
    return Inspection(round(len(mono) / rate, 7), rate, _digest(mono, rate), tuple(findings))


def _read(sound: Any, first: int, wanted: int) -> np.ndarray:
    """(S, C) float32; where decoding breaks off (a FLAC that was cut), what comes before that, in whole blocks."""
    import soundfile

    block = sound.samplerate // 10
    if first:  # some codecs, such as GSM, can only be read from their beginning
        sound.seek(first)
    try:
        return sound.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError):
        sound.seek(first)
        blocks = []
        while sum(map(len, blocks)) < wanted:
            try:
                blocks.append(sound.read(block, dtype="float32", always_2d=True))
            except (soundfile.SoundFileError, RuntimeError):
                break
        if not blocks:
            raise
        return np.concatenate(blocks)


def _of_samples(mono: np.ndarray, seconds: float, limits: Limits) -> list[tuple[str, str]]:
    """Findings in samples (S,), float32, S > 0."""
    if not np.isfinite(mono).all():
        return [("not-finite", f"{int((~np.isfinite(mono)).sum())} samples are NaN or infinite")]
    findings = []
    if seconds < limits.min_seconds:
        findings.append(("too-short", f"{seconds:.3f} s, under {limits.min_seconds:g} s"))
    if seconds > limits.max_seconds:
        findings.append(("too-long", f"{seconds:.1f} s, over {limits.max_seconds:g} s"))
    rms = float(np.std(mono, dtype=np.float64))  # a constant offset is not heard
    level = 20 * np.log10(rms) if rms else -np.inf
    if level < limits.silent_dbfs:
        message = f"{level:.0f} dBFS RMS, under {limits.silent_dbfs:g}" if rms else "all samples are equal"
        return [*findings, ("silent", message)]
    if (zeros := float(np.mean(mono == 0))) > limits.zero_share:
        findings.append(("zeros", f"{zeros:.0%} of the samples are exactly zero"))
    if (peak := float(np.max(np.abs(mono)))) > limits.highest_peak:
        return [*findings, ("not-scaled", f"samples up to {peak:,.0f}, where 1 is full scale")]
    full_scale = np.abs(mono) >= 32767 / 32768  # both ends of 16 bit
    if (share := float(np.mean(full_scale))) > limits.clipped_share:
        findings.append(("clipped", f"{share:.2%} of the samples are at full scale"))
    return findings


def _digest(mono: np.ndarray, rate: int) -> str:
    """Equal for equal audio in any container. Silence gets none: all silence is alike and proves no copy."""
    if not len(mono) or not mono.any():
        return ""
    return hashlib.blake2b(mono.tobytes(), digest_size=12, salt=str(rate).encode()).hexdigest()


def _why_unreadable(path: str, error: Exception, extent: Extent | None) -> tuple[str, str]:
    """(kind, what was found) of a file that libsndfile does not read, which its header may explain."""
    if different := sound_files.difference(extent, None):
        return (different[0] if different[0] == "truncated" else "unreadable"), different[1]
    if isinstance(error, PermissionError):  # of a folder, too: then its files do not seem to exist
        return "unreadable", "permission denied"
    if not os.path.exists(path):  # pathlib's raises for a name that is too long
        return "missing-audio", "no such file"
    if os.path.isfile(path) and not os.path.getsize(path):
        return "empty", "a file of 0 bytes"
    return "unreadable", " ".join(str(error).split())
