"""The corpus `shards`: folders, texts and speakers, and each way in which a shard can be wrong."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrtts.bin import prepare, shard
from asrtts.corpora import shards
from asrtts.data import manifest
from asrtts.data.inspection import Limits, inspect
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError


def make(path: Path, *members: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        shards.utterances(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


GOOD = [
    ("b.flac", b"sound" * 300),
    ("b.txt", b"two words\n"),
    ("a.wav", b"more"),
    ("a.json", b'{"text": "x", "speaker": "s"}'),
]


def test_an_utterance_is_its_place_in_the_shard(tmp_path):
    path = make(tmp_path / "000000.tar", *GOOD, ("b.cls", b"1"), ("README", b""))
    (found,) = shards.utterances(tmp_path).values()
    assert [(u.utt_id, u.text, u.speaker) for u in found] == [("b", "two words", ""), ("a", "x", "s")]
    for u, sound in zip(found, (b"sound" * 300, b"more"), strict=True):
        assert u.audio == str(path) and path.read_bytes()[u.offset : u.offset + u.size] == sound


def test_folders_are_splits_and_shards_follow_each_other(tmp_path):
    for split in ("train", "dev"):
        make(tmp_path / split / "000001.tar", ("c.wav", b"1"), ("c.txt", b"1"))
        make(tmp_path / split / "000000.tar", *GOOD)
    found = shards.utterances(tmp_path)
    assert {split: [u.utt_id for u in us] for split, us in found.items()} == dict.fromkeys(
        ("train", "dev"), ["b", "a", "c"]
    )


def test_what_macos_keeps_beside_a_file_is_no_sample(tmp_path):
    (tmp_path / "._000000.tar").write_bytes(b"\0\5\x16\7")
    make(tmp_path / "000000.tar", ("._b.flac", b"\0\5"), ("x/._b.txt", b"\xff"), ("._a.json", b"\xff"), *GOOD)
    assert [u.utt_id for u in shards.utterances(tmp_path)[tmp_path.name]] == ["b", "a"]


def test_texts_stand_for_text_and_json_for_the_speaker(tmp_path):
    make(tmp_path / "0.tar", ("a.json", b'{"text": "j", "speaker": "s"}'), ("a.txt", b"t"), ("a.wav", b"1"))
    assert [(u.text, u.speaker) for u in shards.utterances(tmp_path)[tmp_path.name]] == [("t", "s")]


def test_what_lacks_its_other_half_is_counted(tmp_path, capsys):
    make(tmp_path / "0.tar", *GOOD, ("alone.wav", b"1"), ("mute.txt", b"1"), ("empty.wav", b""), ("empty.txt", b"1"))
    assert len(shards.utterances(tmp_path)[tmp_path.name]) == 2
    said = capsys.readouterr().err
    assert "1 audio files have no text and are left out, e.g. alone" in said
    assert "2 texts have no audio and are left out, e.g. mute" in said


def test_names_that_lead_out_of_the_folder_lead_nowhere(tmp_path):
    """Nothing is unpacked: a name is an id. Links and devices are passed over."""
    path = make(
        tmp_path / "in" / "0.tar",
        ("../../up.wav", b"1"),
        ("../../up.txt", b"1"),
        ("/etc/x.wav", b"2"),
        ("/etc/x.txt", b"2"),
    )
    with tarfile.open(path, "a") as tar:
        for name, kind in (("link.wav", tarfile.SYMTYPE), ("hard.wav", tarfile.LNKTYPE), ("dev.wav", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    found = shards.utterances(tmp_path / "in")["train"]
    assert [u.utt_id for u in found] == ["../../up", "/etc/x"] and {u.audio for u in found} == {str(path)}
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("left", [100, 700, 1200, 2500])
def test_a_shard_that_was_cut_is_named(tmp_path, left):
    path = make(tmp_path / "0.tar", *GOOD)
    path.write_bytes(path.read_bytes()[:left])
    assert refusal(tmp_path).startswith(f"{path}: cut short or no tar file (")


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz"])
def test_a_compressed_shard_is_refused_with_what_to_do(tmp_path, name):
    path = make(tmp_path / "plain.tar", *GOOD)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(gzip.compress(path.read_bytes()))
    assert f"{name}: a compressed shard" in refusal(tmp_path / "in") and "gunzip" in refusal(tmp_path / "in")


@pytest.mark.parametrize("again", [("b.flac", b"1"), ("b.wav", b"1"), ("b.txt", b"1"), ("a.json", b"{}")])
def test_a_doubled_key_is_named(tmp_path, again):
    path = make(tmp_path / "0.tar", *GOOD, again)
    assert refusal(tmp_path).startswith(f"{path}: {again[0]}: this shard has two such files")


@pytest.mark.parametrize("content", [b'{"text": 3}', b"[1]", b'{"text"', b"\xff"])
def test_a_text_that_is_none_is_named(tmp_path, content):
    path = make(tmp_path / "0.tar", ("a.json", content), ("a.wav", b"1"))
    assert refusal(tmp_path).startswith(f"{path}: a.json: ")


def test_no_shards_is_one_line(tmp_path):
    assert "no shards (looked for *.tar" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "nowhere")
    with pytest.raises(UserError, match="your own"):
        shards.download(tmp_path)


def test_names_and_texts_that_no_file_could_hold_are_refused(tmp_path):
    make(tmp_path / "0.tar", ("gr\udcfc.wav", b"1"), ("gr\udcfc.txt", b"x"))
    assert "not UTF-8; write the shard again" in refusal(tmp_path)
    make(tmp_path / "0.tar", ("a.wav", b"1"), ("a.json", b'{"text": "\\ud800"}'))
    assert "0.tar: a.json: cannot be read" in refusal(tmp_path)


# Shards that are not all of what was written


@pytest.fixture
def written(tmp_path) -> Path:
    """What `asrtts shard` leaves: three shards, a manifest of them and the record."""
    samples = np.random.default_rng(0).integers(-3000, 3000, 6 * 800).astype(np.int16)
    soundfile.write(tmp_path / "all.wav", samples, 8000)
    place = {"seconds": 0.1, "sample_rate": 8000}
    made = [Utterance(f"u{n}", str(tmp_path / "all.wav"), "text", start=0.1 * n, **place) for n in range(6)]
    manifest.write(tmp_path / "m.jsonl", made)
    shard.main([str(tmp_path / "m"), str(tmp_path / "train"), "--utterances", "2"])
    return tmp_path / "train"


def test_whole_shards_are_read(written):
    assert len(shards.utterances(written)["train"]) == 6


@pytest.mark.parametrize("record", [True, False])
def test_a_missing_shard_is_told(written, record):
    (written / "000001.tar").unlink()
    if not record:
        (written / "shards.json").unlink()
    said = refusal(written)
    assert ("000001.tar is missing" if record else "lists 6 utterances, the shards hold 4") in said
    for name in ("shards.json", "manifest.jsonl"):  # the way out that is named
        (written / name).unlink(missing_ok=True)
    assert len(shards.utterances(written)["train"]) == 4


def test_a_shard_that_was_cut_at_the_end_of_a_member_is_told(written):
    path = written / "000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    assert "000001.tar has" in refusal(written)
    (written / "shards.json").unlink()
    with tarfile.open(path) as members:
        second = [m.offset for m in members if m.name.endswith(".flac")][1]
    path.write_bytes(path.read_bytes()[:second] + bytes(1024))
    assert "lists 6 utterances, the shards hold 5" in refusal(written)


def test_a_doubled_shard_is_told(written, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ASRTTS_CORPORA", raising=False)
    (written / "000001 (copy).tar").write_bytes((written / "000001.tar").read_bytes())
    assert "shards.json does not name this shard; take it out" in refusal(written)
    for name in ("shards.json", "manifest.jsonl"):
        (written / name).unlink()
    prepare.main(["shards", str(written), str(tmp_path / "data"), "--max-dropped", "0.5", "--jobs", "1"])
    assert len(list(manifest.read(tmp_path / "data" / "train"))) == 6
    assert (tmp_path / "data" / "checks.jsonl").read_text().count('"doubled-id"') == 2


def test_a_record_of_another_kind_is_left_alone(written):
    (written / "shards.json").write_text('{"made by": "somebody else"}')
    assert len(shards.utterances(written)["train"]) == 6
    (written / "shards.json").write_text("{")
    assert "shards.json: not JSON" in refusal(written)


def test_a_text_that_swallows_other_members_is_not_read_into_memory(tmp_path):
    make(tmp_path / "0.tar", ("a.wav", b"1"), ("a.txt", bytes((1 << 20) + 1)))
    assert "a.txt: a text of 1048577 bytes" in refusal(tmp_path)


def test_an_audio_member_that_swallows_the_next_one_is_found_by_prepare(tmp_path):
    """Its size in the tar is too large: the header of the audio says where it ends."""
    sound = io.BytesIO()
    soundfile.write(sound, np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 8000, format="WAV")
    both = sound.getvalue().ljust(-(-len(sound.getvalue()) // 512) * 512, b"\0") + b"b.wav".ljust(512, b"\1")
    make(tmp_path / "0.tar", ("a.wav", both + sound.getvalue()), ("a.txt", b"text"))
    (found,) = shards.utterances(tmp_path).values()
    assert [kind for kind, _ in inspect(found[0], Limits()).findings] == ["unread"]
