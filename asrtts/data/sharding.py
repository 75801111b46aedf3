"""Tar shards (the layout of WebDataset): `<utt_id>.flac` and `<utt_id>.txt` side by side, thousands in a file.

A shard is not compressed, since audio is, so each member is a stretch of bytes that can be read at its place: a
manifest of shards has the same random access, the same order and the same resuming as one of single files.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from asrtts.data import audio
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

SUFFIXES = {"FLAC": ".flac", "WAV": ".wav", "OGG": ".ogg", "MP3": ".mp3"}  # by libsndfile's name of the format
FINE = ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")  # subtypes that 16 bit would round


def write(utterances: Sequence[Utterance], order: np.ndarray, folder: Path, per_shard: int) -> Iterator[Utterance]:
    """Write folder/000000.tar, ... in this order; yields each utterance as it then stands in its shard.

    Whole files are copied as they are; segments, channels and other formats become FLAC of the same rate, without loss
    up to 24 bits. `<utt_id>.txt` is the text, and `<utt_id>.json` says the speaker where one is known.

    Raises:
        UserError: audio cannot be read, or an id cannot be the name of a file.
    """
    for number, start in enumerate(range(0, len(order), per_shard)):
        path = folder / f"{number:06d}.tar"
        with tarfile.open(path, "w") as shard:
            for row in order[start : start + per_shard].tolist():
                utterance = utterances[row]
                _check_name(utterance)
                sound, suffix = _sound(utterance)
                offset = _add(shard, utterance.utt_id + suffix, sound)
                _add(shard, utterance.utt_id + ".txt", utterance.text.encode())
                if utterance.speaker:
                    about = json.dumps({"speaker": utterance.speaker}, ensure_ascii=False)
                    _add(shard, utterance.utt_id + ".json", about.encode())
                place = {"audio": os.path.abspath(path), "offset": offset, "size": len(sound)}
                yield replace(utterance, start=0.0, channel=0, **place)


def _check_name(utterance: Utterance) -> None:
    parts = utterance.utt_id.split("/")
    if "" in parts or ".." in parts or "\0" in utterance.utt_id:
        raise UserError(f"utterance {utterance.utt_id!r}: no name for a file in a shard; give it another id")


def _sound(utterance: Utterance) -> tuple[bytes, str]:
    """The bytes of an audio file that holds the utterance and nothing else, and the suffix of its name."""
    import soundfile

    try:
        source = audio.stored(utterance)
        about = soundfile.info(source)
    except (soundfile.SoundFileError, RuntimeError, OSError):
        audio.read(utterance, 16000)  # says what is wrong
        raise
    suffix = SUFFIXES.get(about.format)
    whole = not utterance.start and abs(utterance.seconds - about.duration) < 0.01
    if suffix and whole and about.channels == 1:
        return source.getvalue() if isinstance(source, io.BytesIO) else Path(source).read_bytes(), suffix
    samples, flac = audio.read(utterance, about.samplerate).astype(np.float64), io.BytesIO()
    # In whole numbers: libsndfile would read 1/32768 for a step and write 1/32767.
    bits, kind, room = (24, np.int32, 8) if about.subtype in FINE else (16, np.int16, 0)
    full = 1 << (bits - 1)
    steps = np.clip(np.rint(samples * full), -full, full - 1).astype(kind) << room
    soundfile.write(flac, steps, about.samplerate, f"PCM_{bits}", format="FLAC")
    return flac.getvalue(), ".flac"


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a member; returns the place of its content. Times and owners are left out: equal data, equal shards."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))
    shard.members.clear()  # tarfile keeps all that it wrote
    blocks = -(-len(content) // tarfile.BLOCKSIZE)
    return shard.offset - blocks * tarfile.BLOCKSIZE
