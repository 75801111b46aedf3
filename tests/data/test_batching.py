"""Batches: every utterance once an epoch, little padding, and the same plan wherever one enters it."""

from __future__ import annotations

import itertools
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from asrtts.data import augmentation, manifest, manifest_cache
from asrtts.data.batching import Config, Index, epoch_batches, requests
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

PERTURBED = augmentation.Config(speed=(0.9, 1.0, 1.1))
PLAIN = augmentation.NONE
TOP = Path(__file__).resolve().parents[2]


def aishell_like(count: int) -> np.ndarray:
    return np.random.default_rng(0).lognormal(np.log(4.5) - 0.3**2 / 2, 0.3, count).astype(np.float32)


def librispeech_like(count: int) -> np.ndarray:
    """Two thirds lie near 14 s, where chapters were cut, and the rest is spread below."""
    rng = np.random.default_rng(0)
    long, short = rng.normal(14.4, 1.3, count), rng.uniform(1.5, 14.0, count)
    return np.clip(np.where(rng.random(count) < 0.66, long, short), 1.3, 35.0).astype(np.float32)


def plan(config: Config, seconds: np.ndarray, speed=PERTURBED, seed: int = 1, epoch: int = 1):
    return list(epoch_batches(config, speed, seconds, seed, epoch))


def padded(lengths: np.ndarray) -> float:
    return len(lengths) * float(lengths.max())


def test_every_utterance_stands_once_in_an_epoch():
    for epoch in (1, 2):
        indices = np.concatenate([rows for rows, _ in plan(Config(window=300), aishell_like(2345), epoch=epoch)])
        assert np.array_equal(np.sort(indices), np.arange(2345))


def test_a_batch_holds_its_seconds_and_no_more():
    seconds, config = aishell_like(5000), Config(seconds=60.0, window=1000, max_utterances=20)
    batches = plan(config, seconds)
    lengths = [seconds[rows] / speeds for rows, speeds in batches]
    assert all(padded(each) <= 60.0 + 1e-3 and len(each) <= 20 for each in lengths)
    assert np.mean([padded(each) for each in lengths]) > 48  # and they are full


def test_an_utterance_longer_than_a_batch_stands_alone():
    seconds = np.array([1.0, 500.0, 1.0, 1.0], dtype=np.float32)
    batches = plan(Config(seconds=10.0), seconds, PLAIN)
    assert sorted(tuple(sorted(rows.tolist())) for rows, _ in batches) == [(0, 2, 3), (1,)]


@pytest.mark.parametrize("make", [aishell_like, librispeech_like])
@pytest.mark.parametrize("limit", [40.0, 120.0, 300.0])
def test_padding_is_at_most_one_percent(make, limit):
    seconds = make(30_000)
    lengths = [seconds[rows] / speeds for rows, speeds in plan(Config(seconds=limit), seconds)]
    assert 1 - sum(each.sum() for each in lengths) / sum(padded(each) for each in lengths) <= 0.01


@pytest.mark.parametrize(
    ("recipe", "make", "count"), [("aishell", aishell_like, 120_000), ("librispeech", librispeech_like, 280_000)]
)
def test_padding_of_the_published_presets_is_at_most_one_percent(recipe, make, count):
    settings = yaml.safe_load((TOP / f"egs/{recipe}/asr/conf/encoder.yaml").read_text())["batching"]
    seconds = make(count)
    lengths = [seconds[rows] / speeds for rows, speeds in plan(Config(**settings), seconds)]
    assert 1 - sum(each.sum() for each in lengths) / sum(padded(each) for each in lengths) <= 0.01


def test_the_made_up_lengths_are_like_the_corpora():
    assert abs(aishell_like(50_000).mean() - 4.5) < 0.1
    assert abs(librispeech_like(50_000).mean() - 12.1) < 0.4 and librispeech_like(50_000).max() <= 35


def test_the_plan_is_a_matter_of_seed_and_epoch_alone():
    def order(seed, epoch):
        return [rows.tolist() for rows, _ in plan(Config(window=100), aishell_like(500), seed=seed, epoch=epoch)]

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2) and order(1, 1) != order(2, 1)


def test_another_epoch_has_other_neighbours():
    def pairs(epoch: int) -> set[tuple[int, int]]:
        batches = plan(Config(seconds=60.0, window=1000), aishell_like(5000), PLAIN, epoch=epoch)
        return {pair for rows, _ in batches for pair in itertools.combinations(sorted(rows.tolist()), 2)}

    one, two = pairs(1), pairs(2)
    assert len(one & two) < 0.2 * len(one)  # of equal length and by chance in the same of the 5 windows


