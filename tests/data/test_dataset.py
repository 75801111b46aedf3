"""The road of an utterance into a batch: the same with any number of workers, and one line when it breaks."""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from asrtts.data import augmentation, batching, features, manifest
from asrtts.data.augmentation import Additive, SpecAugment
from asrtts.data.batching import Index, Request
from asrtts.data.dataset import UtteranceDataset, batches, pad, start_early
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

FEATURE = features.Config(sample_rate=8000, num_bins=20)
STATISTICS = features.Statistics(torch.full((20,), 8.0), torch.full((20,), 3.0))
MASKED = augmentation.Config(speed=(0.9, 1.0, 1.1), gain_db=(-3.0, 3.0), spec_augment=SpecAugment(warp_frames=3))


def encode(text: str) -> list[int]:  # at the top of the file, so that a worker can find it
    return [ord(c) - 96 for c in text]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """30 utterances of 0.3 to 0.9 s."""
    start_early(1)  # one import of torch for all workers of this file
    root, rng, utterances = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0), []
    for i in range(30):
        samples = 0.1 * rng.standard_normal(2400 + 160 * i)
        soundfile.write(root / f"{i}.wav", samples, 8000)
        text = "abcdefgh"[: 1 + i % 8]
        utterances.append(Utterance(f"u{i}", str(root / f"{i}.wav"), text, seconds=len(samples) / 8000))
    manifest.write(root / "train.jsonl", utterances)
    return root


def dataset(corpus, **options) -> UtteranceDataset:
    return UtteranceDataset(Index(corpus / "train"), FEATURE, STATISTICS, encode, **options)


def stream(data: UtteranceDataset, **options):
    config = batching.Config(seconds=3.0)
    return batching.requests(config, data.augment, data.index.seconds, data.seed, **options)


def made(data: UtteranceDataset, workers: int, count: int = 12, **options) -> list[dict]:
    with closing(batches(data, stream(data, **options), workers)) as made_batches:
        return list(itertools.islice(made_batches, count))


def same(one: list[dict], two: list[dict]) -> bool:
    return all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]
        for a, b in zip(one, two, strict=True)
        for key in a.keys() | b.keys()
    )


def test_a_batch_is_the_same_with_any_number_of_workers(corpus, tmp_path):
    soundfile.write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(1).standard_normal(4000), 8000)
    augment = MASKED.model_copy(update={"noise": Additive(folder=str(tmp_path))})
    data = dataset(corpus, augment=augment, views=2, seed=3)
    alone = made(data, 0)
    asked = list(itertools.islice(stream(data), 12))
    assert [(b["place"], b["share"]) for b in alone] == [(r.place, r.share) for r in asked]
    assert {b["place"][0] for b in alone} >= {1, 2}
    for workers in (1, 2):
        assert same(alone, made(data, workers)), workers


def test_a_run_that_goes_on_makes_the_batches_it_would_have_made(corpus):
    data = dataset(corpus, augment=MASKED)
    whole = made(data, 0)
    epoch, batch = whole[7]["place"]
    assert same(whole[7:], made(data, 0, 5, epoch=epoch, batch=batch))


def test_another_epoch_augments_anew(corpus):
    data = dataset(corpus, augment=MASKED)
    one, two = (data[Request(epoch, 0, (3,), (1.0,), 1)]["feats"] for epoch in (1, 2))
    assert not torch.equal(one, two)


def test_making_batches_leaves_torchs_random_state_alone(corpus):
    """A resumed run restores it before its first batch: the dropout that follows must be as it was."""
    before = torch.get_rng_state()
    for workers in (0, 1):
        made(dataset(corpus, augment=MASKED), workers, 2)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_holds_what_its_request_names(corpus):
    data = dataset(corpus)
    request = Request(1, 4, (5, 2), (1.0, 1.0), 2)
    batch = data[request]
    assert list(batch["ids"]) == ["u5", "u2"] and batch["place"] == (1, 4) and batch["share"] == 1.0
    assert batch["tokens"].tolist() == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 0, 0, 0]] and batch["token_lens"].tolist() == [
        6,
        3,
    ]
    lens = [features.num_frames(FEATURE, 2400 + 160 * i) for i in (5, 2)]
    assert batch["feat_lens"].tolist() == lens and batch["feats"].shape == (2, max(lens), 20)
    assert batch["feats"].dtype == torch.float32 and batch["tokens"].dtype == torch.int64
    assert (batch["feats"][1, lens[1] :] == 0).all()


def test_the_features_are_normalized(corpus):
    data = dataset(corpus)
    batch = data[Request(1, 0, (4,), (1.0,), 1)]
    wave, _ = soundfile.read(data.index[4].audio, dtype="float32")
    feats, _ = features.fbank(FEATURE, [wave])
    torch.testing.assert_close(batch["feats"], (feats - 8.0) / 3.0)


