"""Where a corpus lies below the folder that a person names, its lines, and a dev split where it has none."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from asrtts.config import warn
from asrtts.data import held_out
from asrtts.data.diagnosis import is_dev, is_train
from asrtts.data.fetching import Archive
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError


def with_dev(splits: dict[str, list[Utterance]], root: Path) -> dict[str, list[Utterance]]:
    """The splits, with a dev split of training utterances if there is none; which is said."""
    train = [u for split in splits if is_train(split) for u in splits[split]]
    if len(train) < held_out.ONE_IN or any(is_dev(split) for split in splits):
        return splits
    parts = held_out.take(train)
    lost = len(train) - len(parts.train) - len(parts.dev)
    more = f"; {lost} training utterances that overlap with it are left out" if lost else ""
    warn(f"{root} has no dev: {parts.how}, {len(parts.dev)} of {len(train)}{more}")
    gone = set(map(id, train)) - set(map(id, parts.train))
    kept = {s: [u for u in utterances if id(u) not in gone] for s, utterances in splits.items()}
    return {**kept, "dev": parts.dev}


def find(root: Path, corpus: str, folders: Iterable[str], sign: str) -> Path | None:
    """The first folder among root/`folders` that holds `sign` (a glob), as an absolute path; None if there is none.

    `root` itself and `root/<corpus>` are both tried, since a folder of corpora has one folder for each.
    """
    for below in (Path(), Path(corpus)):
        for folder in folders:
            place = Path(os.path.abspath(Path(root) / below / folder))  # links stay: manifests name what the user named
            if next(place.glob(sign), None) is not None:
                return place
    return None


def packed(root: Path, corpus: str, archive: Archive) -> Path | None:
    """The archive's file in `root` or `root/<corpus>`, if it is there."""
    for place in (Path(root), Path(root) / corpus):
        if (place / archive.name).is_file():
            return place / archive.name
    return None


def missing(root: Path, corpus: str, wanted: str, archives: Iterable[Archive]) -> NoReturn:
    """Raise the UserError of a corpus that is not in `root`: what was looked for, and the command that gets it."""
    if not Path(root).is_dir():
        raise UserError(f"{root}: no such folder; get {corpus} with `asrtts download {corpus} {root}` (stage 0)")
    for archive in archives:
        if waiting := packed(root, corpus, archive):
            raise UserError(
                f"{waiting}: {corpus} is still packed; unpack it with "
                f"`asrtts download {corpus} downloads --corpus {root}` and name downloads instead"
            )
    raise UserError(f"{root}: no {corpus} here (looked for {wanted}); get it with `asrtts download {corpus} {root}`")


def recordings(folder: Path, below: str = "*") -> dict[str, Path]:
    """The flac and wav files of a folder (`below`: a glob) by their stems; where a file is there as both, the wav.

    Their endings may be in upper case. `._a.wav` is no sound: macOS keeps there what a foreign disk cannot hold.
    """
    paths = [p for p in folder.glob(below) if p.suffix.lower() in (".flac", ".wav") and not p.name.startswith("._")]
    return {path.stem: path for path in sorted(paths, key=lambda path: path.suffix.lower())}


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file of a corpus with their numbers, without blanks around them; empty lines are left out.

    The byte order mark of Windows editors is no part of an id (where such files were joined, it is on any line), and
    U+2028 and its like end no line.

    Raises:
        UserError: the file is missing, damaged or not UTF-8.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").replace("\n\ufeff", "\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the corpus is not complete, get it again (stage 0)") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        origin = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "gbk"
        raise UserError(f"{path}:{line}: not UTF-8; convert the file, e.g. `iconv -f {origin} -t utf-8`") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if "\0" in text:  # which a disk that lost its power leaves, too
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}:{line}: a zero byte; the file is damaged, or UTF-16 (`iconv -f utf-16le -t utf-8`)")
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