def test_short_and_long_batches_are_mixed():
    seconds = aishell_like(5000)
    mean = [seconds[rows].mean() for rows, _ in plan(Config(seconds=60.0, window=2500), seconds, PLAIN)]
    assert abs(np.corrcoef(mean[:-1], mean[1:])[0, 1]) < 0.2


def test_an_epoch_of_one_utterance_goes_round():
    stream = requests(Config(), PLAIN, np.array([3.0], np.float32), 1)
    assert [(r.epoch, r.batch, r.indices) for r in itertools.islice(stream, 3)] == [(e, 0, (0,)) for e in (1, 2, 3)]


def test_a_block_larger_than_the_corpus_takes_no_memory():
    seconds = np.full(50, 3.0, np.float32)
    whole, more = (list(epoch_batches(Config(block=n, window=10**9), PLAIN, seconds, 1, 1)) for n in (50, 10**9))
    assert [rows.tolist() for rows, _ in more] == [rows.tolist() for rows, _ in whole]


def test_a_run_that_goes_on_sees_the_rest_of_the_batches():
    seconds, config = aishell_like(400), Config(seconds=60.0, window=100)
    whole = list(itertools.islice(requests(config, PERTURBED, seconds, 5), 80))
    assert {r.epoch for r in whole} >= {1, 2}
    for at in (1, 10, 33, 47):
        begun = requests(config, PERTURBED, seconds, 5, epoch=whole[at].epoch, batch=whole[at].batch)
        assert list(itertools.islice(begun, 80 - at)) == whole[at:]


def test_a_run_that_stopped_behind_the_last_batch_begins_the_next_epoch():
    seconds, config = aishell_like(400), Config(seconds=60.0, window=100)
    count = len(plan(config, seconds, seed=5))
    request = next(requests(config, PERTURBED, seconds, 5, epoch=1, batch=count))
    assert (request.epoch, request.batch) == (2, 0)


@pytest.mark.parametrize("world", [2, 3])
def test_the_rows_of_all_processes_are_the_batch_of_one(world):
    seconds, config = aishell_like(300), Config(seconds=60.0)
    one = list(itertools.islice(requests(config, PERTURBED, seconds, 5), 40))
    ranks = [
        list(itertools.islice(requests(config, PERTURBED, seconds, 5, rank=rank, world=world), 40))
        for rank in range(world)
    ]
    for whole, *parts in zip(one, *ranks, strict=True):
        if len(whole.indices) < world:
            continue  # the next test
        rows = [row for part in parts for row in zip(part.indices, part.speeds, strict=True)]
        assert sorted(rows) == sorted(zip(whole.indices, whole.speeds, strict=True))
        assert {part.total for part in parts} == {len(whole.indices)}
        assert max(len(p.indices) for p in parts) - min(len(p.indices) for p in parts) <= 1


def test_a_batch_smaller_than_the_world_gives_every_process_a_row():
    seconds = np.array([1.0, 500.0, 600.0], np.float32)
    ranks = [list(itertools.islice(requests(Config(), PLAIN, seconds, 1, rank=r, world=4), 6)) for r in range(4)]
    for parts in zip(*ranks, strict=True):
        assert all(len(part.indices) == 1 for part in parts) and {part.total for part in parts} == {4}
        assert len({part.indices for part in parts}) == 1


# The index


@pytest.fixture
def train(tmp_path):
    path = tmp_path / "train.jsonl"
    manifest.write(path, [Utterance(f"u{i}", f"{i}.wav", f"字 {i}" * i, seconds=1 + i / 8) for i in range(50)])
    return path


def test_the_index_gives_any_line(train):
    index, utterances = Index(train), list(manifest.read(train))
    assert len(index) == 50
    assert [index[i] for i in (49, 0, 17)] == [utterances[i] for i in (49, 0, 17)]
    assert index.seconds.tolist() == [u.seconds for u in utterances]


def test_the_index_takes_at_most_32_bytes_an_utterance(train):
    index = Index(train)
    assert (index.offsets.nbytes + index.seconds.nbytes) / len(index) <= 32


def test_the_index_of_a_million_lines_is_made_in_seconds(tmp_path):
    """20,000 lines, in processor time; 0.02 s where it was measured: a million takes a second."""
    path = tmp_path / "train.jsonl"
    manifest.write(path, (Utterance(f"u{i}", f"wav/{i}.wav", "some words " * 8, seconds=4.5) for i in range(20_000)))
    start = time.thread_time()
    assert len(Index(path)) == 20_000
    assert time.thread_time() - start < 0.2


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"utt_id": "x", "audio": "a", "text": ""}', "utterance x has no duration; run `asrtts prepare`"),
        ('{"utt_id": "x", "audio": "a", "text": "", "seconds": 0.0, "channel": 0}', "utterance x has no duration"),
        ('{"utt_id": "x", "audio": "a", "text": "", "seconds": NaN}', "key 'seconds' holds nan"),
        ('{"utt_id": "x", "audio": ', "not JSON"),
        ("", "not JSON"),
    ],
)
def test_a_line_that_cannot_be_trained_on_is_named(train, line, said):
    with open(train, "a") as lines:
        lines.write(line + "\n")
    with pytest.raises(UserError, match=f"train.jsonl:51: {said}"):
        Index(train)


