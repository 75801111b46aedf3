"""NIST sclite's result.txt: sums by speaker, the most frequent confusions, every alignment."""

from __future__ import annotations

import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from asrtts.metrics.error_rate import Tally, tally

_NO_ID = re.compile(r"[\s()\x00-\x1f]|%(?=[0-9A-F]{2})")  # and what would read as one that was replaced


@dataclass(frozen=True)
class Scored:
    """One aligned utterance. `speaker` is never empty here: sclite's tables have a row for each."""

    utt_id: str
    speaker: str
    ref: list[str]
    hyp: list[str]
    edits: str  # "CCSDI"

    @property
    def trn_id(self) -> str:
        """The id from which `sclite -i rm` reads the speaker back: all before the first dash.

        sclite looks for the id between brackets and ends it at a blank: these are written as %28 for "(".
        """
        speaker = self.speaker.replace("-", "_")
        whole = self.utt_id if self.utt_id.startswith(f"{speaker}-") else f"{speaker}-{self.utt_id}"
        return _NO_ID.sub(lambda match: quote(match[0], safe=""), whole)


def report(system: str, scored: Sequence[Scored]) -> str:
    """The whole file: what `sclite -s -i rm -o sum rsum dtl pralign stdout` prints, in the same order."""
    speakers: dict[str, list[Scored]] = {}
    for utterance in scored:
        speakers.setdefault(utterance.speaker, []).append(utterance)
    tallies = {speaker: tally([u.edits for u in of]) for speaker, of in speakers.items()}
    total = tally([u.edits for u in scored])
    parts = [_percents(system, tallies, total), _sums(system, tallies, total)]
    return "\n".join([*parts, _details(system, scored, total), *_alignments(system, speakers)]) + "\n"


def trn(scored: Iterable[Scored], side: str) -> str:
    """`ref` or `hyp` as a transcript file, so that sclite itself can score the same words."""
    return "".join(f"{' '.join(u.ref if side == 'ref' else u.hyp)} ({u.trn_id})\n" for u in scored)


# The two sum tables ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A line of a table; every cell ends in the blank or the mark that follows its number."""

    name: str
    size: list[str]  # sentences, words
    measures: list[str]  # Corr, Sub, Del, Ins, Err, S.Err


_HEADER = _Row("SPKR", ["# Snt", "# Wrd "], ["Corr ", "Sub ", "Del ", "Ins ", "Err ", "S.Err "])
_NO_WORDS = (
    "* no reference words for this speaker: counts, not percents\n+ speakers without reference words are left out\n"
)


def _percents(system: str, speakers: dict[str, Tally], total: Tally) -> str:
    rows = [_Row(name, _size(t), _percent_cells(t)) for name, t in speakers.items()]
    sums = _Row("Sum/Avg", _size(total), _percent_cells(total))
    with_words = [_of_words(t) for t in speakers.values() if t.ref] or [[0.0] * 5]
    columns = [[float(t.sentences) for t in speakers.values()], [float(t.ref) for t in speakers.values()]]
    columns += [*map(list, zip(*with_words, strict=True)), [_wrong(t) for t in speakers.values()]]
    all_have_words = all(t.ref for t in speakers.values())
    marks = "  " + (" " if all_have_words else "+") * 5 + " "
    return _table(system, rows, sums, _spread(columns, marks)) + ("" if all_have_words else _NO_WORDS)


def _sums(system: str, speakers: dict[str, Tally], total: Tally) -> str:
    def numbers(t: Tally) -> list[int]:
        return [t.sentences, t.ref, t.corr, t.sub, t.dele, t.ins, t.errors, t.wrong]

    def row(name: str, t: Tally) -> _Row:
        return _Row(name, _size(t), [f"{n} " for n in numbers(t)[2:]])

    columns = [[float(n) for n in column] for column in zip(*map(numbers, speakers.values()), strict=True)]
    rows = [row(name, t) for name, t in speakers.items()]
    return _table(system, rows, row("Sum", total), _spread(columns, " " * 8))


