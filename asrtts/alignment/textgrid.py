"""Praat's TextGrid, which the Montreal Forced Aligner writes: an utterance a file, whose name is the utt_id."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from asrtts.alignment.intervals import Alignment, Interval
from asrtts.registry import UserError

WORDS = "words"  # the tier; with a speaker, MFA calls it "anna - words"
PAUSES = ("", "<eps>", "sil", "sp", "spn")  # what aligners write where nothing is said

# Long and short format are the same values; the long one has names before them and numbers in brackets.
_VALUE = re.compile(r'"((?:[^"]|"")*)"|(?<![\w."\[])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w"])')


def file_name(utt_id: str) -> str:
    """Of its TextGrid: slashes would be folders."""
    return f"{utt_id.replace('/', '_')}.TextGrid"


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


def read_words(folder: Path) -> dict[str, list[tuple[str, float]]]:
    """The words of every utterance and the seconds where each ends, from the TextGrids in a folder and below it.

    Raises:
        UserError: there are none, one is damaged, has no tier of words, or two are of one utterance.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for path in sorted(folder.rglob("*.TextGrid")):
        if path.stem in found:
            raise UserError(f"{path}: {folder} holds two TextGrids of utterance {path.stem}; leave one of them")
        tiers = parse(_decoded(path), str(path))
        words = [tier for name, tier in tiers.items() if name == WORDS or name.endswith(f" - {WORDS}")]
        if not words:
            raise UserError(f"{path}: wanted a tier of intervals named `{WORDS}`, found {', '.join(tiers) or 'none'}")
        spoken = [(label.strip(), end) for tier in words for label, _, end in tier if label.strip() not in PAUSES]
        found[path.stem] = sorted(spoken, key=itemgetter(1))
    if not found:
        raise UserError(f"{folder}: no TextGrid in it or below it; wanted a CTM file, or a folder of <utt_id>.TextGrid")
    return found


def parse(written: str, where: str) -> dict[str, list[Interval]]:
    """The tiers of intervals in a TextGrid of either format. Raises UserError, naming `where`, if it is none."""
    values = (
        (match[1].replace('""', '"') if match[1] is not None else float(match[2])) for match in _VALUE.finditer(written)
    )
    try:
        return dict(_tiers(values))
    except (StopIteration, RuntimeError, ValueError, OverflowError):  # a generator makes one of the other
        raise UserError(f"{where}: no TextGrid, or one cut off; make it again") from None


def _tiers(values: Iterator[str | float]) -> Iterator[tuple[str, list[Interval]]]:
    if [next(values), next(values)] != ["ooTextFile", "TextGrid"]:
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
    """Praat writes UTF-8, or UTF-16 with a mark where letters need it."""
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make it again") from None
