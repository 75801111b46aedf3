"""Open an audio file so that all that it holds is read, whatever its header says of its length.

One rule for every format: the header's promise, what the file holds and what libsndfile reads are compared. A length
that is missing (a writer to a pipe) or too small (MP3) is filled in from the file; every other difference is told.
"""

from __future__ import annotations

import io
import mmap
import os
from functools import lru_cache
from typing import TYPE_CHECKING

from asrtts.data import coded_frames, headers
from asrtts.data.headers import Extent

if TYPE_CHECKING:
    import soundfile

SLACK = 0.01  # seconds by which a duration may be rounded: promises, segments and files may differ so much
UNKNOWN = 1 << 60  # libsndfile's number of frames where it knows none is larger
MAPPED = 64 << 20  # bytes from which a file is not read as a whole
_WIDTH = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}
_WIDTH["DOUBLE"] = 8  # bytes of a sample


def opened(source: str | io.BytesIO) -> soundfile.SoundFile:
    """The file as libsndfile reads it, with the right number of frames.

    Args:
        source: a path, or the bytes of a file.

    Raises:
        soundfile.SoundFileError, OSError: as soundfile does.
    """
    import soundfile

    if _looks_like_mp3(source) and (corrected := _corrected(source)):
        return soundfile.SoundFile(corrected)  # at once: libsndfile prints a warning where it finds the length wrong
    try:
        sound = soundfile.SoundFile(source)
    except soundfile.SoundFileError:
        if not (isinstance(source, io.BytesIO) or os.path.isfile(source)) or (corrected := _corrected(source)) is None:
            raise
        return soundfile.SoundFile(corrected)
    if (sound.format == "MP3" or not 0 < sound.frames < UNKNOWN) and (corrected := _corrected(source)):
        sound.close()
        return soundfile.SoundFile(corrected)
    return sound


def extent(source: str | io.BytesIO) -> Extent | None:
    """What the header promises beside what the file holds; None where only decoding can tell.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    return _chunked(source) or coded_frames.extent(_contents(source))


def difference(lengths: Extent | None, sound: soundfile.SoundFile | None, decoded: int = -1) -> tuple[str, str] | None:
    """What a whole file holds other than its header promises, as (kind of finding, sentence); None within SLACK.

    Args:
        lengths: of `extent`.
        sound: the opened file; None where libsndfile could not open it.
        decoded: samples of each channel that were read; -1 where none were.
    """
    if lengths is None:
        return None
    if lengths.joined:
        return "unread", f"a second file is joined to this one at byte {lengths.joined}; they are not read as one"
    if lengths.ends_within:
        return "truncated", f"it ends within {lengths.ends_within}"
    trimmed = lengths.trimmed / sound.samplerate if sound else 0.0

    def matters(amount: int, slack: float) -> bool:
        return amount > 0 and (sound is None or seconds_of(amount, lengths, sound) > slack)

    lost = 0 if lengths.promised is None else lengths.promised - lengths.held
    if matters(lost, max(SLACK, trimmed / 2)):
        return "truncated", f"the header promises {lengths.promised} {lengths.unit} of audio, {lengths.held} are there"
    if matters(lengths.behind, SLACK):
        return "unread", f"the header promises {lengths.promised} {lengths.unit} of audio, {lengths.behind} more follow"
    if lengths.unit == "samples" and decoded >= 0 and matters(lengths.held - decoded, SLACK + trimmed):
        return "unread", f"the file holds {lengths.held} samples, libsndfile reads {decoded} of them"
    return None


def seconds_of(amount: int, lengths: Extent, sound: soundfile.SoundFile) -> float:
    """An amount of an extent, in its unit, as seconds."""
    if lengths.unit == "samples":
        return amount / sound.samplerate
    width = _WIDTH.get(sound.subtype, 0) * sound.channels
    frames = amount / width if width else amount * sound.frames / max(lengths.held, 1)
    return frames / sound.samplerate


def _looks_like_mp3(source: str | io.BytesIO) -> bool:
    if isinstance(source, str):
        return source.lower().endswith((".mp3", ".mp2")) and os.path.isfile(source)
    start = bytes(source.getbuffer()[:3])
    return start == b"ID3" or (start[:1] == b"\xff" and len(start) > 1 and start[1] >= 0xE0)


def _contents(source: str | io.BytesIO) -> bytes:
    """All bytes of a file; those of a long recording as a memory map."""
    if isinstance(source, io.BytesIO):
        return source.getvalue()
    with open(source, "rb") as file:
        if os.fstat(file.fileno()).st_size < MAPPED:
            return file.read()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # type: ignore[return-value]


def _corrected(source: str | io.BytesIO) -> coded_frames.Pieces | None:
    """The file with its true length in its header; None if that is so already, or cannot be."""
    data = _contents(source)
    if data[:4] == b"OggS":
        return None
    lengths = coded_frames.extent(data) if data[:4] == b"fLaC" else _chunked(source)
    if lengths is not None:
        return coded_frames.Pieces(_patched(data, lengths.patches)) if lengths.patches else None
    frames = coded_frames.mpeg_frames(data) if isinstance(source, io.BytesIO) else _mpeg_frames(source, *_state(source))
    pieces = coded_frames.with_length(data, frames) if frames else None
    return coded_frames.Pieces(pieces) if pieces else None


def _chunked(source: str | io.BytesIO) -> Extent | None:
    if isinstance(source, io.BytesIO):
        return headers.extent(source)
    with open(source, "rb") as file:
        return headers.extent(file)


def _patched(data: bytes, patches: tuple[tuple[int, bytes], ...]) -> list[bytes]:
    pieces, done = [], 0
    view = memoryview(data)
    for offset, patch in patches:
        pieces += [view[done:offset], patch]
        done = offset + len(patch)
    return [*pieces, view[done:]]  # type: ignore[list-item]


def _state(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _mpeg_frames(path: str, size: int, changed: int) -> coded_frames.MpegFrames | None:
    """Remembered, since a long recording is opened for each of its segments. `size` and `changed` are its state."""
    return coded_frames.mpeg_frames(_contents(path))
