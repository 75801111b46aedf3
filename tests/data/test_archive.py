"""Unpacking: what is inside arrives; what wants out is refused by name and leaves nothing."""

from __future__ import annotations

import errno
import io
import tarfile
from pathlib import Path

import pytest

from asrtts.data import archive as archives
from asrtts.data.archive import unpack
from asrtts.registry import UserError


def pack(path: Path, *members: tuple[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def everything_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_files_and_folders_arrive_and_no_scaffold_stays(tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.tar.gz", ("c", special(tarfile.DIRTYPE)), ("c/x.txt", b"x"), ("./c/d/y.txt", b"y"))
    told: list[tuple[int, int]] = []
    unpack(packed, tmp_path / "out", report=lambda done, total: told.append((done, total)))
    assert everything_below(tmp_path / "out") == {"c", "c/x.txt", "c/d", "c/d/y.txt"}
    assert (tmp_path / "out/c/d/y.txt").read_bytes() == b"y"
    assert told[-1] == (packed.stat().st_size,) * 2


def test_two_archives_share_a_folder(tmp_path: Path) -> None:
    unpack(pack(tmp_path / "a.tar.gz", ("c/dev/1", b"1"), ("c/README", b"old")), tmp_path / "out")
    unpack(pack(tmp_path / "b.tar.gz", ("c/test/2", b"2"), ("c/README", b"new")), tmp_path / "out")
    assert {"c/dev/1", "c/test/2"} < everything_below(tmp_path / "out")
    assert (tmp_path / "out/c/README").read_bytes() == b"new"


def test_archives_within_the_archive_are_unpacked_too(tmp_path: Path) -> None:
    inner = pack(tmp_path / "S1.tar.gz", ("train/S1/u.wav", b"sound")).read_bytes()
    outer = pack(tmp_path / "o.tgz", ("data/wav/S1.tar.gz", inner), ("data/text", b"t"))
    unpack(outer, tmp_path / "out", "data/wav/*.tar.gz")
    assert (tmp_path / "out/data/wav/train/S1/u.wav").read_bytes() == b"sound"
    assert not (tmp_path / "out/data/wav/S1.tar.gz").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../evil.txt", b"x"),
        ("c/../../evil.txt", b"x"),
        ("/evil.txt", b"x"),
        ("c\\..\\evil.txt", b"x"),
        ("link", special(tarfile.SYMTYPE, "../evil.txt")),
        ("c/link", special(tarfile.SYMTYPE, "/etc/passwd")),
        ("link", special(tarfile.LNKTYPE, "../evil.txt")),
        ("link", special(tarfile.LNKTYPE, "/etc/passwd")),
        ("fifo", special(tarfile.FIFOTYPE)),
        ("device", special(tarfile.CHRTYPE)),
        ("device", special(tarfile.BLKTYPE)),
    ],
)
def test_a_member_that_is_not_a_file_inside_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes | tarfile.TarInfo
) -> None:
    packed = pack(tmp_path / "a.tar.gz", ("good.txt", b"x"), (name, content))
    with pytest.raises(UserError) as error:
        unpack(packed, tmp_path / "deep" / "out")
    assert repr(name)[1:-1] in str(error.value) and str(packed) in str(error.value)
    assert everything_below(tmp_path) == {"a.tar.gz", "deep", "deep/out"}


def test_writing_through_a_link_ends_inside(tmp_path: Path) -> None:
    """The old trick: a link to a folder, then a file "in" the link."""
    packed = pack(tmp_path / "a.tar.gz", ("d/x", b"x"), ("link", special(tarfile.SYMTYPE, "d")), ("link/evil", b"x"))
    with pytest.raises(UserError, match="link is a link to d, which the archive does not hold"):
        unpack(packed, tmp_path / "out")
    assert everything_below(tmp_path / "out") == set()


