"""Tar shards: what goes in comes out, at any place, in any order, and a shard that is not what it was is named."""

from __future__ import annotations

import itertools
import tarfile
import tracemalloc
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asrtts.bin import shard
from asrtts.corpora import shards
from asrtts.data import audio, augmentation, batching, features, inspection, manifest, sharding
from asrtts.data.dataset import UtteranceDataset, batches
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

RATE = 8000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A manifest of 23 utterances: wav, flac, sphere, 24 bit, a segment, a channel, texts of many kinds."""
    root, rng, made = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0), []
    for number in range(23):
        samples = rng.integers(-(1 << 15), 1 << 15, 1200 + 100 * number).astype(np.int16)
        suffix, kinds = [(".wav", {}), (".flac", {}), (".sph", {"format": "NIST"}), (".wav", {})][number % 4]
        path = root / f"{number}{suffix}"
        soundfile.write(path, samples, RATE, **kinds)
        text, speaker = ("", 'ü "语"', "two\u2028words")[number % 3], ("", "s1")[number % 2]
        seconds = len(samples) / RATE
        made.append(Utterance(f"s1.x/{number}", str(path), text, speaker, 0.0, seconds, RATE))
    soundfile.write(root / "two.wav", rng.integers(-(1 << 15), 1 << 15, (4000, 2)).astype(np.int16), RATE)
    made[3] = replace(made[3], audio=str(root / "two.wav"), start=0.1, seconds=0.2, channel=1)
    soundfile.write(root / "fine.wav", rng.uniform(-0.9, 0.9, 2000), RATE, "PCM_24")
    made[7] = replace(made[7], audio=str(root / "fine.wav"), start=0.05, seconds=0.1)
    manifest.write(root / "train.jsonl", made)
    return root / "train"


@pytest.fixture(scope="module")
def sharded(corpus) -> Path:
    shard.main([str(corpus), str(corpus.with_name("shards")), "--utterances", "5"])
    return corpus.with_name("shards")


def test_audio_texts_and_speakers_come_out_as_they_went_in(corpus, sharded):
    before = {u.utt_id: u for u in manifest.read(corpus)}
    after = list(manifest.read(sharded / "manifest"))
    assert len(after) == 23 and {u.utt_id for u in after} == before.keys()
    for u in after:
        old = before[u.utt_id]
        assert (u.text, u.speaker, u.seconds, u.sample_rate) == (old.text, old.speaker, old.seconds, old.sample_rate)
        np.testing.assert_array_equal(audio.read(u, RATE), audio.read(old, RATE))
    names = [*(f"00000{i}.tar" for i in range(5)), "manifest.jsonl", "shards.json"]
    assert sorted(p.name for p in sharded.glob("*")) == names


def test_the_corpus_that_is_read_from_the_shards_is_the_manifest(sharded):
    """Without durations, which `asrtts prepare` fills in."""
    found = shards.utterances(sharded)
    assert list(found) == ["train"]
    assert found["train"] == [replace(u, seconds=0.0, sample_rate=0) for u in manifest.read(sharded / "manifest")]
    assert shards.utterances(sharded.parent).keys() == {"shards"}


def test_the_same_command_gives_the_same_bytes(corpus, sharded, tmp_path):
    shard.main([str(corpus), str(tmp_path / "again"), "--utterances", "5"])
    for path in sharded.glob("*.tar"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    for place in (".", "/"):  # folders without a name
        with pytest.raises(UserError, match=f"{place}: is there already"):
            shard.main([str(corpus), place])


def test_finished_shards_are_left_alone_and_others_in_their_place_refused(corpus, tmp_path, capsys):
    argv = [str(corpus), str(tmp_path / "s"), "--utterances", "5"]
    shard.main(argv)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()}
    capsys.readouterr()
    shard.main(argv)
    assert capsys.readouterr().out == f"{tmp_path / 's'}: finished before\n"
    manifest.write(tmp_path / "fewer.jsonl", list(manifest.read(corpus))[1:])
    for changed, said in (
        ([*argv[:2], "--utterances", "6"], "with utterances 5, now it is 6"),
        ([*argv, "--seed", "2"], "with seed 1, now it is 2"),
        ([str(tmp_path / "fewer"), *argv[1:]], "with data_hash "),
    ):
        with pytest.raises(UserError, match=f"s: is there already, {said}"):
            shard.main(changed)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()}
    (tmp_path / "s" / "shards.json").unlink()
    with pytest.raises(UserError, match="is there already, and no shards.json says of what"):
        shard.main(argv)


def test_shards_of_shards_hold_the_same_audio(sharded, tmp_path):
    shard.main([str(sharded / "manifest"), str(tmp_path / "again"), "--utterances", "7", "--seed", "2"])
    folders = (sharded, tmp_path / "again")
    one, two = ({u.utt_id: audio.read(u, RATE).tobytes() for u in manifest.read(f / "manifest")} for f in folders)
    assert one == two


def test_prepare_looks_into_shards(sharded):
    for u in manifest.read(sharded / "manifest"):
        found = inspection.inspect(replace(u, seconds=0.0), inspection.Limits())
        assert found.findings == () and found.seconds == pytest.approx(u.seconds, abs=1e-4)
    u = next(manifest.read(sharded / "manifest"))
    cut = inspection.inspect(replace(u, size=u.size - 50), inspection.Limits())
    assert cut.findings[0][0] in ("truncated", "unreadable")


def test_a_killed_run_leaves_no_shards(corpus, tmp_path, monkeypatch):
    real = sharding._add
    calls = itertools.count()
    monkeypatch.setattr(sharding, "_add", lambda *a: real(*a) if next(calls) < 30 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shard.main([str(corpus), str(tmp_path / "s"), "--utterances", "5"])
    assert not (tmp_path / "s").exists()
    monkeypatch.undo()
    shard.main([str(corpus), str(tmp_path / "s"), "--utterances", "5"])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("utt_id", ["../up", "/etc/x", "a//b", "a/../../b", "s1/._a"])
def test_an_id_that_is_no_file_name_is_not_written(corpus, tmp_path, utt_id):
    manifest.write(tmp_path / "m.jsonl", [replace(next(manifest.read(corpus)), utt_id=utt_id)])
    with pytest.raises(UserError, match="no name for a file"):
        shard.main([str(tmp_path / "m"), str(tmp_path / "s")])
    assert not list(tmp_path.glob("s*"))


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "PCM_32", "PCM_24", "PCM_16", "PCM_U8", "ULAW"])
@pytest.mark.parametrize("peak", [0.5, 2.25])
def test_a_segment_is_bit_for_bit_what_the_file_holds(tmp_path, kind, peak):
    """Also where it goes beyond full scale, as the mix of float recordings does."""
    rng = np.random.default_rng(1)
    soundfile.write(tmp_path / "a.wav", peak * rng.uniform(-1, 1, 4000), RATE, kind)
    place = {"sample_rate": RATE, "seconds": 0.2}
    made = [Utterance(f"u{n}", str(tmp_path / "a.wav"), "x", start=0.1 * n, **place) for n in range(3)]
    made.append(Utterance("all", str(tmp_path / "a.wav"), "x", seconds=0.5, sample_rate=RATE))
    manifest.write(tmp_path / "m.jsonl", made)
    shard.main([str(tmp_path / "m"), str(tmp_path / "s")])
    after = {u.utt_id: audio.read(u, RATE) for u in manifest.read(tmp_path / "s" / "manifest")}
    for u in made:
        np.testing.assert_array_equal(after[u.utt_id], audio.read(u, RATE))
    assert np.abs(after["all"]).max() > (1.5 if kind in ("FLOAT", "DOUBLE") and peak > 1 else 0.1)
    with tarfile.open(tmp_path / "s" / "000000.tar") as members:
        suffixes = {m.name.rpartition(".")[2] for m in members if m.name.startswith("u")} - {"txt"}
    assert suffixes == {"wav" if kind in ("FLOAT", "DOUBLE", "PCM_32") else "flac"}
    shard.main([str(tmp_path / "m"), str(tmp_path / "again")])
    assert (tmp_path / "s" / "000000.tar").read_bytes() == (tmp_path / "again" / "000000.tar").read_bytes()


@pytest.mark.parametrize("form, peak", [("MP3", 0.5), ("OGG", 0.5), ("OGG", 3.0)])
def test_a_segment_of_coded_audio_is_rounded_but_never_clipped(tmp_path, form, peak):
    wave = peak * np.sin(np.arange(8000) / 5)
    soundfile.write(tmp_path / "a", wave, RATE, format=form)
    u = Utterance("u", str(tmp_path / "a"), "x", start=0.1, seconds=0.5, sample_rate=RATE)
    manifest.write(tmp_path / "m.jsonl", [u])
    shard.main([str(tmp_path / "m"), str(tmp_path / "s")])
    (after,) = manifest.read(tmp_path / "s" / "manifest")
    np.testing.assert_allclose(audio.read(after, RATE), audio.read(u, RATE), atol=2**-16 if peak < 1 else 0)


def test_ids_in_any_script_are_read_back(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(1).uniform(-1, 1, 4000), RATE)
    ids = ["müller-01", "张三-01", "anna-01", unicodedata.normalize("NFD", "é-1"), "ü" * 120]
    place = {"sample_rate": RATE, "seconds": 0.1}
    made = [Utterance(utt_id, str(tmp_path / "a.wav"), "x", start=0.1 * n, **place) for n, utt_id in enumerate(ids)]
    manifest.write(tmp_path / "m.jsonl", made)
    shard.main([str(tmp_path / "m"), str(tmp_path / "s")])
    for listed in (list(manifest.read(tmp_path / "s" / "manifest")), shards.utterances(tmp_path / "s")["train"]):
        assert {u.utt_id for u in listed} == set(ids)
        for u in listed:
            assert len(audio.read(u, RATE)) == 800


def test_ids_that_differ_in_nothing_that_can_be_seen_are_not_written(corpus, tmp_path):
    first = next(manifest.read(corpus))
    forms = [replace(first, utt_id=unicodedata.normalize(form, "é")) for form in ("NFC", "NFD")]
    manifest.write(tmp_path / "m.jsonl", forms)
    with pytest.raises(UserError, match=r"are one name in a shard; rename one of them"):
        shard.main([str(tmp_path / "m"), str(tmp_path / "s")])


# What is not as it was


def test_a_shard_that_was_cut_after_the_manifest_was_made_is_named(sharded, tmp_path):
    u = list(manifest.read(sharded / "manifest"))[4]
    cut = tmp_path / "cut.tar"
    cut.write_bytes(Path(u.audio).read_bytes()[: u.offset + u.size - 10])
    with pytest.raises(UserError, match=rf"cut.tar: the audio of {u.utt_id} .*ends 10 bytes too early"):
        audio.read(replace(u, audio=str(cut)), RATE)
    with pytest.raises(UserError, match="gone"):
        audio.read(replace(u, audio=str(tmp_path / "none.tar")), RATE)


def test_another_utterance_is_never_read_in_the_place_of_one(sharded):
    """The shards were written again, the manifest is the old one."""
    one, two = list(manifest.read(sharded / "manifest"))[:2]
    with pytest.raises(UserError, match="has changed since the manifest was made"):
        audio.read(replace(one, offset=two.offset, size=two.size), RATE)


# The guarantees of training


def len_of(text: str) -> list[int]:
    return [len(text)]


def test_batches_are_the_same_with_any_number_of_workers(sharded):
    index = batching.Index(sharded / "manifest")
    none = features.Statistics(torch.zeros(1), torch.ones(1))
    data = UtteranceDataset(index, features.Config(sample_rate=RATE, num_bins=20), none, len_of, seed=3)
    config = batching.Config(seconds=1.0, window=10, block=5)

    def first(workers: int) -> list:
        asked = batching.requests(config, augmentation.NONE, index.seconds, 1)
        return [(b["ids"], b["feats"]) for b in itertools.islice(batches(data, asked, workers), 12)]

    for (ids, feats), (other_ids, other) in zip(first(0), first(2), strict=True):
        assert ids == other_ids and torch.equal(feats, other)


def lengths(count: int) -> np.ndarray:
    return np.random.default_rng(0).lognormal(1.5, 0.3, count).astype(np.float32)


@pytest.mark.parametrize("block", [7, 50, 1000])
def test_blocks_give_every_utterance_once_and_a_run_goes_on_in_the_middle(block):
    seconds, config = lengths(997), batching.Config(seconds=40.0, window=200, block=block)
    whole = list(itertools.islice(batching.requests(config, augmentation.NONE, seconds, 5), 400))
    epoch = [i for r in whole if r.epoch == 1 for i in r.indices]
    assert sorted(epoch) == list(range(997)) and whole[-1].epoch > 1
    for at in (1, 60, 131, 290):
        begun = batching.requests(config, augmentation.NONE, seconds, 5, epoch=whole[at].epoch, batch=whole[at].batch)
        assert list(itertools.islice(begun, 400 - at)) == whole[at:]


def test_a_window_reads_a_few_whole_blocks():
    """A thousand utterances of five shards at a time, never of all hundred."""
    config = batching.Config(seconds=40.0, window=1000, block=200)
    served, windows = 0, [set()]
    for indices, _ in batching.epoch_batches(config, augmentation.NONE, lengths(20_000), 1, 1):
        windows[-1] |= set((indices // 200).tolist())
        served += len(indices)
        if served == 1000:
            served = 0
            windows.append(set())
    assert len(windows) == 21 and all(len(window) == 5 for window in windows[:20])
    assert len(set.union(*windows)) == 100


def test_an_epoch_of_blocks_takes_the_memory_of_a_window():
    def peak(count: int) -> int:
        seconds = lengths(count)
        config = batching.Config(seconds=40.0, window=1000, block=1000)
        tracemalloc.start()
        next(batching.epoch_batches(config, augmentation.NONE, seconds, 1, 1))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1000)
    assert peak(1_000_000) < 1.3 * peak(20_000) + 20_000


def test_one_block_an_utterance_is_the_order_without_blocks():
    """That of a permutation, which runs from before there were blocks go on with."""
    rng = np.random.default_rng([1, 1])
    order = rng.permutation(500)
    config = batching.Config(seconds=1e6, window=100, max_utterances=1000)
    for number, (indices, _) in enumerate(batching.epoch_batches(config, augmentation.NONE, lengths(500), 1, 1)):
        assert set(indices.tolist()) == set(order[100 * number : 100 * number + 100].tolist())


def test_no_shard_is_half_read_as_a_tar_by_others(sharded):
    """Python's own tarfile finds each member where the manifest says it is."""
    places = {(Path(u.audio).name, u.offset, u.size) for u in manifest.read(sharded / "manifest")}
    found = set()
    for path in sharded.glob("*.tar"):
        with tarfile.open(path) as members:
            found |= {(path.name, m.offset_data, m.size) for m in members if not m.name.endswith((".txt", ".json"))}
    assert found == places
