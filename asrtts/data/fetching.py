"""Getting a public archive: several mirrors, continued where it stopped, checked before it is used."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from asrtts import __version__
from asrtts.registry import UserError

Report = Callable[[int, int], None]  # bytes done, bytes in all

_SLOWEST = 1024  # bytes a second; a mirror below it is as good as stalled


@dataclass(frozen=True)
class Archive:
    """A file that a corpus is published as.

    The mirrors hold the same bytes; `checksums` ("sha256:..." or "md5:...") lists every published edition of them.
    """

    name: str
    mirrors: tuple[str, ...]  # folders' URLs; the name is appended
    checksums: tuple[str, ...]
    size: int = 0  # bytes; 0: not established
    unpacked: float = 1.2  # bytes unpacked for a packed one, for the disk check


class _MirrorFailed(Exception):
    """One mirror did not give the file; the next may."""


def fetch(
    archive: Archive,
    folder: Path,
    *,
    trust: str = "",
    report: Report = lambda done, total: None,
    stall: float = 30.0,
    rounds: int = 3,
) -> Path:
    """The archive in `folder`, downloaded unless it is there already.

    What has arrived lies in `<name>.part` and is continued by HTTP Range, also by another mirror, also after a kill.

    Args:
        trust: a checksum that is accepted too ("sha256:..."), for an archive that was published anew.
        stall: seconds without a kilobyte a second after which the next mirror is tried.
        rounds: how often all the mirrors are tried.

    Raises:
        UserError: no mirror gave the right bytes (each reason is named), or the disk is too small or full.
    """
    goal, part = folder / archive.name, folder / f"{archive.name}.part"
    if goal.is_file():
        _check(archive, goal, trust, lambda reason: UserError(f"{goal}: {reason}; delete it and run this again"))
        return goal
    folder.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    for attempt in range(rounds):
        time.sleep(min(2.0**attempt - 1, 10.0) * stall / 30)  # 0, 1, 3 s: a mirror may come back
        for mirror in archive.mirrors:
            url = f"{mirror.rstrip('/')}/{archive.name}"
            try:
                _transfer(url, part, archive, bool(trust), report, stall)
                _check(archive, part, trust, _MirrorFailed)
            except _MirrorFailed as failed:
                reasons[url] = str(failed)
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                    raise UserError(f"{part}: {error.strerror}; mend that and run this again, it continues") from None
                reasons[url] = _reason(error, stall)
            else:
                os.replace(part, goal)
                return goal
    tried = "; ".join(f"{urlsplit(url).netloc}: {reason}" for url, reason in reasons.items())
    raise UserError(
        f"{archive.name}: no mirror gave it ({tried}). The same command continues; "
        f"or get the file otherwise and put it into {folder}"
    )


def _transfer(url: str, part: Path, archive: Archive, any_size: bool, report: Report, stall: float) -> None:
    """Append to `part` until it is whole. Raises _MirrorFailed, OSError or HTTPException where this mirror fails."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"asrtts/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=stall)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise _MirrorFailed(f"HTTP {error.code}") from None
        if error.headers.get("Content-Range") != f"bytes */{have}":  # else nothing is left to send
            part.unlink()
            raise _MirrorFailed("what had arrived is not part of its file; begun anew") from None
        return
    with response:
        start, total = _extent(response, have)
        if archive.size and not any_size:
            if total and total != archive.size:
                raise _MirrorFailed(f"offers {total} bytes instead of {archive.size}")
            total = archive.size
        _room(archive, part.parent, start, total)
        with open(part, "r+b" if start else "wb") as out:
            out.seek(start)
            out.truncate()
            done = start
            since, counted = time.monotonic(), done
            while block := response.read1(1 << 16):
                out.write(block)
                done += len(block)
                report(done, total)
                waited = time.monotonic() - since
                if waited > stall:
                    if done - counted < _SLOWEST * waited:
                        raise _MirrorFailed(f"below {_SLOWEST} bytes a second at byte {done}")
                    since, counted = time.monotonic(), done
    if total and done != total:
        raise _MirrorFailed(f"broke off at byte {done} of {total}")


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int]:
    """Where the answer's first byte belongs, and the whole file's size (0: the server does not say)."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            raise _MirrorFailed("answers another range than was asked for")
        return have, 0 if match[2] == "*" else int(match[2])
    return 0, int(response.headers.get("Content-Length") or 0)  # it does not know ranges: all from the beginning


def _room(archive: Archive, folder: Path, start: int, total: int) -> None:
    size = total or archive.size
    needed, free = size - start + size * archive.unpacked, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {archive.name} needs {needed / 1e9:.2f} GB, packed and unpacked, and {free / 1e9:.2f} GB are "
            "free; make room or name another folder"
        )


def _check(archive: Archive, path: Path, trust: str, mistake: Callable[[str], Exception]) -> None:
    """Raise `mistake` unless the file has one of the checksums. A part that is whole but wrong is deleted."""
    accepted = (*archive.checksums, *([trust] if trust else []))
    found = {kind: digest(path, kind) for kind in sorted({c.partition(":")[0] for c in accepted})}
    if not any(found[kind] == value for kind, _, value in (c.partition(":") for c in accepted)):
        if path.suffix == ".part":
            path.unlink()
        seen = " ".join(f"{kind}:{value}" for kind, value in found.items())
        raise mistake(f"wrong bytes, {seen} instead of {' or '.join(accepted)} (if you know better: --trust)")


def digest(path: Path, kind: str) -> str:
    with open(path, "rb") as data:
        return hashlib.file_digest(data, kind).hexdigest()


def _reason(error: Exception, stall: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing for {stall:g} s"
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