def _size(t: Tally) -> list[str]:
    return [f"{t.sentences} ", f"{t.ref} "]


def _of_words(t: Tally) -> list[float]:
    return [100 * n / t.ref for n in (t.corr, t.sub, t.dele, t.ins, t.errors)]


def _wrong(t: Tally) -> float:
    return 100 * t.wrong / t.sentences


def _percent_cells(t: Tally) -> list[str]:
    counts = (t.corr, t.sub, t.dele, t.ins, t.errors)
    cells = [f"{p:.1f} " for p in _of_words(t)] if t.ref else [f"{n}* " for n in counts]
    return [*cells, f"{_wrong(t):.1f} "]


def _spread(columns: list[list[float]], marks: str) -> list[_Row]:
    """Mean, standard deviation and median over speakers."""
    rows = []
    for name, of in (("Mean", statistics.fmean), ("S.D.", _deviation), ("Median", statistics.median)):
        cells = [f"{of(column):.1f}{mark}" for column, mark in zip(columns, marks, strict=True)]
        rows.append(_Row(name, cells[:2], cells[2:]))
    return rows


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _table(system: str, rows: list[_Row], sums: _Row, spread: list[_Row]) -> str:
    """sclite's table, its columns wider than usual only where a number needs it."""
    every = [_HEADER, *rows, sums, *spread]
    name = max(len("Median"), len(sums.name) + 1, *(_width(row.name) + 2 for row in (_HEADER, *rows)))
    size = [max(usual, *(len(r.size[i]) for r in every)) for i, usual in enumerate((6, 7))]
    measures = [max(6 if i == 0 else 7, *(len(r.measures[i]) + (i > 0) for r in every)) for i in range(6)]

    def line(row: _Row, label: str | None = None) -> str:
        label = f" {row.name}{' ' * (name - 1 - _width(row.name))}" if label is None else label
        left = "".join(cell.rjust(wide) for cell, wide in zip(row.size, size, strict=True))
        right = "".join(cell.rjust(wide) for cell, wide in zip(row.measures, measures, strict=True))
        return f"|{label}|{left}|{right}|"

    inner = name + sum(size) + sum(measures) + 2
    between = f"|{'-' * name}+{'-' * sum(size)}+{'-' * sum(measures)}|"
    lines = [f",{'-' * inner}.", f"|{_centred(system[:inner], inner)}|", f"|{'-' * inner}|", line(_HEADER)]
    lines += [text for row in rows for text in (between, line(row))]
    lines += [f"|{'=' * inner}|", line(sums), f"|{'=' * inner}|"]
    lines += [line(row, _centred(row.name, name)) for row in spread]
    lines += [f"`{'-' * inner}'"]
    indent = " " * max(0, (80 - inner - 2) // 2)
    title = _centred("SYSTEM SUMMARY PERCENTAGES by SPEAKER", 80)
    return "\n".join(["", "", title, "", *(indent + text for text in lines), ""])


def _centred(text: str, width: int) -> str:
    """Like str.center, but the odd blank stands right, as in sclite."""
    left = (width - len(text)) // 2
    return " " * left + text + " " * (width - len(text) - left)


# What was wrong, by word ----------------------------------------------------------------------------------------


def _details(system: str, scored: Sequence[Scored], total: Tally) -> str:
    def share(label: str, count: int, whole: int) -> str:
        percent = f"{100 * count / whole:5.1f}%" if whole else "UNDEF%"
        return f"{label}  {percent}   ({count:4d})"

    def sentences(label: str, kind: str) -> str:
        return share(f"   {label:<35}", sum(kind in u.edits for u in scored), len(scored))

    def percent(label: str, count: int) -> str:
        return share(f"Percent {label:<18}=", count, total.ref)

    def words(label: str, count: int) -> str:
        return f"{label:<26}={'':11}({count:4d})"

    accuracy = f"{100 * (total.corr - total.ins) / total.ref:5.1f}%" if total.ref else "UNDEF%"
    lines = [
        f"DETAILED OVERALL REPORT FOR THE SYSTEM: {system}\n",
        "SENTENCE RECOGNITION PERFORMANCE\n",
        f"{' sentences':<46}{total.sentences:8d}",
        share(f"{' with errors':<38}", total.wrong, total.sentences),
        "",
        sentences("with substitions", "S"),
        sentences("with deletions", "D"),
        sentences("with insertions", "I") + "\n\n",
        "WORD RECOGNITION PERFORMANCE\n",
        percent("Total Error", total.errors) + "\n",
        percent("Correct", total.corr) + "\n",
        percent("Substitution", total.sub),
        percent("Deletions", total.dele),
        percent("Insertions", total.ins),
        f"Percent Word Accuracy     =  {accuracy}\n\n",
        words("Ref. words", total.ref),
        words("Hyp. words", total.hyp),
        words("Aligned words", total.corr + total.errors) + "\n",
    ]
    return "\n".join([*lines, *(_ranked(title, counts) for title, counts in _confusions(scored).items())])


def _confusions(scored: Iterable[Scored]) -> dict[str, Counter[str]]:
    pairs: Counter[str] = Counter()
    said, heard, deleted, inserted = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for utterance in scored:
        for kind, ref, hyp in _columns(utterance):
            if kind == "S":
                pairs[f"{ref} ==> {hyp}"] += 1
                said[ref] += 1
                heard[hyp] += 1
            elif kind == "D":
                deleted[ref] += 1
            elif kind == "I":
                inserted[hyp] += 1
    titles = ("CONFUSION PAIRS", "INSERTIONS", "DELETIONS", "SUBSTITUTIONS", "FALSELY RECOGNIZED")
    return dict(zip(titles, (pairs, inserted, deleted, said, heard), strict=True))


def _ranked(title: str, counts: Counter[str]) -> str:
    """The most frequent first; among equals in the order of their bytes, as sclite sorts."""
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0].encode()))
    return "\n".join(
        [
            f"{title:<33}Total                 ({len(rows)})",
            f"{'':33}With >=  1 occurrences ({len(rows)})",
            "",
            *(f"{place:4d}: {times:4d}  ->  {text}" for place, (text, times) in enumerate(rows, 1)),
            "     -------",
            f"{counts.total():10d}",
            "\n\n",
        ]
    )