def test_a_wrong_line_that_the_index_passed_over_is_named_when_it_is_read(train):
    lines = train.read_text().splitlines(keepends=True)
    lines[7] = lines[7].replace('"speaker": ""', '"speaker": 3')
    train.write_text("".join(lines))
    with pytest.raises(UserError, match=r"train.jsonl:8: key 'speaker' holds 3"):
        Index(train)[7]


def test_an_empty_manifest_is_refused(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no utterances"):
        Index(tmp_path / "train")


# What is kept beside a large manifest


@pytest.fixture
def large(train, monkeypatch):
    monkeypatch.setattr(manifest_cache, "LARGE", 1)
    monkeypatch.setattr(manifest, "CHUNK", 1000)  # many of them
    return train


def test_what_is_kept_is_what_was_read(large, monkeypatch):
    index = Index(large)
    assert sorted(p.name for p in large.parent.iterdir()) == [".train.jsonl.index", "train.jsonl"]
    monkeypatch.setattr(Index, "_read", None)  # never again
    again = Index(large)
    assert again.seconds.tolist() == index.seconds.tolist() == [u.seconds for u in manifest.read(large)]
    assert [again[i] for i in (49, 0, 17)] == [index[i] for i in (49, 0, 17)]
    assert not again.seconds.flags.owndata  # but the file's


@pytest.mark.parametrize("how", ["text", "length", "end", "copy"])
def test_a_manifest_that_has_changed_is_read_again(large, tmp_path, how):
    Index(large), manifest.fingerprint(large)
    kept, lines = (large.parent / ".train.jsonl.index").read_bytes(), large.read_text()
    if how == "copy":
        (tmp_path / "other.jsonl").write_text(lines.replace("1.125", "9.125"))
        os.replace(tmp_path / "other.jsonl", large)
    else:
        change = {"text": ("1.125", "9.125"), "length": ("1.125", "11.125"), "end": ("7.125", "3.125")}[how]
        large.write_text(lines.replace(*change))
    assert Index(large).seconds.tolist() == [u.seconds for u in manifest.read(large)]
    assert (large.parent / ".train.jsonl.index").read_bytes() != kept
    with_new_data = manifest.fingerprint(large)
    (large.parent / ".train.jsonl.fingerprint").unlink()
    assert manifest.fingerprint(large) == with_new_data


@pytest.mark.parametrize("damage", [b"", b"x" * 50, b"\0" * 2000])
def test_what_was_damaged_is_made_again(large, damage):
    seconds = Index(large).seconds.tolist()
    place = large.parent / ".train.jsonl.index"
    place.write_bytes(damage)
    assert Index(large).seconds.tolist() == seconds
    place.write_bytes(place.read_bytes()[:-4])  # cut short
    assert Index(large).seconds.tolist() == seconds and len(place.read_bytes()) == 128 + 12 * 50


def test_where_nothing_can_be_written_nothing_is_kept(large, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(manifest_cache.os, "replace", refuse)
    assert len(Index(large)) == 50 and [p.name for p in large.parent.iterdir()] == ["train.jsonl"]


def test_another_process_opens_the_manifest_itself(large):
    index = Index(large)
    sent = pickle.dumps(index)
    assert len(sent) < 500
    assert pickle.loads(sent)[17] == index[17]
    large.write_text(large.read_text().replace("1.125", "9.125"))
    with pytest.raises(UserError, match="train.jsonl: has changed while it was being used"):
        pickle.loads(sent)


def test_the_last_line_may_lack_its_end(large):
    large.write_text(large.read_text().rstrip("\n"))
    index = Index(large)
    assert len(index) == 50 and index[49] == list(manifest.read(large))[49]


def test_rounded_lengths_give_few_shapes_and_batches_no_larger():
    seconds, config = aishell_like(3000), Config(seconds=40.0, round_seconds=0.5)
    shapes = set()
    for rows, factors in plan(config, seconds):
        longest = np.ceil((seconds[rows] / factors).max() / 0.5) * 0.5
        assert len(rows) * longest <= 40.0
        shapes.add((len(rows), longest))
    exact = {(len(rows), (seconds[rows] / factors).max()) for rows, factors in plan(Config(seconds=40.0), seconds)}
    assert len(shapes) < len(exact) / 5
