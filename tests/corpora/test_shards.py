"""The corpus `shards`: folders, texts and speakers, and each way in which a shard can be wrong."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from asrtts.corpora import shards
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