# Alignments -----------------------------------------------------------------------------------------------------


def _alignments(system: str, speakers: dict[str, list[Scored]]) -> Iterator[str]:
    yield f"\n\t\tDUMP OF SYSTEM ALIGNMENT STRUCTURE\n\nSystem name:   {system}\n\nSpeakers: "
    yield from (f"{number:5d}:  {speaker}" for number, speaker in enumerate(speakers))
    for number, (speaker, utterances) in enumerate(speakers.items()):
        yield f"\nSpeaker sentences{number:4d}:  {speaker}   #utts: {len(utterances)}"
        yield "\n\n".join(_alignment(u) for u in utterances)


def _alignment(utterance: Scored) -> str:
    counts = " ".join(str(utterance.edits.count(kind)) for kind in "CSDI")
    lines = [f"id: ({utterance.trn_id})", f"Scores: (#C #S #D #I) {counts}"]
    if utterance.edits:
        rows = [["REF: "], ["HYP: "], ["Eval:"]]
        for kind, ref, hyp in _columns(utterance):
            wide = max(_width(ref), _width(hyp))
            ref, hyp = ref or "*" * wide, hyp or "*" * wide
            for i, text in enumerate((ref, hyp, "" if kind == "C" else kind)):
                rows[i].append(text + " " * (wide - _width(text)))
        lines += [" ".join([*row, ""]) for row in rows]
    return "\n".join(lines)


def _columns(utterance: Scored) -> Iterator[tuple[str, str, str]]:
    """(edit, reference token, hypothesis token), the missing side empty."""
    refs, hyps = iter(utterance.ref), iter(utterance.hyp)
    for kind in utterance.edits:
        yield kind, "" if kind == "I" else next(refs), "" if kind == "D" else next(hyps)


def _width(text: str) -> int:
    """Columns on a terminal: Chinese characters take two."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
