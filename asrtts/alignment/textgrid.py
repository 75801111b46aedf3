"""Praat's TextGrid, which the Montreal Forced Aligner writes: one file for each utterance, named by its utt_id."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from asrtts.alignment.intervals import Alignment, Interval
from asrtts.registry import UserError

WORDS = "words"  # the tier
# As other aligners call it: the Penn aligner, WebMAUS. With a speaker, MFA calls it "anna - words".
NAMES = (WORDS, "word", "ort-mau")
SUFFIX = ".TextGrid"

# The first value of a text file, long or short; some programs write of which of both it is.
_HEADERS = ("ooTextFile", "ooTextFile short")

# Long and short format are the same values; the long one has names before them and numbers in brackets.
_VALUE = re.compile(r'"((?:[^"]|"")*)"|(?<![\w."\[])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w"])')


def file_name(utt_id: str) -> str:
    """The name of an utterance's TextGrid; slashes would be folders."""
    return name_of(utt_id) + SUFFIX


def name_of(utt_id: str) -> str:
    return utt_id.replace("/", "_")


def text(alignment: Alignment) -> str:
    """The words and the phones as two tiers, pauses as empty intervals."""
    tiers = {WORDS: alignment.words, "phones": alignment.phones}
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {alignment.seconds:.4f}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        whole = list(_without_gaps(intervals, alignment.seconds))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += [
            "        xmin = 0",
            f"        xmax = {alignment.seconds:.4f}",
            f"        intervals: size = {len(whole)}",
        ]
        for place, (label, start, end) in enumerate(whole, 1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.4f}",
                f"            xmax = {end:.4f}",
            ]
            lines += ['            text = "' + label.replace('"', '""') + '"']
    return "\n".join(lines) + "\n"


def _without_gaps(intervals: list[Interval], seconds: float) -> Iterator[Interval]:
    """With what is between them as empty intervals, as Praat wants it."""
    at = 0.0
    for interval in intervals:
        if round(interval.start, 4) > round(at, 4):
            yield Interval("", at, interval.start)
        yield interval
        at = interval.end
    if round(seconds, 4) > round(at, 4) or not intervals:
        yield Interval("", at, seconds)


def is_one(path: Path) -> bool:
    """Whether the name of a file is that of a TextGrid."""
    return path.suffix.lower() == SUFFIX.lower() and not path.name.startswith(
        "._"
    )  # macOS keeps what it knows of a file beside it


def read_words(path: Path) -> dict[str, list[tuple[str, float]]]:
    """The labels of every utterance and the seconds where each ends, from a TextGrid, or those in a folder and below.

    Empty labels are left out; marks of pauses and noises are not: see `emission.spoken`.

    Raises:
        UserError: there are none, one is damaged, has no tier of words, or two are of one utterance.
    """
    words_of: dict[str, list[tuple[str, float]]] = {}
    names: set[str] = set()
    for file in [path] if path.is_file() else sorted(filter(is_one, path.rglob("*"))):
        name = unicodedata.normalize("NFC", file.stem)
        if name in names:
            raise UserError(f"{file}: {path} holds two TextGrids of utterance {file.stem}; leave one of them")
        names.add(name)
        tiers = parse(_decoded(file), str(file))
        plain = {name: name.strip().casefold().rpartition(" - ")[2] for name in tiers}
        chosen = next((name for name in NAMES if name in plain.values()), None)
        words = [tier for name, tier in tiers.items() if plain[name] == chosen]
        if not words:
            raise UserError(f"{file}: wanted a tier of intervals named `{WORDS}`, found {', '.join(tiers) or 'none'}")
        labels = [(label.strip(), end) for tier in words for label, _, end in tier if label.strip()]
        words_of[file.stem] = sorted(labels, key=itemgetter(1))
    if not words_of:
        raise UserError(f"{path}: no TextGrid in it or below it; wanted a CTM file, or a folder of <utt_id>.TextGrid")
    return words_of


def parse(written: str, where: str) -> dict[str, list[Interval]]:
    """The tiers of intervals in a TextGrid of the long or the short format; tiers of one name are one.

    Raises UserError, naming `where`, if it is none.
    """
    if written.lstrip().startswith('"Praat chronological TextGrid'):
        raise UserError(
            f"{where}: a chronological TextGrid; save it in Praat with Save as text file or short text file"
        )
    values = (
        (match[1].replace('""', '"') if match[1] is not None else float(match[2])) for match in _VALUE.finditer(written)
    )
    try:
        tiers: dict[str, list[Interval]] = {}
        for name, intervals in _tiers(values):
            tiers.setdefault(name, []).extend(intervals)
        return tiers
    except (StopIteration, RuntimeError, ValueError, OverflowError):  # a generator makes one of the other
        raise UserError(f"{where}: no TextGrid, or one cut off; make it again") from None


def _tiers(values: Iterator[str | float]) -> Iterator[tuple[str, list[Interval]]]:
    if next(values) not in _HEADERS or next(values) != "TextGrid":
        raise ValueError
    _, _, tiers = (_number(next(values)) for _ in range(3))
    for _ in range(int(tiers)):
        kind, name, _, _, size = (next(values) for _ in range(5))
        rows = [[next(values) for _ in range(3 if kind == "IntervalTier" else 2)] for _ in range(int(_number(size)))]
        if kind == "IntervalTier":
            yield _label(name), [Interval(_label(row[2]), _number(row[0]), _number(row[1])) for row in rows]


def _number(value: str | float) -> float:
    if not isinstance(value, float):
        raise ValueError
    return value


def _label(value: str | float) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _decoded(path: Path) -> str:
    """Praat writes UTF-8, or UTF-16 with a byte order mark where letters need it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if data.startswith(b"ooBinaryFile"):
        raise UserError(f"{path}: a binary TextGrid; save it in Praat with Save as text file")
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: neither UTF-8 nor UTF-16 with a byte order mark; convert it, e.g. `iconv -f latin1 -t utf8`"
        ) from None
