"""What was worked out from a large manifest, kept beside it for as long as the manifest stays as it is.

`data/.train.jsonl.index` begins with what it knows the manifest by (size, time, inode, and a hash of both ends); bytes
follow. It is written whole. Where it is stale or damaged, or the folder cannot be written, the work is done again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from asrtts import storage

LARGE = 4 << 20  # bytes of a manifest; a smaller one is read in no time
END = 1 << 16  # bytes that are hashed at its beginning and its end
HEAD = 128  # bytes before the content: numbers of any size may be laid over what follows


def key(manifest: Path) -> str:
    """What changes whenever the manifest does."""
    digest = hashlib.blake2b(digest_size=16)
    with open(manifest, "rb") as file:
        stat = os.fstat(file.fileno())
        digest.update(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino} ".encode() + file.read(END))
        file.seek(max(0, stat.st_size - END))
        digest.update(file.read(END))
    return digest.hexdigest()


def remembered(manifest: Path, kind: str, work: Callable[[], bytes]) -> np.ndarray:
    """The bytes (N,) uint8 that `work` gives, or gave before for this very manifest: then they stay on the disk, and
    processes that read them share them."""
    if manifest.stat().st_size < LARGE:
        return np.frombuffer(work(), np.uint8)
    place, before = manifest.with_name(f".{manifest.name}.{kind}"), key(manifest)
    if (found := _load(place, before)) is not None:
        return found
    content = work()
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(_head(before, len(content)) + content)
        os.replace(part, place)
    except OSError:  # somebody else's folder, or a full disk
        storage.remove(part)
    found = _load(place, before)
    return np.frombuffer(content, np.uint8) if found is None else found


def _load(place: Path, wanted: str) -> np.ndarray | None:
    with suppress(OSError, ValueError):  # ValueError: nothing behind the head
        with open(place, "rb") as file:
            head = file.read(HEAD)
        size = place.stat().st_size - HEAD
        if head == _head(wanted, size):
            return np.asarray(np.memmap(place, np.uint8, "r", HEAD, (size,)))
    return None


def _head(key: str, size: int) -> bytes:
    return f"asrtts sidecar 1, {size} bytes of the manifest {key}\n".encode().ljust(HEAD)
