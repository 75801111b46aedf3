"""Reading audio: any format of libsndfile (wav, flac, NIST sphere, ogg, mp3), as mono float32 at one rate."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

import numpy as np

from asrtts.data import sound_files, tar_members
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

LONGEST = 3 * 3600  # seconds; a damaged header promises years, and the memory for them would be asked for


def read(utterance: Utterance, sample_rate: int) -> np.ndarray:
    """The utterance's samples (S,), float32, resampled to `sample_rate` Hz.

    Full scale is [-1, 1]; a float file, an MP3 or an Ogg may go beyond, and its samples are given as they are.

    Raises:
        UserError: the file is missing or damaged, ends before the utterance does, or promises more than LONGEST.
    """
    import soundfile  # here, so that reading a manifest does not load libsndfile

    try:
        with sound_files.opened(stored(utterance)) as sound:
            rate = sound.samplerate
            first = min(round(utterance.start * rate), sound.frames)
            count = round(utterance.seconds * rate) if utterance.seconds else -1
            wanted = min(count, sound.frames - first) if count >= 0 else sound.frames - first
            if wanted > LONGEST * rate:
                raise ValueError(too_long(wanted / rate))
            if first:  # some codecs, such as GSM, can only be read from their beginning
                sound.seek(first)
            samples = sound.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
        raise UserError(_unreadable(utterance, error)) from None
    if utterance.channel >= samples.shape[1]:
        raise UserError(
            f"{utterance.audio}: utterance {utterance.utt_id} is on channel {utterance.channel}, "
            f"the file has {samples.shape[1]}"
        )
    mono = samples[:, utterance.channel]
    if len(mono) < count - sound_files.SLACK * rate or not len(mono):
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
        missing = utterance.offset + utterance.size - os.fstat(shard.fileno()).st_size
        if missing > 0:
            raise OSError(f"the shard ends {missing} bytes too early; copy or write it again")
        shard.seek(max(0, utterance.offset - tar_members.BLOCK))
        header, data = shard.read(tar_members.BLOCK), shard.read(utterance.size)
        if not _is_member(utterance, shard, header):
            raise OSError("the shard has changed since the manifest was made: another file is at that place")
    return io.BytesIO(data)


def _is_member(utterance: Utterance, shard: BinaryIO, header: bytes) -> bool:
    """Whether the member whose content begins at the utterance's offset bears its id, whoever wrote the archive."""
    wanted = tar_members.stem(utterance.utt_id + ".")
    plain = header[:100].rstrip(b"\0").decode("ascii", "replace")  # enough for most, and the fastest
    if tar_members.stem(plain) == wanted and wanted.isascii() and len(plain) < 100:
        return True
    member = tar_members.name_before(shard, utterance.offset)
    return member is not None and tar_members.stem(member[0]) == wanted


def too_long(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h in one utterance: a damaged header, or a recording without segments"


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
