"""Tar shards (the layout of WebDataset): `<utt_id>.flac` and `<utt_id>.txt` side by side, thousands in a file.

A shard is not compressed, since audio is, so each member is a stretch of bytes that can be read at its place: a
manifest of shards has the same random access, the same order and the same resuming as one of single files.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from asrtts import storage
from asrtts.config import warn
from asrtts.data import audio, batching, manifest, sound_files
from asrtts.data.shard_record import COUNT, MANIFEST, RECORD, SIZES, damage
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

SUFFIXES = {"FLAC": ".flac", "WAV": ".wav", "OGG": ".ogg", "MP3": ".mp3"}  # by libsndfile's name of the format
_LOSSY = ("MP3", "OGG")

Progress = Callable[[Iterator[Utterance], int], Iterable[Utterance]]


@dataclass(frozen=True)
class Shards:
    """What a folder of shards holds."""

    utterances: int
    sizes: dict[str, int]  # bytes of each shard
    finished_before: bool


def make(manifest_path: str, folder: Path, per_shard: int, seed: int, progress: Progress) -> Shards:
    """Write the shards of a manifest into `folder`, with a manifest of them and the record that ends it.

    What is finished is left alone. Everything is written beside the folder and renamed at the end, so a kill leaves
    nothing in it; a folder of the same shards of which one is missing or cut short is written again.

    Args:
        per_shard: utterances in each.
        seed: of the order in which they are shuffled.
        progress: is given the utterances as they are written, and their number.

    Raises:
        UserError: the folder holds something else, another process works in it, audio cannot be read, or the disk is
            full.
    """
    index, absolute = batching.Index(manifest_path), folder.absolute()
    made_from = {"data_hash": manifest.fingerprint(index.path), "utterances": per_shard, "seed": seed}
    made_from["folder"] = str(absolute)  # in which the manifest says that the shards are
    if before := _finished(folder, made_from):
        return before
    with storage.held(folder):
        if before := _finished(folder, made_from):
            return before
        _ours(folder)
        order = np.random.default_rng(seed).permutation(len(index))
        try:
            with storage.staged(Path(os.path.realpath(folder))) as stage:
                made = _write_all(index, order, stage, absolute, per_shard, made_from, progress)
                for path in _ours(folder):  # shards of which some were lost
                    path.unlink()
                os.replace(stage, os.path.realpath(folder))
        except OSError as error:
            raise storage.storage_error(folder, error) from None
    return made


def _finished(folder: Path, made_from: dict[str, Any]) -> Shards | None:
    """The shards that are there, if they are those that are asked for and whole.

    Raises:
        UserError: the folder holds something else.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return None
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"{folder}: is there already, and no {RECORD} says of what; name another folder or delete it")
    before = storage.json_object(path.read_bytes(), str(path), "delete the folder")
    if storage.MADE_FROM not in before:
        raise UserError(f"{folder}: is there already, made by an older version; name another folder or delete it")
    if difference := storage.changed(before, made_from):
        key, then, now = difference
        raise UserError(
            f"{folder}: is there already, with {key} {then}, now it is {now}; name another folder or delete it"
        )
    lost = damage(folder, before)
    if lost is None and storage.finished(path, made_from):
        return Shards(before[COUNT], before[SIZES], finished_before=True)
    warn(f"{lost or folder / MANIFEST}: not as it was written; the shards are written again")
    return None


def _ours(folder: Path) -> list[Path]:
    """The files of a folder of shards. Raises UserError if it holds any other, which would be lost."""
    paths = sorted(folder.iterdir())
    for path in paths:
        if path.suffix != ".tar" and path.name != RECORD and MANIFEST not in path.name:
            raise UserError(f"{path}: is no part of the shards and in the way of writing them again; move it away")
    return paths


