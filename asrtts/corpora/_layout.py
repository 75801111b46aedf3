"""Where a corpus lies below the folder that a person names: itself, its parent, or the folder above."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from asrtts.registry import UserError


def find(root: Path, corpus: str, folders: Iterable[str], sign: str) -> Path | None:
    """The first folder among root/`folders` that holds `sign` (a glob), as an absolute path; None if there is none.

    `root` itself and `root/<corpus>` are both tried, since a folder of corpora has one folder for each.
    """
    folders = list(folders)
    for below in (Path(), Path(corpus)):
        for folder in folders:
            place = Path(
                os.path.abspath(Path(root) / below / folder)
            )  # links stay: a manifest names what the user named
            if next(place.glob(sign), None) is not None:
                return place
    return None


def locate(root: Path, corpus: str, folders: Iterable[str], sign: str, archives: str) -> Path:
    """Like `find`, where the corpus must be there.

    Raises:
        UserError: it is not; the line says what was looked for, whether an archive waits to be unpacked, and the
            command that gets it.
    """
    folders = list(folders)
    place = find(root, corpus, folders, sign)
    if place is not None:
        return place
    if not Path(root).is_dir():
        raise UserError(f"{root}: no such folder; get {corpus} with `asrtts download {corpus} {root}` (stage 0)")
    packed = find(root, corpus, [""], archives)
    if packed is not None:
        archive = sorted(packed.glob(archives))[0]
        raise UserError(
            f"{archive}: {corpus} is still packed; unpack it with "
            f"`asrtts download {corpus} downloads --corpus {root}` and name that folder"
        )
    wanted = " or ".join(str(Path(folder) / sign) for folder in folders)
    raise UserError(f"{root}: no {corpus} here (looked for {wanted}); get it with `asrtts download {corpus} {root}`")


def read_lines(path: Path) -> list[str]:
    """The lines of a text file of a corpus, without line ends. Raises UserError if it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the corpus is not complete, get it again (stage 0)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
