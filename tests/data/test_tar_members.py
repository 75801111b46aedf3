"""Tar files whose headers lie, and names in every dialect: bounded in memory, never silent, readable again."""

from __future__ import annotations

import bz2
import gzip
import io
import resource
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path

import pytest

from asrtts.corpora import shards
from asrtts.data import archive, audio, tar_members
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

NAMES = ["müller-01", "张三-01", "anna-01", "a/b.c/anna-02", "long/" * 30 + "ü" * 60, "x" * 99, "y" * 120]


def header(name: str, size: int, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A header block with a right checksum and whatever else is asked for."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size if 0 <= size < 8**11 else 0, kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT)[:512])
    if size < 0 or size >= 8**11:
        block[124:136] = (
            (bytes([0x80]) + size.to_bytes(11, "big")) if size > 0 else size.to_bytes(12, "big", signed=True)
        )
    for field, value in fields.items():
        place = {"digits": 124, "checksum": 148}[field]
        block[place : place + len(value)] = value
    if "checksum" not in fields:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar_of(*members: tuple[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


GOOD = [("b.wav", b"sound" * 300), ("b.txt", b"two words")]
END = bytes(1024)
GIGABYTES = 3 << 30
PAX = b"30 size=99999999999999999999\n"

LIES = {
    "a file larger than the archive": header("a.wav", GIGABYTES) + bytes(2048),
    "a text larger than the archive": header("a.txt", GIGABYTES) + bytes(2048),
    "a size in base 256": header("a.txt", 1 << 70) + bytes(2048),
    "a negative size": header("a.wav", -512) + END,
    "PAX records of gigabytes": header("p", GIGABYTES, b"x") + bytes(4096),
    "global PAX records of gigabytes": header("p", GIGABYTES, b"g") + bytes(4096),
    "a GNU name of gigabytes": header("././@LongLink", GIGABYTES, b"L") + bytes(4096),
    "a GNU link of gigabytes": header("././@LongLink", GIGABYTES, b"K") + bytes(4096),
    "a size in PAX records": header("p", len(PAX), b"x") + PAX.ljust(512, b"\0") + header("a.txt", 5) + END,
    "a sparse map without end": header("p", 80, b"x")
    + b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n26 GNU.sparse.name=a.txt\n".ljust(512, b"\0")
    + header("a.txt", 1 << 21)
    + b"9" * (1 << 21)
    + END,
    "letters for a size": header("a.wav", 0, digits=b"12x45z\0") + END,
    "a wrong checksum": header("a.wav", 0, checksum=b"0000012\0") + END,
}


@pytest.fixture
def bounded():
    """Half a gigabyte of address space more than there is: a lie that is believed ends in a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (512 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("first", [True, False])
def test_a_shard_with_a_header_that_lies_is_one_line(tmp_path, bounded, lie, first):
    good = b"" if first else tar_of(*GOOD)[:3072]
    (tmp_path / "0.tar").write_bytes(good + LIES[lie])
    with pytest.raises(UserError, match="0.tar: ") as error:
        shards.utterances(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("opener", [gzip.compress, bz2.compress, bytes])
def test_an_archive_with_a_header_that_lies_leaves_nothing(tmp_path, bounded, lie, opener):
    (tmp_path / "a.tgz").write_bytes(opener(tar_of(*GOOD)[:3072] + LIES[lie]))
    with pytest.raises(UserError, match="a.tgz: ") as error:
        archive.unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert "\n" not in str(error.value) and list((tmp_path / "out").iterdir()) == []


def test_a_small_archive_that_unpacks_to_gigabytes_is_stopped_soon(tmp_path, monkeypatch, bounded):
    monkeypatch.setattr(archive, "_BASE", 1 << 20)
    for content in (tar_of(("a.wav", bytes(8 << 20))), tar_of(("a.wav", b"1")) + bytes(8 << 20)):
        (tmp_path / "a.tgz").write_bytes(gzip.compress(content))
        with pytest.raises(UserError, match="unpacks to more than 20 times its size"):
            archive.unpack(tmp_path / "a.tgz", tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


def test_a_sparse_file_is_refused(tmp_path):
    block = bytearray(header("a.wav", 512, b"S"))
    block[386:410] = b"%011o\0%011o\0" % (0, 512)
    block[483:495] = b"%011o\0" % (1 << 32)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(bytes(block) + bytes(512) + END)
    with pytest.raises(UserError, match="a.wav is a device, a pipe or a sparse file"):
        archive.unpack(tmp_path / "a.tar", tmp_path / "out")


# What follows the first archive


@pytest.mark.parametrize("opener", [gzip.compress, bz2.compress, bytes])
def test_joined_archives_are_all_unpacked(tmp_path, opener):
    one, two = tar_of(("c/x", b"x")), tar_of(("c/y", b"y"), ("c/z", b"z"))
    for content in (opener(one) + opener(two), opener(one + two), opener(one[:1024] + two)):
        (tmp_path / "a.tar").write_bytes(content)
        assert archive.unpack(tmp_path / "a.tar", tmp_path / "out") == 3
        assert {p.name for p in (tmp_path / "out" / "c").iterdir()} == {"x", "y", "z"}
        for path in (tmp_path / "out" / "c").iterdir():
            path.unlink()


def test_joined_shards_are_all_read(tmp_path):
    (tmp_path / "0.tar").write_bytes(tar_of(*GOOD) + tar_of(("c.wav", b"1"), ("c.txt", b"2")))
    (found,) = shards.utterances(tmp_path).values()
    assert [u.utt_id for u in found] == ["b", "c"]


@pytest.mark.parametrize("junk", [b"x" * 512, b"<html>" * 200])
def test_what_follows_and_is_no_archive_is_told(tmp_path, junk):
    (tmp_path / "0.tar").write_bytes(tar_of(*GOOD) + junk)
    with pytest.raises(UserError, match="no header of a member at byte"):
        shards.utterances(tmp_path)
    with pytest.raises(UserError, match="damaged archive .no header of a member"):
        archive.unpack(tmp_path / "0.tar", tmp_path / "out")


@pytest.mark.parametrize("left", [512, 1536, 3072, 3500])
def test_a_tar_that_was_cut_anywhere_is_told(tmp_path, left):
    (tmp_path / "0.tar").write_bytes(tar_of(*GOOD)[:left])
    with pytest.raises(UserError, match="damaged archive"):
        archive.unpack(tmp_path / "0.tar", tmp_path / "out")
    with pytest.raises(UserError, match="cut short"):
        shards.utterances(tmp_path)


# Names


def by_gnu_tar(folder: Path, form: str) -> bytes:
    """What GNU tar makes of files with these names, in their order."""
    for name in NAMES:
        for suffix, content in ((".wav", name.encode()), (".txt", b"text")):
            path = folder / (name + suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    names = [name + suffix for name in NAMES for suffix in (".wav", ".txt")]
    return subprocess.run(["tar", "-cf", "-", f"--format={form}", *names], cwd=folder, capture_output=True).stdout


@pytest.mark.parametrize("writer", ["python pax", "python gnu", "python ustar", "gnu", "posix", "oldgnu"])
def test_every_name_is_read_back_whoever_wrote_the_shard(tmp_path, writer):
    forms = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}
    names = [name for name in NAMES if "ustar" not in writer or len(name.rpartition("/")[2].encode()) < 96]
    members = [(name + suffix, name.encode()) for name in names for suffix in (".wav", ".txt")]
    if writer.startswith("python"):
        data = tar_of(*members, form=forms[writer.split()[1]])
    else:
        try:
            data = by_gnu_tar(tmp_path / "files", writer)
        except FileNotFoundError:
            pytest.skip("no tar here")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.tar").write_bytes(data)
    (found,) = shards.utterances(tmp_path / "in").values()
    assert [u.utt_id for u in found] == names
    for u in found:
        assert audio.stored(u).getvalue() == u.utt_id.encode()


def test_a_name_that_another_system_wrote_in_another_form_is_the_same(tmp_path):
    """macOS decomposes letters with marks; the ids of a manifest are composed."""
    apart = unicodedata.normalize("NFD", "müller")
    (tmp_path / "0.tar").write_bytes(tar_of((f"{apart}.wav", b"sound"), ("müller.txt", b"text")))
    (found,) = shards.utterances(tmp_path).values()
    assert [u.text for u in found] == ["text"]
    for utt_id in ("müller", apart):
        place = {"offset": found[0].offset, "size": found[0].size}
        assert audio.stored(Utterance(utt_id, found[0].audio, "", **place)).getvalue() == b"sound"


def test_a_name_is_that_of_the_member_at_the_place_and_of_no_other():
    data = io.BytesIO(tar_of(("müller.wav", b"1" * 700), ("张.wav", b"2" * 700)))
    places = [member.offset_data for _, member in tar_members.members(data)]
    assert [tar_members.name_before(data, place) for place in places] == [("müller.wav", 700), ("张.wav", 700)]
    for place in range(0, len(data.getvalue()), 256):
        assert place in places or tar_members.name_before(data, place) is None


def test_the_interpreter_that_reads_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import asrtts.data.tar_members, asrtts.data.sound_files"
    subprocess.run([sys.executable, "-c", code], check=True)
