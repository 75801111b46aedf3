"""Unpacking an archive from a stranger: plain files below one folder, and nothing else, whatever the archive says."""

from __future__ import annotations

import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from asrtts.registry import UserError

Report = Callable[[int, int], None]  # bytes done, bytes in all

_MARGIN = 64 << 20  # bytes that stay free on the disk


def unpack(archive: Path, folder: Path, inner: str = "", report: Report = lambda done, total: None) -> None:
    """Unpack a tar archive into `folder`: first beside it, then renamed into place, so a kill leaves no half corpus.

    Links become copies of the file they name, so that nothing on the disk points anywhere; owners and modes are not
    kept. Existing files of the same name are replaced, others stay.

    Args:
        inner: a glob, relative to `folder`, of archives within the archive; each is unpacked where it lies.
        report: is told the progress, in bytes of the packed archive.

    Raises:
        UserError: the archive is damaged, or the disk too small, or a member would leave the folder, is a device, or is
            a link that leaves the folder; the member is named and nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stage = folder / f".unpacking-{archive.name}"
    shutil.rmtree(stage, ignore_errors=True)  # of a run that was killed
    stage.mkdir()
    try:
        _extract(archive, stage, report)
        for packed in sorted(stage.glob(inner)) if inner else []:
            _extract(packed, packed.parent)
            packed.unlink()
        _settle(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _extract(archive: Path, folder: Path, report: Report = lambda done, total: None) -> None:
    total = archive.stat().st_size
    try:
        with open(archive, "rb") as packed, tarfile.open(fileobj=packed, mode="r:*") as members:
            for member in members:
                _place(members, member, folder, archive)
                report(packed.tell(), total)
            assert members.fileobj is not None
            while members.fileobj.read(1 << 20):  # a gzip's checksum stands behind the tar's own end
                pass
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).partition(":")[0] or type(error).__name__  # behind the colon: how each format failed
        raise UserError(f"{archive}: damaged archive ({reason}); delete it and get it again") from None
    except OSError as error:  # gzip.BadGzipFile is one too
        raise UserError(f"{archive}: cannot be unpacked in {folder} ({error})") from None
    report(total, total)


def _place(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, archive: Path) -> None:
    """Write one member. Only files and folders are ever made, so no earlier member can lead a later one away."""
    goal = folder / _inside(member.name, archive, member)
    if member.isdir():
        goal.mkdir(parents=True, exist_ok=True)
        return
    goal.parent.mkdir(parents=True, exist_ok=True)
    if member.issym() or member.islnk():
        beside = PurePosixPath(member.name).parent if member.issym() else PurePosixPath()
        source = folder / _inside(str(beside / member.linkname), archive, member)
        if not source.is_file():
            raise UserError(f"{archive}: {member.name} is a link to {member.linkname}, which the archive does not hold")
        if source != goal:
            shutil.copyfile(source, goal)
        return
    content: BinaryIO | None = members.extractfile(member) if member.isreg() else None  # type: ignore[assignment]
    if content is None:
        raise UserError(f"{archive}: {member.name} is a device or pipe, which no corpus has; nothing was unpacked")
    free = shutil.disk_usage(folder).free
    if member.size > free - _MARGIN:
        raise UserError(
            f"{archive}: {member.name} needs {(member.size + _MARGIN) / 1e6:.0f} MB in {folder.parent}, "
            f"where {free / 1e6:.0f} MB are free; make room and run the same command again"
        )
    with content, open(goal, "wb") as out:
        shutil.copyfileobj(content, out, 1 << 20)


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


def _settle(stage: Path, folder: Path) -> None:
    """Move what was unpacked into place; a folder that is new there arrives whole, by one rename."""
    for path in sorted(stage.iterdir()):
        goal = folder / path.name
        if path.is_dir() and goal.is_dir() and not goal.is_symlink():
            _settle(path, goal)
        elif path.is_dir() and (goal.exists() or goal.is_symlink()):
            raise UserError(f"{goal}: is in the way of a folder of the archive; move it away")
        else:
            os.replace(path, goal)
