"""Reading audio: formats, rates, segments, channels, and files that are not what the manifest says."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile

from asrtts.data import audio
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

RATE = 16000


def tone(seconds: float, rate: int = RATE, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def wav(tmp_path):
    def write(samples: np.ndarray, name: str = "a.wav", rate: int = RATE, **kinds: str) -> str:
        soundfile.write(tmp_path / name, samples, rate, **kinds)
        return str(tmp_path / name)

    return write


def refusal(utterance: Utterance) -> str:
    with pytest.raises(UserError) as caught:
        audio.read(utterance, RATE)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(utterance.audio)
    return str(caught.value)


@pytest.mark.parametrize("name, kinds", [("a.wav", {}), ("a.flac", {}), ("a.sph", {"format": "NIST"})])
def test_every_format_gives_the_samples(wav, name, kinds):
    samples = audio.read(Utterance("u", wav(tone(0.5), name, subtype="PCM_16", **kinds), ""), RATE)
    assert samples.dtype == np.float32 and samples.shape == (8000,)
    np.testing.assert_allclose(samples, tone(0.5), atol=2**-15)


def test_a_segment_is_its_stretch_of_the_file(wav):
    path = wav(tone(1.0), subtype="FLOAT")
    samples = audio.read(Utterance("u", path, "", start=0.25, seconds=0.5), RATE)
    np.testing.assert_array_equal(samples, tone(1.0)[4000:12000])
    np.testing.assert_array_equal(audio.read(Utterance("u", path, "", start=0.25), RATE), tone(1.0)[4000:])


def test_a_channel_is_read_alone(wav):
    path = wav(np.stack([tone(0.1), tone(0.1, hz=880)], 1), subtype="FLOAT")
    for channel, hz in enumerate((440, 880)):
        samples = audio.read(Utterance("u", path, "", channel=channel), RATE)
        assert samples.flags.c_contiguous
        np.testing.assert_array_equal(samples, tone(0.1, hz=hz))
    assert "utterance u is on channel 2, the file has 2" in refusal(Utterance("u", path, "", channel=2))


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
def test_another_rate_is_resampled(wav, rate):
    samples = audio.read(Utterance("u", wav(tone(1.0, rate), rate=rate, subtype="FLOAT"), ""), RATE)
    assert samples.dtype == np.float32 and abs(len(samples) - RATE) <= 1
    np.testing.assert_allclose(samples[1000:-1000], tone(1.0)[1000 : len(samples) - 1000], atol=2e-3)


def test_the_same_rate_is_left_alone():
    samples = tone(0.1)
    assert audio.resample(samples, RATE, RATE) is samples


def test_ten_milliseconds_of_rounding_are_granted(wav):
    path = wav(tone(1.0))
    assert len(audio.read(Utterance("u", path, "", seconds=1.009), RATE)) == RATE
    line = refusal(Utterance("u", path, "", seconds=1.02))
    assert "utterance u is 1.02 s from 0.00 s on, the file has only 1.00 s there; run `asrtts prepare` again" in line


def test_a_segment_behind_the_end_is_one_line(wav):
    path = wav(tone(1.0))
    assert "1.00 s from 3.00 s on, the file has only 0.00 s there" in refusal(Utterance("u", path, "", "", 3.0, 1.0))
    assert "the rest from 3.00 s on, the file has only 0.00 s" in refusal(Utterance("u", path, "", start=3.0))


def test_an_empty_file_is_one_line(wav):
    assert "has only 0.00 s" in refusal(Utterance("u", wav(tone(0.0)), ""))


def test_a_file_that_is_gone_says_so(tmp_path):
    line = refusal(Utterance("u", str(tmp_path / "gone.wav"), ""))
    assert "the audio of u is gone; if the corpus moved, run `asrtts prepare` again" in line


def test_a_codec_without_places_is_read_from_its_beginning(wav):
    path = wav(tone(1.0, 8000), rate=8000, subtype="GSM610")
    for seconds in (0.0, 1.0):
        assert len(audio.read(Utterance("u", path, "", seconds=seconds), 8000)) == pytest.approx(8000, abs=320)
    refusal(Utterance("u", path, "", start=0.5, seconds=0.2))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    for path in (tmp_path, tmp_path / "a.wav"):
        assert "u cannot be read (a folder, a pipe or a device, no file)" in refusal(Utterance("u", str(path), ""))


def test_a_file_that_is_no_audio_is_one_line(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF" + bytes(100))
    assert "the audio of u cannot be read (" in refusal(Utterance("u", str(tmp_path / "a.wav"), ""))


@pytest.mark.parametrize("name", ["a.flac", "a.wav"])
def test_a_truncated_file_is_one_line(wav, name, tmp_path):
    path = wav(np.random.default_rng(0).uniform(-0.5, 0.5, RATE), name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    refusal(Utterance("u", path, "", seconds=1.0))


def test_a_manifest_that_promises_a_shard_of_any_size_asks_for_no_memory(tmp_path):
    (tmp_path / "0.tar").write_bytes(bytes(2048))
    u = Utterance("u", str(tmp_path / "0.tar"), "", offset=512, size=1 << 50)
    assert "the shard ends " in refusal(u)


def test_samples_beyond_full_scale_are_read_as_they_are(wav):
    path = wav(3 * tone(0.1), subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(Utterance("u", path, ""), RATE), 3 * tone(0.1))


def test_a_header_that_promises_years_asks_for_no_memory(wav, tmp_path):
    path = wav(np.random.default_rng(0).uniform(-0.5, 0.5, RATE), "a.flac")
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(data)
    assert "h in one utterance: a damaged header, or a recording without segments" in refusal(Utterance("u", path, ""))
