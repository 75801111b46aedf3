"""Files that are whole or not there, and one line for a damaged one or a disk that is full or must not be written."""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import suppress
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
