"""Augmentation: each change is as large as it says, and is drawn from (seed, epoch, utterance) alone."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from asrtts import config
from asrtts.data import augmentation
from asrtts.data.augmentation import Additive, Config, Reverberation, SpecAugment
from asrtts.registry import UserError

RATE = 16000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture
def sounds(tmp_path):
    """A folder with sounds in a folder of it: short, long, and at another rate."""
    (tmp_path / "sounds" / "below").mkdir(parents=True)
    soundfile.write(tmp_path / "sounds" / "short.wav", noise(500, 1), RATE)
    soundfile.write(tmp_path / "sounds" / "below" / "long.flac", noise(90_000, 2), RATE)
    soundfile.write(tmp_path / "sounds" / "below" / "other.WAV", noise(30_000, 3), 8000, format="WAV")
    (tmp_path / "sounds" / "README").write_text("no sound")
    return str(tmp_path / "sounds")


# Waves


@pytest.mark.parametrize("speed", [0.9, 1.1, 1.5])
def test_speed_changes_the_length_by_its_factor_and_the_pitch_with_it(speed):
    t = np.arange(2 * RATE) / RATE
    wave = np.sin(2 * np.pi * 1000 * t).astype(np.float32)
    fast = augmentation.augment_wave(Config(), wave, speed, RATE, rng())
    assert fast.dtype == np.float32 and abs(len(fast) - len(wave) / speed) <= 1
    peak = np.abs(np.fft.rfft(fast)).argmax() * RATE / len(fast)
    assert abs(peak - 1000 * speed) < 2


def test_nothing_asked_nothing_done():
    wave = noise(1000)
    assert augmentation.augment_wave(augmentation.NONE, wave, 1.0, RATE, rng()) is wave


@pytest.mark.parametrize("samples", [100, 8000, 20_000])  # of noise: repeated, just as long, cut
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_is_mixed_at_its_ratio(samples, snr_db):
    wave, hum = noise(8000, 1), 7 * noise(samples, 2)
    added = augmentation.add_noise(wave, hum, snr_db, rng()).astype(np.float64) - wave
    assert abs(10 * np.log10(np.square(wave.astype(np.float64)).mean() / np.square(added).mean()) - snr_db) < 0.01


def test_silence_and_silent_noise_stay_finite():
    quiet = np.zeros(800, np.float32)
    assert (augmentation.add_noise(quiet, noise(800), 10.0, rng()) == 0).all()
    assert np.array_equal(augmentation.add_noise(noise(800), quiet, 10.0, rng()), noise(800))
    assert (augmentation.reverberate(quiet, noise(80)) == 0).all()


def test_another_draw_is_another_stretch_of_noise():
    wave, hum = noise(800, 1), noise(80_000, 2)
    one, two, again = (augmentation.add_noise(wave, hum, 0.0, rng(seed)) for seed in (1, 2, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, two)


def test_reverberation_keeps_length_energy_and_the_place_of_the_direct_sound():
    wave = np.zeros(4000, np.float32)
    wave[1000] = 1.0
    response = np.zeros(600, np.float32)
    response[[37, 150, 420]] = 0.9, 0.4, 0.2  # the direct sound comes 37 samples late
    wet = augmentation.reverberate(wave, response)
    assert wet.dtype == np.float32 and len(wet) == len(wave)
    assert np.abs(wet).argmax() == 1000
    assert set(np.flatnonzero(np.abs(wet) > 1e-4)) == {1000, 1113, 1383}
    assert abs(np.square(wet).sum() - 1) < 1e-5


def test_the_response_of_an_empty_room_changes_nothing():
    np.testing.assert_allclose(augmentation.reverberate(noise(777), np.ones(1, np.float32)), noise(777), atol=1e-6)


def test_gain_is_within_its_range():
    chosen = Config(gain_db=(-6.0, 6.0))
    levels = []
    for seed in range(50):
        wave = augmentation.augment_wave(chosen, noise(400), 1.0, RATE, rng(seed))
        assert wave.dtype == np.float32
        levels.append(20 * np.log10(np.abs(wave).max() / np.abs(noise(400)).max()))
    assert -6 <= min(levels) < -3 and 3 < max(levels) <= 6


def test_a_probability_is_a_share_of_the_utterances(sounds):
    chosen = Config(noise=Additive(folder=sounds, probability=0.25))
    changed = [
        not np.array_equal(augmentation.augment_wave(chosen, noise(400), 1.0, RATE, rng(seed)), noise(400))
        for seed in range(400)
    ]
    assert 70 <= sum(changed) <= 130


def test_folders_of_noise_and_rooms_are_used_whole(sounds):
    chosen = Config(
        noise=Additive(folder=sounds, probability=1.0), reverberation=Reverberation(folder=sounds, probability=1.0)
    )
    waves = [augmentation.augment_wave(chosen, noise(3000), 1.0, RATE, rng(seed)) for seed in range(20)]
    assert all(len(wave) == 3000 and np.isfinite(wave).all() for wave in waves)
    assert len({wave.tobytes() for wave in waves}) == 20
    assert [path.rsplit("/", 1)[1] for path in augmentation.sound_files(sounds)] == [
        "long.flac",
        "other.WAV",
        "short.wav",
    ]


@pytest.mark.parametrize("kind", [Additive, Reverberation])
def test_a_folder_without_sound_is_refused_before_training(tmp_path, kind):
    key = {Additive: "noise", Reverberation: "reverberation"}[kind]
    for folder, said in ((tmp_path, "no .wav, .flac, .ogg file in it"), (tmp_path / "none", "no such folder")):
        with pytest.raises(UserError, match=f"{folder}: {said}") as caught:
            augmentation.check(Config(**{key: kind(folder=str(folder))}))
        assert "\n" not in str(caught.value)


def test_a_folder_of_sounds_is_accepted(sounds):
    augmentation.check(Config(noise=Additive(folder=sounds), reverberation=Reverberation(folder=sounds)))
    augmentation.check(Config())


@pytest.mark.parametrize(
    "content, rate, said",
    [
        (b"no sound", RATE, "cannot be read for augmentation"),
        (np.zeros(0), RATE, "an empty file"),
        (np.full(1, 0.5), 44100, "an empty file"),  # once it is resampled
        (np.full(999, np.nan), RATE, "a file with samples that are no numbers"),
    ],
)
def test_a_damaged_noise_file_is_one_line(tmp_path, content, rate, said):
    if isinstance(content, bytes):
        (tmp_path / "a.wav").write_bytes(content)
    else:
        soundfile.write(tmp_path / "a.wav", content, rate, subtype="FLOAT")
    chosen = Config(noise=Additive(folder=str(tmp_path), probability=1.0))
    with pytest.raises(UserError, match=f"a.wav: {said}"):
        augmentation.augment_wave(chosen, noise(400), 1.0, RATE, rng())


def test_a_room_without_sound_is_refused_instead_of_silencing_all_speech(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(400), RATE)
    chosen = Config(reverberation=Reverberation(folder=str(tmp_path), probability=1.0))
    with pytest.raises(UserError, match=r"a.wav: holds nothing but zeros"):
        augmentation.augment_wave(chosen, noise(400), 1.0, RATE, rng())


# Speeds


def test_speeds_are_drawn_evenly_and_anew_each_epoch():
    chosen, indices = Config(speed=(0.9, 1.0, 1.1)), np.arange(30_000)
    one, two = (augmentation.speeds(chosen, 7, epoch, indices) for epoch in (1, 2))
    for speed in (0.9, 1.0, 1.1):
        assert abs((one == speed).mean() - 1 / 3) < 0.015
        assert abs((two[one == speed] == speed).mean() - 1 / 3) < 0.03  # independent of the epoch before
    assert (augmentation.speeds(chosen, 8, 1, indices) == one).mean() < 0.4


def test_a_speed_belongs_to_the_utterance_not_to_its_place():
    chosen, indices = Config(speed=(0.9, 1.0, 1.1)), np.arange(1000)
    order = rng().permutation(1000)
    whole = augmentation.speeds(chosen, 1, 1, indices)
    assert np.array_equal(augmentation.speeds(chosen, 1, 1, indices[order]), whole[order])
    assert augmentation.speeds(chosen, 1, 1, np.array([17])) == whole[17]


@pytest.mark.parametrize(
    "values, key",
    [
        ({"speed": []}, "speed"),
        ({"speed": [0.0]}, "speed.0"),
        ({"noise": {"folder": "x", "probability": 1.5}}, "noise.probability"),
        ({"spec_augment": {"time_mask_share": 2}}, "spec_augment.time_mask_share"),
        ({"spec_augment": {"freq_masks": -1}}, "spec_augment.freq_masks"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(values, key):
    with pytest.raises(UserError, match=f"conf: {key} holds"):
        config.build(Config, values, "conf")


# Features


def zero_runs(feats: torch.Tensor) -> list[int]:
    """Lengths of the stretches of frames that are zero."""
    runs, length = [], 0
    for zero in [*(feats == 0).all(1).tolist(), False]:
        if not zero and length:
            runs.append(length)
        length = length + 1 if zero else 0
    return runs


def test_a_mask_is_never_wider_than_its_share_or_its_frames():
    masks = SpecAugment(time_masks=1, freq_masks=0, time_mask_frames=12, time_mask_share=0.2)
    widest = {}
    for frames in (1, 4, 5, 30, 60, 100):
        runs = []
        for seed in range(200):
            feats = torch.ones(100, 8)
            augmentation.mask_features(masks, feats, frames, rng(seed))
            assert (feats[frames:] == 1).all()  # padding is none of its business
            runs += zero_runs(feats)
        widest[frames] = max(runs, default=0)
    assert widest == {1: 0, 4: 0, 5: 1, 30: 6, 60: 12, 100: 12}


def test_masks_reach_every_frame_and_every_bin():
    hit_frames, hit_bins = torch.zeros(50), torch.zeros(8)
    for seed in range(300):
        feats = torch.ones(50, 8)
        augmentation.mask_features(SpecAugment(freq_masks=0), feats, 50, rng(seed))
        hit_frames += (feats == 0).all(1)
        feats = torch.ones(50, 8)
        augmentation.mask_features(SpecAugment(time_masks=0, freq_mask_bins=3), feats, 50, rng(seed))
        hit_bins += (feats == 0).all(0)
    assert hit_frames.min() > 0 and hit_bins.min() > 0


@pytest.mark.parametrize("frames", [0, 1, 2, 3])
def test_an_utterance_without_frames_to_spare_is_no_accident(frames):
    for seed in range(20):
        feats = torch.ones(3, 8)
        augmentation.warp_features(SpecAugment(warp_frames=5), feats, frames, rng(seed))
        augmentation.mask_features(SpecAugment(freq_masks=0), feats, frames, rng(seed))
        assert (feats == 1).all()
    empty = torch.ones(0, 8)
    augmentation.mask_features(SpecAugment(freq_mask_bins=100), empty, 0, rng())


def test_warping_keeps_the_ends_and_the_order():
    moved = 0
    for seed in range(200):
        feats = torch.arange(20.0)[:, None].repeat(1, 2)
        feats[15:] = 0.0  # padding
        augmentation.warp_features(SpecAugment(warp_frames=5), feats, 15, rng(seed))
        line = feats[:15, 0]
        assert (line[0], line[-1]) == (0.0, 14.0) and (feats[15:] == 0).all()
        assert (line.diff() > 0).all()
        assert (line - torch.arange(15.0)).abs().max() <= 5 + 1e-5
        moved += not torch.equal(line, torch.arange(15.0))
    assert moved > 150
