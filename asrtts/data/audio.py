"""Reading audio: any format of libsndfile (wav, flac, NIST sphere, ogg, mp3), as mono float32 at one rate."""

from __future__ import annotations

import io
import os

import numpy as np

from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

TAR_BLOCK = 512  # bytes; a member's header stands in the block before its data


def read(utterance: Utterance, sample_rate: int) -> np.ndarray:
    """The utterance's samples (S,), float32 in [-1, 1], resampled to `sample_rate` Hz.

    Raises:
        UserError: the file is missing or damaged, or ends before the utterance does.
    """
    import soundfile  # here, so that reading a manifest does not load libsndfile

    try:
        with soundfile.SoundFile(stored(utterance)) as sound:
            rate = sound.samplerate
            first = min(round(utterance.start * rate), sound.frames)
            if first:  # some codecs, such as GSM, can only be read from their beginning
                sound.seek(first)
            count = round(utterance.seconds * rate) if utterance.seconds else -1
            rest = -1 if sound.seekable() else sound.frames
            samples = sound.read(count if count >= 0 else rest, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
        raise UserError(_unreadable(utterance, error)) from None
    if utterance.channel >= samples.shape[1]:
        raise UserError(
            f"{utterance.audio}: utterance {utterance.utt_id} is on channel {utterance.channel}, "
            f"the file has {samples.shape[1]}"
        )
    mono = samples[:, utterance.channel]
    if len(mono) < count - 0.01 * rate or not len(mono):  # 10 ms of slack: rounded durations
        wanted = f"{utterance.seconds:.2f} s" if utterance.seconds else "the rest"
        raise UserError(
            f"{utterance.audio}: utterance {utterance.utt_id} is {wanted} from {utterance.start:.2f} s on, "
            f"the file has only {len(mono) / rate:.2f} s there; run `asrtts prepare` again (stage 1)"
        )
    return resample(np.ascontiguousarray(mono), rate, sample_rate)


def stored(utterance: Utterance) -> str | io.BytesIO:
    """What libsndfile reads: the path of the audio file, or the bytes of it that a tar shard holds.

    Raises:
        OSError: it is no file, or one without a header; the shard is gone or ends before, or another utterance is at
            that place.
    """
    if utterance.audio.lower().endswith(".raw"):  # soundfile would want to be told what is in it
        raise OSError("samples without a header, of no known rate and form; write it as wav or flac")
    if os.path.exists(utterance.audio) and not os.path.isfile(utterance.audio):  # a pipe would be waited for
        raise OSError("a folder, a pipe or a device, no file")
    if not utterance.size:
        return utterance.audio
    with open(utterance.audio, "rb") as shard:
        shard.seek(max(0, utterance.offset - TAR_BLOCK))
        header, data = shard.read(TAR_BLOCK), shard.read(utterance.size)
    if len(data) < utterance.size:
        raise OSError(f"the shard ends {utterance.size - len(data)} bytes too early; copy or write it again")
    name = header[:100].rstrip(b"\0")  # a longer one is cut off here
    stem = name.rpartition(b"/")[2].rpartition(b".")[0].decode(errors="replace")
    if len(name) < 100 and stem != utterance.utt_id.rpartition("/")[2]:
        raise OSError("the shard has changed since the manifest was made: another file is at that place")
    return io.BytesIO(data)


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Samples (S,) at another rate, by soxr's high-quality filter."""
    if from_rate == to_rate:
        return samples
    import soxr

    return soxr.resample(samples, from_rate, to_rate).astype(np.float32, copy=False)


def _unreadable(utterance: Utterance, error: Exception) -> str:
    if not os.path.exists(utterance.audio):
        return (
            f"{utterance.audio}: the audio of {utterance.utt_id} is gone; "
            "if the corpus moved, run `asrtts prepare` again (stage 1)"
        )
    return f"{utterance.audio}: the audio of {utterance.utt_id} cannot be read ({error}); replace the file"