@pytest.mark.parametrize(("kind", "target"), [(tarfile.SYMTYPE, "../c/x"), (tarfile.LNKTYPE, "c/x")])
def test_a_link_inside_becomes_a_copy(tmp_path: Path, kind: bytes, target: str) -> None:
    unpack(pack(tmp_path / "a.tar.gz", ("c/x", b"x"), ("d/y", special(kind, target))), tmp_path / "out")
    copied = tmp_path / "out" / "d" / "y"
    assert copied.read_bytes() == b"x" and not copied.is_symlink() and copied.stat().st_nlink == 1


def test_inner_archives_are_held_to_the_same_rules(tmp_path: Path) -> None:
    inner = pack(tmp_path / "S1.tar.gz", ("../../../../evil", b"x")).read_bytes()
    (tmp_path / "S1.tar.gz").unlink()
    outer = pack(tmp_path / "o.tgz", ("wav/S1.tar.gz", inner))
    with pytest.raises(UserError, match="evil"):
        unpack(outer, tmp_path / "out", "wav/*.tar.gz")
    assert everything_below(tmp_path) == {"o.tgz", "out"}


def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    whole = pack(tmp_path / "w.tar.gz", ("c/x", bytes(range(256)) * 400), ("c/y", b"y" * 5000)).read_bytes()
    damaged = tmp_path / "a.tar.gz"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    cuts = [0, 5, 40, len(whole) // 2, len(whole) - 9, len(whole) - 1]
    for content in [*(whole[:n] for n in cuts), bytes(flipped), b"<html>no such file</html>" * 9]:
        damaged.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.tar\.gz: (damaged archive|cannot be unpacked)") as error:
            unpack(damaged, tmp_path / "out")
        assert "\n" not in str(error.value)
        assert everything_below(tmp_path / "out") == set()


def test_a_killed_run_does_not_disturb_the_next(tmp_path: Path) -> None:
    left = tmp_path / "out" / ".a.tar.gz.0123456789ab.part" / "c"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    unpack(pack(tmp_path / "a.tar.gz", ("c/x", b"x")), tmp_path / "out")
    assert everything_below(tmp_path / "out") == {"c", "c/x"}


def test_an_archive_larger_than_the_disk_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = archives._MARGIN + 1000

    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(UserError, match="c/x needs .* free some space"):
        unpack(pack(tmp_path / "a.tar.gz", ("c/x", bytes(100_000))), tmp_path / "out")
    assert everything_below(tmp_path / "out") == set()


def test_a_disk_that_is_full_at_the_last_moment_is_one_line_and_the_next_run_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(tmp_path / "a.tar.gz", ("c/x", b"x"), ("d", b"y"))
    unpack(packed, tmp_path / "out")
    assert not archives.is_unfinished(tmp_path / "out", "a.tar.gz")
    real = archives.os.replace

    def full(source: Path, goal: Path) -> None:
        if goal.name == "d":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, goal)

    monkeypatch.setattr(archives.os, "replace", full)
    with pytest.raises(UserError, match="the disk is full; free some space and give the same command again"):
        unpack(packed, tmp_path / "out")
    assert archives.is_unfinished(tmp_path / "out", "a.tar.gz")
    monkeypatch.undo()
    assert unpack(packed, tmp_path / "out") == 2
    assert not archives.is_unfinished(tmp_path / "out", "a.tar.gz")


def test_an_archive_that_asks_for_more_memory_than_there_is_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dictionary of xz may be 4 GiB by its header."""

    def hungry(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(archives.tar_members, "members", hungry)
    with pytest.raises(UserError, match=r"a.tar.gz: damaged archive .MemoryError"):
        unpack(pack(tmp_path / "a.tar.gz", ("c/x", b"x")), tmp_path / "out")


def test_links_that_multiply_a_file_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_BASE", 1 << 20)
    links = [(f"c/{n}", special(tarfile.LNKTYPE, "c/x")) for n in range(40)]
    packed = pack(tmp_path / "a.tar.gz", ("c/x", bytes(1 << 18)), *links)
    with pytest.raises(UserError, match="unpacks to more than 20 times its size"):
        unpack(packed, tmp_path / "out")
    assert everything_below(tmp_path / "out") == set()
