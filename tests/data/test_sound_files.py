"""Lengths that headers declare: what a file holds is read, or the difference is told, in every format."""

from __future__ import annotations

import io
import struct
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrtts.bin import shard
from asrtts.corpora import kaldi
from asrtts.data import audio, coded_frames, manifest, sound_files
from asrtts.data.inspection import Inspection, Limits, inspect
from asrtts.data.utterance import Utterance

RATE = 16000
RAW = ["WAV", "WAV BIG", "WAVEX", "RF64", "W64", "AIFF", "AU", "AU LITTLE", "CAF", "SVX", "NIST"]
CODED = ["FLAC", "OGG", "MP3"]


def encoded(form: str, seconds: float = 2.0, seed: int = 0) -> bytes:
    """A file of noise that is quiet in its first half, which makes an MP3 begin with small frames."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 0.1
    samples[: len(samples) // 2] *= 0.02
    kind, endian = (*form.split(), "FILE")[:2]
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind, endian=endian)
    return file.getvalue()


def look(tmp_path: Path, data: bytes) -> Inspection:
    (tmp_path / "a").write_bytes(data)
    return inspect(Utterance("u", str(tmp_path / "a"), "text"), Limits())


def kinds(found: Inspection) -> list[str]:
    return [kind for kind, _ in found.findings]


def without_length(form: str, data: bytes) -> bytes:
    """The file as a writer to a pipe leaves it."""
    if form == "MP3":
        return data[coded_frames.mpeg_frames(data).stretches[0][0] :]
    new = bytearray(data)
    if form == "FLAC":
        new[21] &= 0xF0
        new[22:26] = bytes(4)
    elif form.startswith("AU"):
        new[8:12] = b"\xff" * 4
    else:
        name, size = (b"SSND", b"\xff" * 4) if form == "AIFF" else (b"data", b"\xff" * (8 if form == "CAF" else 4))
        place = data.index(name + (b"\0\0" if form == "CAF" else b"")) + 4
        new[place : place + len(size)] = size
    return bytes(new)


@pytest.mark.parametrize("form", RAW + CODED)
def test_a_whole_file_has_no_finding(tmp_path, form):
    found = look(tmp_path, encoded(form))
    assert found.findings == () and found.seconds == 2.0


@pytest.mark.parametrize("form", RAW + CODED)
def test_a_file_without_its_second_half_is_truncated(tmp_path, form):
    data = encoded(form)
    assert kinds(look(tmp_path, data[: len(data) // 2])) == ["truncated"]


@pytest.mark.parametrize("form", RAW)
@pytest.mark.parametrize("cut", [1, 2, 7, 300])
def test_a_few_lost_bytes_are_within_ten_milliseconds(tmp_path, form, cut):
    found = look(tmp_path, encoded(form)[:-cut])
    assert found.findings == () and 2.0 - found.seconds < 0.01
    assert len(audio.read(Utterance("u", str(tmp_path / "a"), "", seconds=2.0), RATE)) > 1.99 * RATE


@pytest.mark.parametrize("size", [-2, -1, 1, 44, 300])
def test_a_size_that_is_off_by_a_few_bytes_is_within_ten_milliseconds(tmp_path, size):
    for more in (b"", b"LIST" + struct.pack("<I", 400) + b"INFO" + b"\1" * 396):
        data = bytearray(encoded("WAV") + more)
        struct.pack_into("<I", data, 40, 64000 + size)
        assert look(tmp_path, bytes(data)).findings == ()


@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "AU LITTLE", "CAF", *["FLAC", "MP3"]])
def test_a_file_that_was_written_to_a_pipe_is_read_to_its_end(tmp_path, form):
    data = without_length(form, encoded(form))
    found = look(tmp_path, data)
    assert found.findings == () and found.seconds == pytest.approx(2.0, abs=0.15)
    whole = audio.read(Utterance("u", str(tmp_path / "a"), "", seconds=found.seconds), RATE)
    assert len(whole) == round(found.seconds * RATE)
    part = audio.read(Utterance("u", str(tmp_path / "a"), "", start=0.5, seconds=1.0), RATE)
    if form != "MP3":  # whose decoder starts a place with less of the past
        np.testing.assert_array_equal(part, whole[RATE // 2 : RATE * 3 // 2])
    assert len(part) == RATE


@pytest.mark.parametrize("size", [b"\0" * 8, b"\xff" * 8])
def test_an_rf64_whose_size_was_never_written_is_read(tmp_path, size):
    data = bytearray(encoded("RF64"))
    data[28:36] = size
    found = look(tmp_path, bytes(data))
    assert (found.findings, found.seconds) == ((), 2.0)


@pytest.mark.parametrize(
    "form, subtype", [("WAV", "GSM610"), ("WAV", "IMA_ADPCM"), ("W64", "GSM610"), ("CAF", "ALAC_16")]
)
def test_coded_chunks_are_held_to_the_same_rule(tmp_path, form, subtype):
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).uniform(-0.2, 0.2, 2 * RATE), RATE, subtype, format=form)
    data = file.getvalue()
    assert look(tmp_path, data).findings == ()
    assert kinds(look(tmp_path, data[: len(data) // 2])) == ["truncated"]
    assert kinds(look(tmp_path, data + data)) in (["unread"], ["unreadable"])


def test_a_wav_whose_size_was_never_written_is_read(tmp_path):
    data = bytearray(encoded("WAV"))
    struct.pack_into("<I", data, 40, 0)
    found = look(tmp_path, bytes(data))
    assert (found.findings, found.seconds) == ((), 2.0)


@pytest.mark.parametrize("form", [*RAW, "FLAC", "OGG"])
def test_of_joined_files_it_is_told_that_the_second_is_not_read(tmp_path, form):
    data = encoded(form)
    found = look(tmp_path, data + encoded(form, seed=1))
    assert kinds(found) in (["unread"], ["unreadable"])
    assert f"a second file is joined to this one at byte {len(data)}" in found.findings[0][1]


def test_joined_mp3s_are_read_to_the_end_of_the_last(tmp_path):
    data = encoded("MP3")
    for second in (data, without_length("MP3", data), b"ID3\4\0\0\0\0\0\5hello" + data + b"TAG" + bytes(125)):
        found = look(tmp_path, data + second)
        assert found.findings == () and found.seconds == pytest.approx(4.0, abs=0.25)


def mp3(rate: int, channels: int) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(0).standard_normal((2 * rate, channels)) * 0.05
    soundfile.write(file, samples, rate, format="MP3")
    return file.getvalue()


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_kind_of_mp3_is_read_whole_without_its_length(tmp_path, rate, channels):
    data = mp3(rate, channels)
    piped = without_length("MP3", data)
    for content, seconds in (
        (data, 2.0),
        (piped, 2.05),
        (data + data, 4.15),
        (b"ID3\4\0\0\0\0\0\5hello" + piped, 2.05),
    ):
        found = look(tmp_path, content)
        assert set(kinds(found)) <= {"channels"} and found.seconds == pytest.approx(seconds, abs=0.12)
    assert "truncated" in kinds(look(tmp_path, piped[: len(piped) // 2 + 5]))


@pytest.mark.parametrize("second", [(16000, 2), (44100, 1)])
def test_joined_mp3s_of_two_forms_are_told(tmp_path, second):
    assert kinds(look(tmp_path, mp3(16000, 1) + mp3(*second))) == ["unread"]


def test_libsndfile_prints_no_warning_of_a_length_that_is_corrected(tmp_path, capfd):
    (tmp_path / "a.mp3").write_bytes(mp3(16000, 1) * 2)
    assert len(audio.read(Utterance("u", str(tmp_path / "a.mp3"), ""), RATE)) > 4 * RATE
    assert "Xing" not in capfd.readouterr().err


@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "CAF", "RF64"])
def test_a_header_that_promises_less_than_there_is_is_told(tmp_path, form):
    data = bytearray(encoded(form))
    if form == "RF64":
        struct.pack_into("<Q", data, 28, 20000)
    else:
        place = data.index({"AIFF": b"SSND", "AU": b".snd", "CAF": b"data\0\0"}.get(form, b"data")) + 4
        layout = {"AIFF": ">I", "AU": ">I", "CAF": ">Q"}.get(form, "<I")
        struct.pack_into(layout, data, place + (4 if form == "AU" else 0), 20000)
    assert kinds(look(tmp_path, bytes(data))) == ["unread"]


@pytest.mark.parametrize("total, kind", [(20000, "unread"), (31900, None), (60000, "truncated")])
def test_the_samples_that_a_flac_declares_are_compared_with_its_frames(tmp_path, total, kind):
    data = bytearray(encoded("FLAC"))
    struct.pack_into(">I", data, 22, total)
    assert kinds(look(tmp_path, bytes(data))) == ([kind] if kind else [])


def test_a_streamed_flac_that_was_cut_is_truncated(tmp_path):
    data = without_length("FLAC", encoded("FLAC"))
    found = look(tmp_path, data[: len(data) * 2 // 3])
    assert kinds(found) == ["truncated"] and 0.5 < found.seconds < 2


@pytest.mark.parametrize("form", CODED)
def test_damage_at_any_place_ends_with_a_finding_or_none_but_never_with_an_error(tmp_path, form):
    data, rng = encoded(form, 0.5), np.random.default_rng(3)
    for _ in range(25):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(256)
        look(tmp_path, bytes(damaged[: rng.integers(1, len(data))]))


def test_a_long_wav_is_not_decoded_to_learn_its_length(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(1), RATE)
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(struct.pack("<I", 1 << 30))
        file.truncate(44 + (1 << 30))
    begun = time.process_time()
    assert sound_files.extent(str(path)).promised == 1 << 30
    assert time.process_time() - begun < 0.05


@pytest.mark.parametrize("form", ["WAV", "AU", "FLAC", "MP3"])
def test_a_shard_holds_a_file_without_its_length_as_it_is(tmp_path, form):
    (tmp_path / "a").write_bytes(without_length(form, encoded(form)))
    seconds = look(tmp_path, (tmp_path / "a").read_bytes()).seconds
    before = Utterance("u", str(tmp_path / "a"), "text", seconds=seconds, sample_rate=RATE)
    segment = Utterance("part", str(tmp_path / "a"), "text", start=0.5, seconds=0.5, sample_rate=RATE)
    manifest.write(tmp_path / "m.jsonl", [before, segment])
    shard.main([str(tmp_path / "m"), str(tmp_path / "s")])
    after = {u.utt_id: u for u in manifest.read(tmp_path / "s" / "manifest")}
    np.testing.assert_array_equal(audio.read(after["u"], RATE), audio.read(before, RATE))
    np.testing.assert_allclose(audio.read(after["part"], RATE), audio.read(segment, RATE), atol=2**-15)
    assert inspect(replace(after["u"], seconds=0.0), Limits()).findings == ()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3"])
def test_the_segments_of_a_kaldi_folder_are_compared_with_what_a_recording_holds(tmp_path, form):
    (tmp_path / "a").write_bytes(without_length(form, encoded(form)))
    assert kaldi._length(str(tmp_path / "a"), "wav.scp:1") == pytest.approx(2.0, abs=0.15)