def test_a_row_does_not_depend_on_its_neighbours(corpus):
    data = dataset(corpus, augment=MASKED)
    alone = data[Request(2, 0, (9,), (1.1,), 1)]
    among = data[Request(2, 5, (28, 9, 1), (0.9, 1.1, 1.0), 3)]
    frames = int(alone["feat_lens"][0])
    assert among["feat_lens"][1] == frames
    torch.testing.assert_close(among["feats"][1, :frames], alone["feats"][0], atol=1e-4, rtol=0)


def test_speed_shortens_the_row(corpus):
    data = dataset(corpus, augment=MASKED)
    slow, fast = (data[Request(1, 0, (29,), (speed,), 1)]["feat_lens"].item() for speed in (0.9, 1.1))
    assert abs(slow - 88 / 0.9) <= 1 and abs(fast - 88 / 1.1) <= 1


@pytest.mark.parametrize("augment", [MASKED, augmentation.NONE], ids=["masked", "plain"])
def test_two_views_double_the_rows(corpus, augment):
    data = dataset(corpus, augment=augment, views=2)
    batch = data[Request(1, 0, (5, 2, 7), (1.0,) * 3, 3)]
    assert len(batch["feats"]) == 6 and len(batch["ids"]) == 3
    for key in ("feat_lens", "tokens", "token_lens"):
        assert torch.equal(batch[key][:3], batch[key][3:]), key
    if augment is MASKED:
        assert all(not torch.equal(batch["feats"][row], batch["feats"][row + 3]) for row in range(3))
    else:
        assert torch.equal(batch["feats"][:3], batch["feats"][3:])


def test_two_views_are_the_same_where_neither_is_masked(corpus):
    """Warped once, masked twice: CR-CTC compares them frame by frame."""
    data = dataset(corpus, augment=MASKED, views=2)
    one, two = data[Request(1, 0, (29,), (1.0,), 1)]["feats"]
    both = (one != 0) & (two != 0)
    assert both.float().mean() > 0.2
    assert torch.equal(one[both], two[both])


def test_a_folder_without_noise_is_refused_before_the_first_batch(corpus, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: no .wav"):
        dataset(corpus, augment=augmentation.Config(noise=Additive(folder=str(tmp_path))))


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_that_is_gone_is_one_line_from_a_worker_too(corpus, tmp_path, workers):
    utterances = [replace(u, audio=u.audio.replace("corpus", "moved")) for u in manifest.read(corpus / "train")]
    manifest.write(tmp_path / "train.jsonl", utterances)
    with pytest.raises(UserError) as caught:
        made(dataset(tmp_path), workers)
    line = str(caught.value)
    assert "\n" not in line and "is gone; if the corpus moved, run `asrtts prepare` again" in line
    assert line.split(": ")[0] in {u.audio for u in utterances}


def test_batches_before_the_broken_one_still_come(corpus, tmp_path):
    utterances = list(manifest.read(corpus / "train"))
    manifest.write(tmp_path / "train.jsonl", [utterances[0], replace(utterances[1], audio="gone.wav")])
    plan = iter([Request(1, 0, (0,), (1.0,), 1), Request(1, 1, (1,), (1.0,), 1)])
    with closing(batches(dataset(tmp_path), plan, 1)) as stream_of_batches:
        assert next(stream_of_batches)["ids"].keys() == {"u0"}
        with pytest.raises(UserError, match="gone.wav: the audio of u1 is gone"):
            next(stream_of_batches)


@pytest.mark.parametrize("views", [1, 2])
def test_an_utterance_without_a_frame_is_a_row_of_length_0(tmp_path, views):
    for name, samples in (("a", 30), ("b", 800)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(samples, 0.1), 8000)
    short, longer = (
        Utterance(n, str(tmp_path / f"{n}.wav"), "a", seconds=s / 8000) for n, s in (("a", 30), ("b", 800))
    )
    manifest.write(tmp_path / "train.jsonl", [short, longer])
    data = dataset(tmp_path, augment=MASKED, views=views)
    assert data[Request(1, 0, (0, 1), (1.0, 1.0), 2)]["feat_lens"].tolist() == [0, 10] * views
    assert data[Request(1, 0, (0,), (1.0,), 1)]["feats"].shape == (views, 0, 20)


def test_tokens_are_padded_with_blanks():
    assert pad([[7, 8], [9], []]).tolist() == [[7, 8], [9, 0], [0, 0]]
    assert pad([]).shape == (0, 0) and pad([[], []]).shape == (2, 0) and pad([[]]).dtype == torch.int64


def test_rounding_adds_frames_of_padding_and_nothing_else(corpus):
    exact, rounded = (made(dataset(corpus, augment=MASKED, seed=3, round_frames=n), 0) for n in (1, 16))
    for one, two in zip(exact, rounded, strict=True):
        frames = one["feats"].shape[1]
        assert two["feats"].shape[1] % 16 == 0 and two["feats"].shape[1] - frames < 16
        assert torch.equal(two["feats"][:, :frames], one["feats"]) and not two["feats"][:, frames:].any()
        assert torch.equal(one["feat_lens"], two["feat_lens"])
