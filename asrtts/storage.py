"""Files that are whole or absent, locks, and the record that says what a finished stage was made from.

Everything is written beside its goal and renamed at the end. A full, read-only or broken disk is one line.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape as glob_escape
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
        make_folder(goal.parent)
        with _alone(beside):
            beside.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path may hold other bytes
            os.replace(beside, goal)
    except OSError as error:
        remove(beside)
        raise storage_error(goal, error) from None


def write_json(goal: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON, as `write` does."""
    write(goal, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def _alone(beside: Path) -> Iterator[None]:
    """Another process that writes the same file at the same moment waits until ours is renamed."""
    while True:
        lock = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(beside, lock):
                yield
                return
        finally:
            os.close(lock)


@contextmanager
def staged(goal: Path) -> Iterator[Path]:
    """A new folder beside `goal` into which this process alone writes; `goal` itself is not touched.

    Rename it, or what is in it, when it is whole. What is left at the end is deleted, and so are the folders of
    processes that were killed. Two processes with one goal have a folder each, so that neither sees half of the other.

    Raises:
        UserError: the folder cannot be made.
    """
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        _sweep(goal)
        beside, lock = _new_locked(goal)
    except OSError as error:
        raise storage_error(goal, error) from None
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        os.close(lock)


def _new_locked(goal: Path) -> tuple[Path, int]:
    while True:
        beside = goal.with_name(f".{goal.name[:200]}.{uuid.uuid4().hex[:12]}.part")
        beside.mkdir()
        with suppress(FileNotFoundError):  # swept before it was locked
            lock = os.open(beside, os.O_RDONLY)
            with suppress(OSError):  # waits for a process that is about to sweep it: then it is gone
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(beside, lock):
                return beside, lock
            os.close(lock)


def _sweep(goal: Path) -> None:
    """Delete the staged folders that nobody holds: whoever made them was killed."""
    for rest in goal.parent.glob(f".{glob_escape(goal.name[:200])}.*.part"):
        if not re.fullmatch(r"[0-9a-f]{12}", rest.name.split(".")[-2]) or rest.is_symlink() or not rest.is_dir():
            continue
        with suppress(OSError):  # gone, held by another process, or no locks here: then it may be in use
            lock = os.open(rest, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(rest, ignore_errors=True)
            finally:
                os.close(lock)


# What a finished stage was made from -------------------------------------------------------------------------------

MADE_FROM, FILES = "made_from", "files"


def finish(record: Path, made_from: Mapping[str, Any], files: Iterable[Path] = (), **facts: Any) -> None:
    """Write the record that ends a stage: `facts`, what it was made from, and the checksums of what it wrote.

    Args:
        record: e.g. EXP/decode/test.summary.json; written last of all.
        made_from: everything that decides the result: settings, versions, hashes of inputs; JSON values.
        files: what the stage wrote, below the record's folder.

    Raises:
        UserError: it cannot be written.
    """
    write_json(record, {**facts, MADE_FROM: dict(made_from), FILES: sums(record.parent, files)})


def finished(record: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a stage that ended before, if it is of the same inputs and its files are as they were written.

    None: the stage is to be done. A damaged record or file counts as none.
    """
    try:
        before = json_object(record.read_bytes(), str(record), "")
        whole = changed(before, made_from) is None and altered(record.parent, before) is None
    except (OSError, UserError):
        return None
    return before if whole else None


def changed(before: Mapping[str, Any], made_from: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first input of a record that is another now: its key, its value then and its value now."""
    then, now = before.get(MADE_FROM), json.loads(json.dumps(dict(made_from)))
    then = then if isinstance(then, dict) else {}
    return next(((key, then.get(key), now.get(key)) for key in {**now, **then} if then.get(key) != now.get(key)), None)


def sums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of each file by its path relative to the folder."""
    return {str(path.relative_to(folder)): checksum(path) for path in files}


def altered(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The first file of a record that is missing or not as it was written."""
    listed = record.get(FILES)
    for name, expected in (listed if isinstance(listed, dict) else {}).items():
        path = folder / name
        if not path.is_file() or checksum(path) != expected:
            return path
    return None


def short_hash(values: Any, digits: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of values as JSON, whatever the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:digits]


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lines(text: str) -> list[str]:
    """The lines of a text, which end at LF, CR LF or CR alone; `str.splitlines` cuts at ten more characters."""
    parts = re.split(r"\r\n|\n|\r", text)
    return parts if parts[-1] else parts[:-1]


# JSON --------------------------------------------------------------------------------------------------------------


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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; a link to a folder that is gone is made whole. Raises OSError."""
    Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)


# Locks -------------------------------------------------------------------------------------------------------------


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a folder: nobody else works in it meanwhile. The lock of a process that was killed is gone with it.

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
                if not is_here(goal := folder.resolve()):
                    goal.rmdir()  # goes only if it is empty: nothing was begun
        os.close(lock)


def _lock(folder: Path) -> int:
    while True:
        try:
            make_folder(folder)
            lock = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise storage_error(folder, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(lock)
            os.close(lock)
            raise UserError(
                f"{folder}: another process{holder} is working here; wait for it, or name another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        if _is_at(folder, lock):
            return lock
        os.close(lock)  # another process threw the folder away, between our opening and locking it


def _is_at(folder: Path, lock: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(lock))
    except OSError:
        return False


def _holder(lock: int) -> str:
    """` (pid 1234)` where Linux tells who holds a lock."""
    stat = os.fstat(lock)
    place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    with suppress(OSError):
        for fields in map(str.split, Path("/proc/locks").read_text(encoding="ascii").splitlines()):
            if fields[1] == "FLOCK" and fields[5] == place:
                return f" (pid {fields[4]})"
    return ""


# Folders and links -------------------------------------------------------------------------------------------------


def behind_links(folder: str | Path) -> Path:
    """The absolute path that symbolic links lead to, whether anything is there yet or not.

    Raises:
        UserError: a link leads to itself; the path is relative and the folder that we are in was deleted.
    """
    try:
        return Path(folder).resolve()
    except FileNotFoundError:
        raise UserError(f"{folder}: the folder you are in was deleted; change into one that exists (cd)") from None
    except (OSError, RuntimeError):  # Python says RuntimeError of a circle
        raise UserError(f"{folder}: the symbolic link leads to itself; delete it, or name another folder") from None


def is_here(folder: Path) -> bool:
    """Whether a resolved folder is the one we are in, or above it. One that was deleted is none."""
    try:
        return folder in (Path.cwd(), *Path.cwd().parents)
    except FileNotFoundError:
        return False


# Disks that refuse -------------------------------------------------------------------------------------------------


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
        return UserError(f"{path}: the disk is full; free some space and give the same command again")
    rust = re.search(r"I/O error: (.*?) \(os error", str(error))
    reason = rust[1] if rust else getattr(error, "strerror", None) or error
    return UserError(f"{path}: cannot be written ({reason}); name a folder that can, or mend this one")
