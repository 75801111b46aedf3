"""`asrtts shard`: two at once, a kill, a folder that lost a shard, and a disk that is full."""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrtts import storage
from asrtts.bin import shard
from asrtts.data import audio, manifest, sharding
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

RATE = 8000
COUNT = 240


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Segments of one recording, so that each is read and written as FLAC, which takes a moment."""
    root = tmp_path_factory.mktemp("corpus")
    samples = np.random.default_rng(0).integers(-3000, 3000, COUNT * 800).astype(np.int16)
    soundfile.write(root / "all.wav", samples, RATE)
    place = {"seconds": 0.1, "sample_rate": RATE}
    utterances = [Utterance(f"u{n}", str(root / "all.wav"), "text", start=0.1 * n, **place) for n in range(COUNT)]
    manifest.write(root / "train.jsonl", utterances)
    return root / "train"


def test_two_at_once_leave_every_utterance(corpus, tmp_path, capsys, verbs):
    argv = [str(corpus), str(tmp_path / "s"), "--utterances", "50"]
    ended = verbs.at_once("shard", argv, argv)
    assert [status for status, _ in ended].count(0) >= 1
    for status, said in ended:
        assert status == 0 or "another process" in said
    assert {u.utt_id for u in manifest.read(tmp_path / "s" / "manifest")} == {f"u{n}" for n in range(COUNT)}
    for u in manifest.read(tmp_path / "s" / "manifest"):
        assert len(audio.read(u, RATE)) == 800
    shard.main(argv)
    assert "finished before" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_killed_process_leaves_nothing_that_stays(corpus, tmp_path, verbs):
    argv = [str(corpus), str(tmp_path / "s"), "--utterances", "50"]
    process = verbs.ready("shard", argv)
    verbs.begin(process)
    while process.poll() is None and not list(tmp_path.glob(".s.*/*.tar")):
        time.sleep(0.001)
    process.kill()
    process.communicate()
    shard.main(argv)
    assert len(list(manifest.read(tmp_path / "s" / "manifest"))) == COUNT
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("damage", ["missing", "cut", "manifest"])
def test_shards_that_are_not_whole_are_not_finished(corpus, tmp_path, capsys, damage):
    argv = [str(corpus), str(tmp_path / "s"), "--utterances", "50"]
    shard.main(argv)
    before = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    path = tmp_path / "s" / ("manifest.jsonl" if damage == "manifest" else "000001.tar")
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-512])
    shard.main(argv)
    assert path.name in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before


def test_a_folder_that_holds_more_than_shards_is_not_emptied(corpus, tmp_path):
    argv = [str(corpus), str(tmp_path / "s"), "--utterances", "50"]
    shard.main(argv)
    (tmp_path / "s" / "000001.tar").unlink()
    (tmp_path / "s" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="thesis.tex: is no part of the shards"):
        shard.main(argv)
    assert (tmp_path / "s" / "thesis.tex").exists() and (tmp_path / "s" / "000000.tar").exists()


def test_the_record_says_what_the_shards_were_made_from(corpus, tmp_path):
    shard.main([str(corpus), str(tmp_path / "s"), "--utterances", "50"])
    record = json.loads((tmp_path / "s" / "shards.json").read_text())
    assert record["made_from"]["data_hash"] == manifest.fingerprint(corpus)
    assert record["utterance_count"] == COUNT
    assert record["shards"] == {p.name: p.stat().st_size for p in sorted((tmp_path / "s").glob("*.tar"))}


def test_shards_of_an_older_version_are_refused(corpus, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "shards.json").write_text('{"data_hash": "0", "utterances": 50, "seed": 1}')
    with pytest.raises(UserError, match="made by an older version; name another folder or delete it"):
        shard.main([str(corpus), str(tmp_path / "s")])


def test_an_empty_folder_may_be_there(corpus, tmp_path):
    (tmp_path / "s").mkdir()
    shard.main([str(corpus), str(tmp_path / "s")])
    assert (tmp_path / "s" / "000000.tar").is_file()


def test_another_process_that_works_in_the_folder_is_named(corpus, tmp_path):
    with storage.held(tmp_path / "s"), pytest.raises(UserError, match="another process.* wait for it"):
        shard.main([str(corpus), str(tmp_path / "s")])


def test_after_a_full_disk_the_same_command_writes_all(corpus, tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sharding, "_add", full)
    with pytest.raises(UserError, match="the disk is full; free some space and give the same command again"):
        shard.main([str(corpus), str(tmp_path / "s")])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    shard.main([str(corpus), str(tmp_path / "s")])
    assert len(list(manifest.read(tmp_path / "s" / "manifest"))) == COUNT
