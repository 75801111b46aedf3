"""The sentences of a text for a language model: of a manifest, of a file with one a line, or of a Kaldi text file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from asrtts.config import warn
from asrtts.data import manifest
from asrtts.registry import UserError
from asrtts.text import normalization, text_file

_ID = re.compile(r"(?=.*[0-9])(?=.*[^\W\d]|.*-).{4,}")  # 1089-134686-0000, BAC009S0002W0122
_TRN_ID = re.compile(r"\(\S+\)")
_FIRST_LINES = 200  # among which an ARPA file has \data\; what stands before is a comment


def read(path: Path) -> list[str]:
    """The sentences, in the form of `normalization.plain`.

    A file that begins with `{` is a manifest. Of a Kaldi `text` file the ids are cut off; so are those that other text
    files have before or behind every sentence, with a warning.

    Raises:
        UserError: it is none of these; the file and the line are named.
    """
    path = locate(path)
    with text_file.opened(path, "text") as lines:
        listed = [line.rstrip("\n") for line in lines]
    if zero := next((number for number, line in enumerate(listed, 1) if "\0" in line), None):
        raise UserError(f"{path}:{zero}: a zero byte; the file is damaged, or no text")
    if _is_arpa(listed):
        raise UserError(f"{path}: an ARPA file, where a text is wanted; name the text that it was made from")
    begins = next((line for line in listed if line.strip()), "")
    if path.suffix == ".jsonl" or (begins.lstrip().startswith("{") and not _is_named_as_text(path)):
        listed = [
            manifest.parse(line, f"{path}:{number}").text for number, line in enumerate(listed, 1) if line.strip()
        ]
    else:
        listed = _without_ids(listed, path)
    return [normalization.plain(line) for line in listed]


def locate(path: Path) -> Path:
    """The file of a text, a manifest or an ARPA file. Raises UserError, with the nearest name, if there is none."""
    path = Path(path)
    if path.is_dir() and (path / "text").is_file() and not path.with_name(path.name + ".jsonl").is_file():
        return path / "text"
    if path.is_file():
        return path
    if _is_named_as_text(path):
        raise UserError(f"{path}: no such text")
    if is_arpa(path):
        raise UserError(f"{path}: no such ARPA file")
    return manifest.locate(path)


def _is_named_as_text(path: Path) -> bool:
    return text_file.uncompressed_name(path).suffix.lower() in (".txt", ".text")


def is_arpa(path: Path) -> bool:
    """Whether a file is an ARPA file, by its name or by what is in it."""
    path = Path(path)
    if text_file.uncompressed_name(path).suffix.lower() == ".arpa":
        return True
    if path.suffix == ".jsonl" or not path.is_file():
        return False
    with text_file.opened(path, "text") as lines:
        return _is_arpa([line[:10] for line in islice(lines, _FIRST_LINES)])


def _is_arpa(lines: Sequence[str]) -> bool:
    return any(line.strip() == "\\data\\" for line in lines[:_FIRST_LINES])


def _without_ids(lines: list[str], path: Path) -> list[str]:
    """Lines without the ids of utterances."""
    written = [line.split(maxsplit=1) for line in lines if line.strip()]
    first = [fields[0] for fields in written]
    last = [line.split()[-1] for line in lines if line.strip()]
    are_different, is_kaldi = len(set(first)) == len(first), text_file.uncompressed_name(path).name == "text"
    looks_like_ids = len(first) > 1 and all(map(_ID.fullmatch, first))
    if are_different and (is_kaldi or looks_like_ids):
        if not is_kaldi:
            warn(f"{path}: every line begins with another word, such as {first[0]}: taken for ids and cut off")
        return ["".join(line.split(maxsplit=1)[1:]) for line in lines]
    if len(set(last)) == len(last) > 1 and all(map(_TRN_ID.fullmatch, last)):
        warn(f"{path}: every line ends with another id, such as {last[0]}: they are cut off")
        return [line.rstrip()[: line.rstrip().rfind("(")] for line in lines]
    return lines
