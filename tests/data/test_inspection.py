"""One utterance's audio: every fault is found, and good audio has none."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrtts.data import audio
from asrtts.data.inspection import Inspection, Limits, inspect
from asrtts.data.utterance import Utterance

RATE = 16000


def noise(seconds: float = 1.0, level: float = 0.1, seed: int = 0) -> np.ndarray:
    samples = level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return np.clip(samples, -0.99, 0.99).astype(np.float32)


def look(path: Path, **place) -> Inspection:
    return inspect(Utterance("u", str(path), "text", **place), Limits())


def kinds(path: Path, **place) -> list[str]:
    return [kind for kind, _ in look(path, **place).findings]


def write(path: Path, samples: np.ndarray, rate: int = RATE, **how) -> Path:
    soundfile.write(path, samples, rate, **how)
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    return path


FORMATS = {"wav": "WAV", "sph": "NIST", "flac": "FLAC"}


@pytest.mark.parametrize("ending", FORMATS)
def test_good_audio_has_no_finding_and_its_exact_duration(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", noise(1.2345), format=FORMATS[ending], subtype="PCM_16")
    found = look(path)
    assert found.findings == ()
    assert (found.seconds, found.sample_rate) == (19752 / RATE, RATE)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_file_that_lost_its_end_is_truncated(tmp_path, ending):
    path = cut(write(tmp_path / f"a.{ending}", noise(3), format=FORMATS[ending], subtype="PCM_16"), 0.6)
    found = look(path)
    assert [kind for kind, _ in found.findings] == ["truncated"]
    assert 1.5 < found.seconds < 1.9


OTHERS = ["RF64", "W64", "AIFF", "AIFF LITTLE", "WAV BIG", "AU", "AU LITTLE", "CAF", "SVX"]


@pytest.mark.parametrize("form", OTHERS)
def test_a_rarer_format_is_as_whole_as_its_header_says(tmp_path, form):
    """libsndfile shortens them without a word, but for CAF, which it does not open."""
    form, endian = (*form.split(), "FILE")[:2]
    path = write(tmp_path / "a", noise(3), format=form, endian=endian, subtype="PCM_16")
    assert (look(path).findings, look(path).seconds) == ((), 3.0)
    (finding,) = look(cut(path, 0.5)).findings
    assert finding[0] == "truncated"
    assert finding[1].startswith("the header promises 96000 bytes of audio, 4")


@pytest.mark.parametrize("ending", FORMATS)
def test_the_same_audio_in_another_container_has_the_same_digest(tmp_path, ending):
    first, second = ((32767 * noise(seed=seed)).astype(np.int16) for seed in (0, 1))
    digest = look(write(tmp_path / f"b.{ending}", first, format=FORMATS[ending], subtype="PCM_16")).digest
    assert digest == look(write(tmp_path / "a.wav", first)).digest
    assert digest != look(write(tmp_path / "c.wav", second)).digest


def test_a_wav_whose_writer_could_not_know_its_length_is_not_truncated(tmp_path):
    path = write(tmp_path / "a.wav", noise(), subtype="PCM_16")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"data") + 4, 0xFFFFFFFF)
    path.write_bytes(data)
    assert look(path).findings == ()


@pytest.mark.parametrize("riff", [None, 0])
def test_a_wav_whose_recorder_was_killed_before_it_wrote_the_size_is_read(tmp_path, riff):
    path = write(tmp_path / "a.wav", noise(), subtype="PCM_16")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"data") + 4, 0)
    if riff is not None:
        struct.pack_into("<I", data, 4, riff)
    path.write_bytes(data)
    assert (look(path).findings, look(path).seconds) == ((), 1.0)
    assert len(audio.read(Utterance("u", str(path), "", start=0.5), RATE)) == RATE // 2


def test_a_codec_without_places_is_inspected_whole(tmp_path):
    path = write(tmp_path / "a.wav", noise(), subtype="GSM610")
    assert look(path).findings == () and look(path).seconds == pytest.approx(1, abs=0.04)


def test_chunks_before_and_after_the_data_are_no_fault(tmp_path):
    path = write(tmp_path / "a.wav", noise(), subtype="PCM_16")
    data = path.read_bytes()
    at = data.index(b"data")
    path.write_bytes(data[:at] + b"junk\x03\0\0\0abc\0" + data[at:] + b"LIST\x04\0\0\0INFO")
    assert look(path).findings == ()


def test_a_missing_file_and_a_file_of_nothing_are_told_apart(tmp_path):
    (tmp_path / "a.wav").touch()
    assert kinds(tmp_path / "a.wav") == ["empty"]
    assert kinds(tmp_path / "b.wav") == ["missing-audio"]
    assert kinds(write(tmp_path / "c.wav", noise(0))) == ["empty"]


@pytest.mark.parametrize("content", [b"<html>404</html>", b"RIFF", b"NIST_1A\n   abc\n", b"fLaC" + bytes(100)])
def test_what_is_no_audio_is_unreadable(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    assert kinds(tmp_path / "a.wav") == ["unreadable"]


def test_what_is_no_file_is_unreadable(tmp_path):
    assert kinds(tmp_path) == ["unreadable"]
    os.mkfifo(tmp_path / "a.wav")  # reading it would wait for a writer
    assert kinds(tmp_path / "a.wav") == ["unreadable"]


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b.wav"])
def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path, name):
    assert kinds(tmp_path / name) == ["missing-audio"]


def test_a_header_that_promises_years_asks_for_no_memory(tmp_path):
    path = write(tmp_path / "a.flac", noise(), subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # the total number of samples: 36 bits, from the low half of byte 21
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    assert kinds(path) == ["unreadable"]


def test_silence_is_found_by_its_level_and_has_no_digest_to_be_confused_by(tmp_path):
    assert kinds(write(tmp_path / "a.wav", noise(level=0.0005))) == ["silent"]
    zeros = look(write(tmp_path / "b.wav", 0 * noise()))
    assert (zeros.findings, zeros.digest) == ((("silent", "all samples are equal"),), "")
    assert kinds(write(tmp_path / "c.wav", noise(level=0.003))) == []  # -50 dBFS: quiet speech


def test_a_recorder_that_lost_its_input_is_seen(tmp_path):
    samples = noise(2)
    samples[RATE // 2 :] = 0
    assert kinds(write(tmp_path / "a.wav", samples)) == ["zeros"]


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_samples_at_full_scale_are_clipping(tmp_path, subtype):
    loud = np.clip(noise(level=0.4) * 2, -1, 1)
    assert kinds(write(tmp_path / "a.wav", loud, subtype=subtype)) == ["clipped"]
    one_peak = noise()
    one_peak[100] = 1
    assert kinds(write(tmp_path / "b.wav", one_peak, subtype=subtype)) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_found(tmp_path, value):
    samples = noise()
    samples[5] = value
    assert kinds(write(tmp_path / "a.wav", samples, subtype="FLOAT")) == ["not-finite"]


def test_lengths_out_of_the_limits_are_found(tmp_path):
    assert kinds(write(tmp_path / "a.wav", noise(0.05))) == ["too-short"]
    assert kinds(write(tmp_path / "b.wav", noise(41))) == ["too-long"]


def test_a_segment_is_measured_alone(tmp_path):
    path = write(tmp_path / "a.wav", np.concatenate([noise(2), 0 * noise(2)]))
    assert look(path, start=0.5, seconds=1.0).seconds == 1.0
    assert kinds(path, start=0.5, seconds=1.0) == []
    assert kinds(path, start=2.5, seconds=1.0) == ["silent"]
    assert look(path, start=2.5, seconds=1.0).digest == ""


@pytest.mark.parametrize("start, seconds", [(0.5, 1.0), (5.0, 1.0)])
def test_a_segment_beyond_the_end_of_its_file_is_truncated(tmp_path, start, seconds):
    assert kinds(write(tmp_path / "a.wav", noise(1)), start=start, seconds=seconds) == ["truncated"]


def test_the_channel_used_is_the_one_inspected(tmp_path):
    path = write(tmp_path / "a.wav", np.stack([0 * noise(), noise()], axis=1))
    assert kinds(path, channel=0) == ["channels", "silent"]
    assert kinds(path, channel=1) == ["channels"]
    assert kinds(path, channel=2) == ["unreadable"]


def test_what_was_inspected_can_be_read(tmp_path):
    path = write(tmp_path / "a.flac", noise(0.777), 22050, subtype="PCM_16")
    found = look(path)
    samples = audio.read(Utterance("u", str(path), "text", seconds=found.seconds), found.sample_rate)
    assert len(samples) == round(0.777 * RATE)


def test_a_recorder_that_wrote_nothing_but_its_offset_is_silent(tmp_path):
    assert kinds(write(tmp_path / "a.wav", noise(level=1e-5) + np.float32(0.3), subtype="FLOAT")) == ["silent"]


def test_samples_without_a_header_are_unreadable(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"\1\2" * RATE)
    assert kinds(tmp_path / "a.raw") == ["unreadable"]
