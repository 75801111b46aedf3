"""The one record: an utterance is a stretch of an audio file, its text and its speaker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a manifest.

    `seconds` is 0.0 where a corpus does not know it yet: `asrtts prepare` opens the audio and fills it in.
    """

    utt_id: str
    audio: str  # path of the audio file
    text: str
    speaker: str = ""  # empty: unknown
    start: float = 0.0  # seconds into the file; above 0 only for segments of longer recordings
    seconds: float = 0.0  # duration
    sample_rate: int = 0  # of the file, in Hz
    channel: int = 0  # of a file with several
    offset: int = 0  # bytes into a tar shard, where the audio file begins
    size: int = 0  # its bytes; 0: `audio` is the audio file itself
