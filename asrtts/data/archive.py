"""Unpacking an archive from a stranger: plain files below one folder, and nothing else, whatever the archive says."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from asrtts import storage
from asrtts.data import tar_members
from asrtts.registry import UserError

Report = Callable[[int, int], None]  # bytes done, bytes in all

_MARGIN = 64 << 20  # bytes that stay free on the disk
_MOST, _BASE = 20, 100 << 20  # an archive may unpack to 20 times its size and 100 MB; audio and texts stay far below
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}  # by a file's first bytes


def unpack(archive: Path, folder: Path, inner: str = "", report: Report = lambda done, total: None) -> int:
    """Unpack a tar archive into `folder`: first beside it, then renamed into place, so a kill leaves no half corpus.

    Links become copies of the file they name, so that nothing on the disk points anywhere; owners and modes are not
    kept. Existing files of the same name are replaced, others stay. Archives that were joined are all unpacked.

    Args:
        inner: a glob, relative to `folder`, of archives within the archive; each is unpacked where it lies.
        report: is told the progress, in bytes of the packed archive.

    Returns:
        The number of files.

    Raises:
        UserError: the archive is damaged, or unpacks to far more than it is large; the disk is too small; or a member
            would leave the folder, is a device, or is a link that leaves the folder. The member is named and nothing
            is left behind.
    """
    with storage.staged(folder / archive.name) as stage:
        written = _extract(archive, stage, report)
        for packed in sorted(stage.glob(inner)) if inner else []:
            written |= _extract(packed, packed.parent)
            packed.unlink()
            written.discard(packed)
        try:
            _mark(folder, archive.name).touch()
            moved = _settle(stage, folder)
            _mark(folder, archive.name).unlink()
        except OSError as error:
            raise storage.storage_error(folder, error) from None
    if moved != len(written):
        raise UserError(
            f"{folder}: {moved} of the {len(written)} files of {archive} arrived; run the same command again"
        )
    return moved


def is_unfinished(folder: Path, name: str) -> bool:
    """Whether a run was killed while it moved the files of the archive `name` into place."""
    return _mark(folder, name).exists()


def _mark(folder: Path, name: str) -> Path:
    return folder / f".{name}.unfinished"


def _extract(archive: Path, folder: Path, report: Report = lambda done, total: None) -> set[Path]:
    """Write the members below `folder`; returns the files."""
    total = archive.stat().st_size
    most, copied = _MOST * total + _BASE, 0  # bytes; copied: of files that links name
    written: set[Path] = set()
    try:
        with open(archive, "rb") as packed:
            magic = packed.read(6)
            packed.seek(0)
            opener = next((opener for start, opener in _OPENERS.items() if magic.startswith(start)), None)
            with opener(packed, "rb") if opener else packed as unpacked:
                for tar, member in tar_members.members(unpacked, most):
                    if (file := _place(tar, member, folder, archive)) is not None:
                        written.add(file)
                        copied += 0 if member.isreg() else file.stat().st_size
                    if copied > most:
                        raise tar_members.TooLarge
                    report(packed.tell(), total)
    except tar_members.TooLarge:
        raise UserError(
            f"{archive}: unpacks to more than {_MOST} times its size, which no corpus does; get it again, or unpack it "
            "yourself and name the folder with --corpus"
        ) from None
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{archive}: damaged archive ({reason}); delete it and get it again") from None
    except OSError as error:
        if error.errno in storage.REFUSED:
            raise storage.storage_error(folder.parent, error) from None
        reason = error.strerror or error  # bz2 has no error of its own
        raise UserError(
            f"{archive}: cannot be unpacked in {folder.parent} ({reason}); delete it and get it again"
        ) from None
    report(total, total)
    return written


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, archive: Path) -> Path | None:
    """Write one member; returns the file, None for a folder.

    Only files and folders are ever made, so no earlier member can lead a later one away.
    """
    goal = folder / _inside(member.name, archive, member)
    if member.isdir():
        goal.mkdir(parents=True, exist_ok=True)
        return None
    goal.parent.mkdir(parents=True, exist_ok=True)
    if member.issym() or member.islnk():
        beside = PurePosixPath(member.name).parent if member.issym() else PurePosixPath()
        source = folder / _inside(str(beside / member.linkname), archive, member)
        if not source.is_file():
            raise UserError(f"{archive}: {member.name} is a link to {member.linkname}, which the archive does not hold")
        if source != goal:
            _refuse_too_large(source.stat().st_size, member, folder, archive)
            shutil.copyfile(source, goal)
        return goal
    regular = member.isreg() and not member.issparse()  # of a sparse file the holes may be as large as they like
    content: BinaryIO | None = tar.extractfile(member) if regular else None  # type: ignore[assignment]
    if content is None:
        raise UserError(
            f"{archive}: {member.name} is a device, a pipe or a sparse file, which no corpus has; nothing was unpacked"
        )
    _refuse_too_large(member.size, member, folder, archive)
    with content, open(goal, "wb") as out:
        shutil.copyfileobj(content, out, 1 << 20)
        if out.tell() != member.size:
            raise tarfile.ReadError(f"{member.name} has {out.tell()} of {member.size} bytes")
    return goal


def _refuse_too_large(size: int, member: tarfile.TarInfo, folder: Path, archive: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size > free - _MARGIN:
        raise UserError(
            f"{archive}: {member.name} needs {(size + _MARGIN) / 1e6:.0f} MB in {folder.parent}, "
            f"where {free / 1e6:.0f} MB are free; free some space and give the same command again"
        )


def _inside(name: str, archive: Path, member: tarfile.TarInfo) -> Path:
    """A member's name as a path that stays below the folder."""
    parts: list[str] = []
    path = PurePosixPath(name)
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    escapes = path.is_absolute() or ".." in parts or (".." in path.parts and not member.issym())
    if escapes or "\0" in name or "\\" in name or not (parts or member.isdir()):
        what = f"{member.name} -> {member.linkname}" if member.issym() or member.islnk() else member.name
        raise UserError(f"{archive}: {what!r} leads out of the folder; nothing was unpacked. Do not trust this archive")
    return Path(*parts)


def _settle(stage: Path, folder: Path) -> int:
    """Move what was unpacked into place; a folder that is new there arrives whole, by one rename. Returns the files."""
    moved = 0
    for path in sorted(stage.iterdir()):
        goal = folder / path.name
        if path.is_dir() and goal.is_dir() and not goal.is_symlink():
            moved += _settle(path, goal)
        elif path.is_dir() and (goal.exists() or goal.is_symlink()):
            raise UserError(f"{goal}: is in the way of a folder of the archive; move it away")
        else:
            os.replace(path, goal)
            moved += sum(len(files) for _, _, files in os.walk(goal)) if goal.is_dir() else 1
    return moved