def _write_all(
    index: batching.Index,
    order: np.ndarray,
    stage: Path,
    absolute: Path,
    per_shard: int,
    made_from: dict[str, Any],
    progress: Progress,
) -> Shards:
    """Write shards, manifest and record into `stage`, for a folder that will be at `place`."""
    written = progress(write(index, order, stage, per_shard), len(index))
    count = manifest.write(
        stage / MANIFEST, (replace(u, audio=str(absolute / os.path.basename(u.audio))) for u in written)
    )
    sizes = {path.name: path.stat().st_size for path in sorted(stage.glob("*.tar"))}
    if count != len(index) or len(sizes) != -(-len(index) // per_shard):
        raise UserError(
            f"{absolute}: {count} of {len(index)} utterances were written, in {len(sizes)} shards; "
            "give the same command again"
        )
    storage.finish(stage / RECORD, made_from, [stage / MANIFEST], **{COUNT: count, SIZES: sizes})
    return Shards(count, sizes, finished_before=False)


def write(utterances: Sequence[Utterance], order: np.ndarray, folder: Path, per_shard: int) -> Iterator[Utterance]:
    """Write folder/000000.tar, ... in this order; yields each utterance as it then stands in its shard.

    Whole files are copied as they are. Segments, channels and other formats become FLAC of the same rate, of 16 or 24
    bits, where these hold every sample exactly; else (float files, 32 bits) wav of floats. What was decoded from MP3 or
    Ogg is rounded to 16 bits, unless it goes beyond full scale. `<utt_id>.txt` is the text, and `<utt_id>.json` says
    the speaker where one is known.

    Raises:
        UserError: audio cannot be read, or an id cannot be the name of a file.
    """
    for number, start in enumerate(range(0, len(order), per_shard)):
        path = folder / f"{number:06d}.tar"
        names: dict[str, str] = {}
        with tarfile.open(path, "w") as shard:
            for row in order[start : start + per_shard].tolist():
                utterance = utterances[row]
                _check_name(utterance)
                form = unicodedata.normalize("NFC", utterance.utt_id)
                if form in names:
                    raise UserError(
                        f"{names[form]!a} and {utterance.utt_id!a} are one name in a shard; rename one of them"
                    )
                names[form] = utterance.utt_id
                sound, suffix = _sound(utterance)
                offset = _add(shard, utterance.utt_id + suffix, sound)
                _add(shard, utterance.utt_id + ".txt", utterance.text.encode())
                if utterance.speaker:
                    speaker_json = json.dumps({"speaker": utterance.speaker}, ensure_ascii=False)
                    _add(shard, utterance.utt_id + ".json", speaker_json.encode())
                position = {"audio": os.path.abspath(path), "offset": offset, "size": len(sound)}
                yield replace(utterance, start=0.0, channel=0, **position)


def _check_name(utterance: Utterance) -> None:
    parts = utterance.utt_id.split("/")
    hidden = parts[-1].startswith("._")  # the name of what macOS keeps beside a file, which readers leave out
    if "" in parts or ".." in parts or "\0" in utterance.utt_id or hidden:
        raise UserError(f"utterance {utterance.utt_id!r}: no name for a file in a shard; give it another id")


def _sound(utterance: Utterance) -> tuple[bytes, str]:
    """The bytes of an audio file that holds the utterance and nothing else, and the suffix of its name."""
    import soundfile

    try:
        source = audio.stored(utterance)
        with sound_files.opened(source) as sound:
            form, channels, rate, seconds = (
                sound.format,
                sound.channels,
                sound.samplerate,
                sound.frames / sound.samplerate,
            )
    except (soundfile.SoundFileError, RuntimeError, OSError):
        audio.read(utterance, 16000)  # says what is wrong
        raise
    suffix = SUFFIXES.get(form)
    whole = not utterance.start and (not utterance.seconds or abs(utterance.seconds - seconds) < sound_files.SLACK)
    if suffix and whole and channels == 1:
        return source.getvalue() if isinstance(source, io.BytesIO) else Path(source).read_bytes(), suffix
    return _encoded(audio.read(utterance, rate), rate, form in _LOSSY)


def _encoded(samples: np.ndarray, rate: int, rounded: bool) -> tuple[bytes, str]:
    """Samples (S,) float32 as a file that gives them back exactly, and its suffix.

    Args:
        rounded: to 16 bits, where they are within full scale.
    """
    import soundfile

    file, wide = io.BytesIO(), samples.astype(np.float64)
    for bits, kind, room in ((16, np.int16, 0), (24, np.int32, 8)):
        # In whole numbers: libsndfile would read 1/32768 for a step and write 1/32767.
        full = 1 << (bits - 1)
        steps = np.rint(wide * full)
        is_within = bool(np.all((steps >= -full) & (steps < full)))
        if is_within and (np.array_equal(steps, wide * full) or (rounded and bits == 16)):
            soundfile.write(file, steps.astype(kind) << room, rate, f"PCM_{bits}", format="FLAC")
            return file.getvalue(), ".flac"
    soundfile.write(file, samples, rate, "FLOAT", format="WAV")
    data = bytearray(file.getvalue())
    peak = data.find(b"PEAK", 12, 200)  # the chunk of libsndfile that holds the time: equal data, equal shards
    if peak > 0:
        data[peak + 12 : peak + 16] = bytes(4)
    return bytes(data), ".wav"


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a member; returns the place of its content. Times and owners are left out: equal data, equal shards."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))
    shard.members.clear()  # tarfile keeps all that it wrote
    blocks = -(-len(content) // tarfile.BLOCKSIZE)
    return shard.offset - blocks * tarfile.BLOCKSIZE
