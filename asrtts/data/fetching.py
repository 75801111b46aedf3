"""Getting a public archive: several mirrors, continued where it stopped, checked before it is used."""

from __future__ import annotations

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

from asrtts import __version__, storage
from asrtts.registry import UserError

Report = Callable[[int, int], None]  # bytes done, bytes in all

_SLOWEST = 1024  # bytes a second; a mirror below it is as good as stalled
_MARGIN = 64 << 20  # bytes that stay free on the disk
_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)


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
                _transfer(url, part, archive, trust, report, stall)
                _check(archive, part, trust, _MirrorFailed)
            except _MirrorFailed as failed:
                reasons[url] = str(failed)
            except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: of headers that lie
                if getattr(error, "errno", None) in storage.REFUSED:
                    raise storage.storage_error(part, error) from None
                reasons[url] = _reason(error, stall)
            else:
                os.replace(part, goal)
                return goal
    tried = "; ".join(f"{urlsplit(url).netloc}: {reason}" for url, reason in reasons.items())
    raise UserError(
        f"{archive.name}: no mirror gave it ({tried}). The same command resumes; "
        f"or get the file otherwise and put it into {folder}"
    )


def _transfer(url: str, part: Path, archive: Archive, trust: str, report: Report, stall: float) -> None:
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
        match = re.fullmatch(r"bytes \*/(\d{1,18})", error.headers.get("Content-Range", ""))
        size = archive.size if archive.size and not trust else int(match[1]) if match else have + 1
        if size > have:  # the server is wrong
            raise _MirrorFailed("HTTP 416") from None
        if size < have:
            part.unlink()
            raise _MirrorFailed("what had arrived is not part of its file; it begins again") from None
        return  # nothing is left to send
    with response:
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise _MirrorFailed("answers a web page instead of the file")
        start, total = _extent(response, have)
        if archive.size and not trust:
            if total and total != archive.size:
                raise _MirrorFailed(f"offers {total} bytes instead of {archive.size}")
            total = archive.size
        _room(archive, part.parent, start, total)
        most = total or start + shutil.disk_usage(part.parent).free - _MARGIN  # of a server that never ends
        block = response.read1(1 << 16)
        if not start and _PAGE.match(block):  # said before what has arrived is overwritten
            raise _MirrorFailed("answers a web page instead of the file")
        with open(part, "r+b" if start else "wb") as out:
            out.seek(start)
            out.truncate()
            done = start
            since, counted = time.monotonic(), done
            while block:
                if done + len(block) > most:
                    raise _MirrorFailed(f"sends more than {most} bytes")
                out.write(block)
                done += len(block)
                report(done, total)
                waited = time.monotonic() - since
                if waited > stall:
                    if done - counted < _SLOWEST * waited:
                        raise _MirrorFailed(f"below {_SLOWEST} bytes a second at byte {done}")
                    since, counted = time.monotonic(), done
                block = response.read1(1 << 16)
    if total and done != total and (archive.size or not _is_accepted(_sums(archive, part, trust))):
        raise _MirrorFailed(f"broke off at byte {done} of {total}")


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int]:
    """Where the answer's first byte belongs, and the whole file's size (0: the server does not say)."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            raise _MirrorFailed("answers another range than was asked for")
        total = 0 if match[2] == "*" else int(match[2])
        if total and total <= have:
            raise _MirrorFailed(f"offers {total} bytes, {have} have arrived before")
        return have, total
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else 0  # no ranges known: all from the beginning


def _room(archive: Archive, folder: Path, start: int, total: int) -> None:
    """Raise where the disk is too small: UserError by the published size, _MirrorFailed by what a server claims."""
    size = total or archive.size
    needed, free = size - start + size * archive.unpacked, shutil.disk_usage(folder).free
    if needed > free:
        room = f"needs {needed / 1e9:.2f} GB, packed and unpacked, and {free / 1e9:.2f} GB are free"
        if size != archive.size:
            raise _MirrorFailed(f"offers {total} bytes: it {room}")
        raise UserError(f"{folder}: {archive.name} {room}; free some space, or name another folder")


def _check(archive: Archive, path: Path, trust: str, mistake: Callable[[str], Exception]) -> None:
    """Raise `mistake` unless the file has one of the checksums. A part that is whole but wrong is deleted."""
    actual = _sums(archive, path, trust)
    if not _is_accepted(actual):
        if path.suffix == ".part":
            path.unlink()
        seen = " ".join(dict.fromkeys(f"{kind}:{value}" for (kind, _), value in actual.items()))
        wanted = " or ".join(f"{kind}:{value}" for kind, value in actual)
        raise mistake(f"wrong bytes, {seen} instead of {wanted} (if you know better: --trust)")


def _sums(archive: Archive, path: Path, trust: str) -> dict[tuple[str, str], str]:
    """(kind, value) of every accepted checksum -> what the file has."""
    accepted = [tuple(c.split(":", 1)) for c in (*archive.checksums, *([trust] if trust else []))]
    actual = {kind: digest(path, kind) for kind in sorted({kind for kind, _ in accepted})}
    return {(kind, value): actual[kind] for kind, value in accepted}


def _is_accepted(sums: dict[tuple[str, str], str]) -> bool:
    return any(value == actual for (_, value), actual in sums.items())


def digest(path: Path, kind: str) -> str:
    with open(path, "rb") as data:
        return hashlib.file_digest(data, kind).hexdigest()


def _reason(error: Exception, stall: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing for {stall:g} s"
    text = " ".join(str(getattr(cause, "strerror", None) or cause).split())  # what a server sent may have line ends
    return f"{text:.200}" or type(cause).__name__
