"""Log mel features against kaldi-native-fbank, and their statistics."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from asrtts import config
from asrtts.data import features
from asrtts.data.features import Config, Statistics, fbank, num_frames
from asrtts.registry import UserError

CONFIGS = [
    Config(),
    Config(sample_rate=8000, num_bins=40),
    Config(sample_rate=11025, num_bins=40),  # neither frame nor hop is a whole number of samples
    Config(sample_rate=22050),
    Config(num_bins=64, low_hz=60.0, high_hz=-400.0),
    Config(frame_seconds=0.020, high_hz=7600.0),
    Config(frame_seconds=0.010),  # no overlap
]
LENGTHS = [80, 81, 119, 120, 121, 160, 200, 239, 240, 241, 300, 399, 400, 401, 559, 560, 561, 4321, 100_000]


def noise(samples: int, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def voice(samples: int, rate: int = 16000) -> np.ndarray:
    """Harmonics of a wavering pitch under syllables of falling and rising loudness, and a little noise."""
    t = np.arange(samples) / rate
    tones = sum(np.sin(2 * np.pi * 120 * k * (t + 0.001 * np.sin(2 * np.pi * 3 * t))) / k for k in range(1, 20))
    return (0.1 * tones * np.sin(np.pi * 2 * t) ** 2).astype(np.float32) + noise(samples, 1e-3)


def kaldi(c: Config, wave: np.ndarray) -> np.ndarray:
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = c.sample_rate
    options.frame_opts.frame_length_ms = c.frame_seconds * 1000
    options.frame_opts.frame_shift_ms = c.hop_seconds * 1000
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = c.num_bins, c.low_hz, c.high_hz
    peer = knf.OnlineFbank(options)
    peer.accept_waveform(c.sample_rate, (wave * 32768).tolist())
    peer.input_finished()
    return np.array([peer.get_frame(i) for i in range(peer.num_frames_ready)]).reshape(-1, c.num_bins)


@pytest.mark.parametrize("c", CONFIGS, ids=lambda c: f"{c.sample_rate}-{c.num_bins}-{c.frame_seconds}")
@pytest.mark.parametrize("kind", ["noise", "voice", "quiet", "offset"])
def test_features_are_kaldis_within_3e_3(c, kind):
    make = {
        "noise": noise,
        "voice": lambda n: voice(n, c.sample_rate),
        "quiet": lambda n: noise(n, 1e-4),  # three steps of a 16-bit recording
        "offset": lambda n: noise(n) + np.float32(0.2),  # a microphone's direct current
    }[kind]
    waves = [make(length) for length in LENGTHS]
    feats, lens = fbank(c, waves)
    for wave, row, length in zip(waves, feats, lens.tolist(), strict=True):
        theirs = kaldi(c, wave)
        assert length == len(theirs), len(wave)
        np.testing.assert_allclose(row[:length].numpy(), theirs, atol=3e-3, rtol=0, err_msg=f"{len(wave)} samples")


def test_a_batch_is_its_utterances_one_by_one():
    waves = [voice(n) for n in (16000, 79, 90_000, 400, 81, 33_333)]
    feats, lens = fbank(Config(), waves)
    for wave, row, length in zip(waves, feats, lens.tolist(), strict=True):
        alone, _ = fbank(Config(), [wave])
        torch.testing.assert_close(row[:length], alone[0], atol=1e-4, rtol=0)
        assert (row[length:] == 0).all()


def test_the_chunk_is_a_matter_of_speed_only(monkeypatch):
    waves = [voice(n) for n in (50_000, 3000, 8000)]
    whole, _ = fbank(Config(), waves)
    monkeypatch.setattr(features, "CHUNK_FRAMES", 7)
    monkeypatch.setattr(features, "FFT_FRAMES", 3)
    torch.testing.assert_close(fbank(Config(), waves)[0], whole, atol=1e-4, rtol=0)


def test_a_wave_shorter_than_half_a_hop_has_no_frame():
    feats, lens = fbank(Config(), [noise(79), noise(0)])
    assert feats.shape == (2, 0, 80) and lens.tolist() == [0, 0]
    feats, lens = fbank(Config(), [noise(79), noise(80)])
    assert feats.shape == (2, 1, 80) and lens.tolist() == [0, 1]


def test_an_empty_batch_has_a_shape():
    feats, lens = fbank(Config(), [])
    assert feats.shape == (0, 0, 80) and lens.shape == (0,) and lens.dtype == torch.int64


def test_digital_silence_is_the_floor():
    feats, _ = fbank(Config(), [np.zeros(1600, np.float32)])
    assert torch.allclose(feats, torch.tensor(features.FLOOR).log())


def test_the_waves_are_left_as_they_were():
    wave = voice(5000)
    before = wave.copy()
    fbank(Config(), [wave])
    assert (wave == before).all()


@pytest.mark.parametrize("samples, frames", [(0, 0), (79, 0), (80, 1), (239, 1), (240, 2), (16000, 100)])
def test_the_number_of_frames_is_known_without_the_audio(samples, frames):
    assert num_frames(Config(), samples) == frames
    assert fbank(Config(), [noise(samples)])[1].tolist() == [frames]


@pytest.mark.parametrize(
    "values, said",
    [
        ({"low_hz": 4000.0, "high_hz": 3000.0}, "the upper one must be the higher"),
        ({"high_hz": 9000.0}, "at most 8000, half the sample rate"),
        ({"hop_seconds": 0.05}, "gaps between frames"),
        ({"num_bins": 0}, "num_bins"),
    ],
)
def test_features_that_cannot_be_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        config.build(Config, values, "conf.yaml")


def test_features_take_a_fraction_of_kaldis_time():
    """Processor time of one thread on the same audio; measured 5 to 6 times as fast on a busy machine, asserted 2."""
    waves = [voice(n) for n in (64_000, 80_000, 48_000)]
    kaldi(Config(), waves[0])  # skips where there is none

    def best(work) -> float:
        times = []
        for _ in range(5):
            start = time.thread_time()
            work()
            times.append(time.thread_time() - start)
        return min(times)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours, theirs = best(lambda: fbank(Config(), waves)), best(lambda: [kaldi(Config(), wave) for wave in waves])
    torch.set_num_threads(threads)
    assert theirs / ours > 2


def test_normalized_training_data_has_mean_0_and_variance_1():
    torch.manual_seed(0)
    batches = [(5 + 3 * torch.randn(4, 50, 6), torch.tensor([50, 31, 7, 0])) for _ in range(20)]
    statistics = Statistics.of(batches)
    frames = torch.cat([statistics.normalize(f, n)[row, : n[row]] for f, n in batches for row in range(4)])
    torch.testing.assert_close(frames.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(frames.square().mean(0), torch.ones(6), atol=1e-4, rtol=0)


def test_statistics_do_not_depend_on_how_the_data_is_batched():
    torch.manual_seed(0)
    feats, lens = torch.randn(8, 40, 6), torch.tensor([40, 3, 20, 11, 40, 39, 1, 9])
    whole, parts = Statistics.of([(feats, lens)]), Statistics.of(zip(feats.split(3), lens.split(3), strict=True))
    torch.testing.assert_close(whole.mean, parts.mean)
    torch.testing.assert_close(whole.std, parts.std)


def test_normalization_leaves_padding_zero():
    statistics = Statistics(torch.full((6,), 3.0), torch.full((6,), 2.0))
    feats = statistics.normalize(torch.zeros(2, 5, 6), torch.tensor([5, 2]))
    assert (feats[0] == -1.5).all() and (feats[1, :2] == -1.5).all() and (feats[1, 2:] == 0).all()


def test_a_constant_bin_does_not_divide_by_zero():
    statistics = Statistics.of([(torch.ones(1, 50, 4), torch.tensor([50]))])
    assert statistics.normalize(torch.ones(1, 50, 4), torch.tensor([50])).isfinite().all()


def test_statistics_of_nothing_are_refused():
    with pytest.raises(UserError, match="is the training manifest empty"):
        Statistics.of([])


def test_statistics_come_back_from_their_file(tmp_path):
    statistics = Statistics(torch.randn(80), torch.rand(80) + 0.1)
    statistics.save(tmp_path / "cmvn.json")
    loaded = Statistics.load(tmp_path / "cmvn.json")
    assert torch.equal(loaded.mean, statistics.mean) and torch.equal(loaded.std, statistics.std)


@pytest.mark.parametrize(
    "content",
    [
        b'{"mean": [1.0',
        b"[1, 2]",
        b'{"mean": [1.0]}',
        b'{"mean": ["a"], "std": [1.0]}',
        b'{"mean": [1.0], "std": [0.0]}',
        b'{"mean": [1.0, 2.0], "std": [1.0]}',
        b'{"mean": [NaN], "std": [1.0]}',
        b'{"mean": [[1.0], [1.0, 2.0]], "std": [1.0]}',
        b"\xff\xfe",
        b"[" * 99999,
        None,
    ],
)
def test_damaged_statistics_are_one_line_that_names_the_file(tmp_path, content):
    path = tmp_path / "cmvn.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cmvn.json: (no|damaged) feature statistics.*train again") as error:
        Statistics.load(path)
    assert "\n" not in str(error.value)
