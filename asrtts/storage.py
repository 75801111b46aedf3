"""Files that are whole or not there, and one line for a damaged one or a disk that is full or must not be written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from asrtts.registry import UserError

# What a disk or its owner refuses, in whatever line of ours it shows; any other OSError is a mistake of ours.
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

DEEPEST = 50  # lists and objects within each other; nothing of ours has more than four


def write(goal: Path, text: str) -> None:
    """Write a text beside its goal and rename it. Raises UserError, and the goal is as it was."""
    beside = goal.with_name(goal.name + ".part")
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path may hold other bytes
        os.replace(beside, goal)
    except OSError as error:
        remove(beside)
        raise storage_error(goal, error) from None


def parse_json(text: bytes | str) -> Any:
    """What a text says as JSON. Raises ValueError if it is none, or nested so deeply that Python would give up."""
    text = text if isinstance(text, str) else text.decode("utf-8-sig", "surrogatepass")
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > DEEPEST and _is_deeper(values, DEEPEST):
        raise ValueError("nested too deeply")  # or it would be the first error message that shows them that gives up
    return values


def _is_deeper(values: Any, most: int) -> bool:
    level = [values]
    for _ in range(most + 1):
        holders = [value for value in level if isinstance(value, (dict, list))]
        level = [v for value in holders for v in (value.values() if isinstance(value, dict) else value)]
    return bool(holders)


def json_object(text: bytes | str, where: str, mend: str) -> dict[str, Any]:
    """An object that we wrote as JSON. Raises UserError, with what mends it, if it is none any more."""
    try:
        values = parse_json(text)
    except ValueError as error:  # no JSON, or no UTF-8
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise UserError(f"{where}: not JSON ({reason}); {mend}") from None
    if not isinstance(values, dict):
        raise UserError(f"{where}: wanted an object, found {values!r:.60}; {mend}")
    return values


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Nobody else trains in the folder meanwhile; whoever held it and was killed does no longer.

    The lock is on the folder itself, which is made if need be: so two that begin it at the same moment exclude each
    other too, and no file of a lock is left behind.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    lock = _lock(folder)
    try:
        yield
    finally:
        if _is_at(folder, lock):
            with suppress(OSError):
                folder.rmdir()  # goes only if it is empty: nothing was begun
        os.close(lock)


def _lock(folder: Path) -> int:
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise storage_error(folder, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(lock)
            os.close(lock)
            raise UserError(
                f"{folder}: another process{holder} is training here; wait for it, or train into a new folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        if _is_at(folder, lock):
            return lock
        os.close(lock)  # another process threw the folder away, between our opening and locking it


def _is_at(folder: Path, lock: int) -> bool:
    return folder.exists() and os.path.samestat(folder.stat(), os.fstat(lock))


def _holder(lock: int) -> str:
    """` (pid 1234)` where Linux tells who holds a lock."""
    stat = os.fstat(lock)
    place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    with suppress(OSError):
        for fields in map(str.split, Path("/proc/locks").read_text(encoding="ascii").splitlines()):
            if fields[1] == "FLOCK" and fields[5] == place:
                return f" (pid {fields[4]})"
    return ""


def remove(path: Path) -> None:
    """Take away what is left of a file, as far as the disk lets us."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def refuse_unreadable(path: Path) -> None:
    """Raises UserError for a file that must not be read, which safetensors does not tell from a damaged one."""
    with suppress(FileNotFoundError, IsADirectoryError):
        try:
            open(path, "rb").close()
        except PermissionError:
            raise unreadable(path) from None


def unreadable(path: Path) -> UserError:
    return UserError(f"{path}: permission denied; ask its owner for the right to read it (chmod a+r)")


def storage_error(path: Path, error: Exception) -> UserError:
    """One line for a full or broken disk; safetensors tells of it in an exception of its own."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    if full:
        return UserError(f"{path}: the disk is full; free some space and run the same command, it goes on from there")
    rust = re.search(r"I/O error: (.*?) \(os error", str(error))
    reason = rust[1] if rust else getattr(error, "strerror", None) or error
    return UserError(f"{path}: cannot be written ({reason}); name a folder that can, or mend this one")
