"""Word, character and token errors: the alignment of reference and hypothesis that NIST sclite finds."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

# What stands for a blank where every character is a token; reports are split at blanks.
SPACE = "<space>"

# A word that the transcriber did not understand, in each of its forms; the last is how a tokenizer decodes its token.
UNKNOWN = "<unk>"
_UNKNOWN = "<unk>|\\[unk\\]|\u2047"
_UNKNOWNS = re.compile(_UNKNOWN, re.IGNORECASE)

# Scripts that put no blanks between words: Thai, Lao, Tibetan, Myanmar, Khmer, the Tai scripts, Balinese, Javanese,
# kana, bopomofo, Han, Yi, Tangut.
_SCRIPTS = (
    "\u0e01-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf"
    "\u3005-\u3007\u3041-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\ua4cf\uf900-\ufaff\uff66-\uff9f"
    "\U00017000-\U00018dff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{_SCRIPTS}]")
_UNITS = re.compile(rf"{_UNKNOWN}|[{_SCRIPTS}]|(?:(?!{_UNKNOWN})[^\s{_SCRIPTS}])+", re.IGNORECASE)

# The edits, as they stand in an alignment: "CCSDI".
CORRECT, SUBSTITUTED, DELETED, INSERTED = "CSDI"
_END = ord(" ")

# Bytes of back-pointers that are held at once: 10,000 short utterances need several batches, one long recording one.
_BATCH_CELLS = 8_000_000


def words(text: str) -> list[str]:
    return text.split()


def judged_by(texts: Sequence[str]) -> str:
    """The unit in which systems are compared on these references: "words" or "characters".

    The script decides: characters where most of the text is in scripts that put no blanks between words, whatever
    blanks a corpus has. There a word is what somebody's segmentation made of it. Every character of such a script
    counts as one unit, every word of another script, too.
    """
    unspaced = sum(len(_UNSPACED.findall(text)) for text in texts)
    spaced = sum(any(map(str.isalnum, word)) for text in texts for word in _UNSPACED.sub(" ", text).split())
    return "characters" if unspaced > spaced else "words"


def without_unknown(refs: Sequence[str], hyps: Sequence[str]) -> tuple[list[str], list[str]]:
    """The texts that are scored: without <unk> ([unk], ⁇), words that the transcriber did not understand.

    The word of the hypothesis that sclite's alignment puts at such a place is left out with it (in scripts without
    blanks: the character); nobody knows whether it is right. Other texts are returned as they are.
    """
    refs, hyps = list(refs), list(hyps)
    numbers = [i for i, ref in enumerate(refs) if _UNKNOWNS.search(ref)]
    units = [[list(_UNITS.finditer(text)) for text in (refs[i], hyps[i])] for i in numbers]
    edits = (
        align(*([[_unit(match) for match in side] for side in sides] for sides in zip(*units, strict=True)))
        if units
        else []
    )
    for i, (ref, hyp), edit in zip(numbers, units, edits, strict=True):
        ref_units, hyp_units = iter(ref), iter(hyp)
        left_out = []
        for kind in edit:
            ref_unit = None if kind == INSERTED else next(ref_units)
            hyp_unit = None if kind == DELETED else next(hyp_units)
            if ref_unit and hyp_unit and _unit(ref_unit) == UNKNOWN:
                left_out.append(hyp_unit)
        refs[i] = _without(refs[i], [match for match in ref if _unit(match) == UNKNOWN])
        hyps[i] = _without(hyps[i], left_out)
    return refs, hyps


def _unit(match: re.Match[str]) -> str:
    """A word, or a character of a script without blanks; the mark of an unknown word in one form."""
    return UNKNOWN if is_unknown(match[0]) else match[0]


def is_unknown(word: str) -> bool:
    """Whether this stands for a word that the transcriber did not understand."""
    return _UNKNOWNS.fullmatch(word) is not None


def count_unknown(texts: Sequence[str]) -> int:
    """How many such words there are."""
    return sum(len(_UNKNOWNS.findall(text)) for text in texts)


def _without(text: str, matches: Sequence[re.Match[str]]) -> str:
    for match in reversed(matches):
        text = text[: match.start()] + text[match.end() :]
    return text


def characters(text: str) -> list[str]:
    """Every character a token; a run of blanks is one SPACE, as ESPnet counts them."""
    return [SPACE if c == " " else c for c in " ".join(text.split())]


@dataclass(frozen=True)
class Tally:
    """Summed edits of some sentences. `rate` is a fraction (1.0 = 100 %), infinite for insertions into nothing."""

    sentences: int
    wrong: int  # sentences with an error
    corr: int
    sub: int
    dele: int
    ins: int

    @property
    def ref(self) -> int:
        return self.corr + self.sub + self.dele

    @property
    def hyp(self) -> int:
        return self.corr + self.sub + self.ins

    @property
    def errors(self) -> int:
        return self.sub + self.dele + self.ins

    @property
    def rate(self) -> float:
        if self.ref == 0:
            return float("inf") if self.errors else 0.0
        return self.errors / self.ref


def count(edits: Sequence[str]) -> np.ndarray:
    """Correct, substituted, deleted, inserted of every alignment: (N, 4) int64."""
    rows = [[e.count(kind) for kind in "CSDI"] for e in edits]
    return np.array(rows, dtype=np.int64).reshape(len(edits), 4)


def tally(edits: Sequence[str]) -> Tally:
    counts = count(edits)
    corr, sub, dele, ins = (int(n) for n in counts.sum(axis=0))
    return Tally(len(edits), int((counts[:, 1:].sum(axis=1) > 0).sum()), corr, sub, dele, ins)


def align(refs: Sequence[Sequence[Hashable]], hyps: Sequence[Sequence[Hashable]]) -> list[str]:
    """The edits that turn each reference into its hypothesis, e.g. "CCSDI"; one letter a step.

    sclite minimizes 4 a substitution, 3 a deletion, 3 an insertion, and among equals steps back from the ends
    over a pair first, then an insertion, then a deletion. Taking 3 for every token of both sides away, that is to
    maximize 3 a correct pair, 1 a substituted pair, 0 otherwise: a gap then costs nothing, so a whole row of the
    table, for a whole batch of utterances of like length, is one running maximum.
    """
    assert len(refs) == len(hyps), f"{len(refs)} references, {len(hyps)} hypotheses"
    edits = [CORRECT * len(ref) for ref in refs]
    for batch in _batches(refs, hyps):
        for index, found in zip(batch, _align([refs[i] for i in batch], [hyps[i] for i in batch]), strict=True):
            edits[index] = found
    return edits


def _batches(refs: Sequence[Sequence[Hashable]], hyps: Sequence[Sequence[Hashable]]) -> Iterator[list[int]]:
    """Indices of unequal pairs, of like lengths and shortest first, so that little of a batch is padding."""
    differ = [i for i, (ref, hyp) in enumerate(zip(refs, hyps, strict=True)) if ref != hyp]
    order = sorted(differ, key=lambda i: (len(refs[i]), len(hyps[i])))
    batch: list[int] = []
    widest = 0
    for i in order:
        widest = max(widest, len(hyps[i]))
        if batch and (len(batch) + 1) * (len(refs[i]) + 1) * (widest + 1) > _BATCH_CELLS:
            yield batch
            batch, widest = [], len(hyps[i])
        batch.append(i)
    if batch:
        yield batch


def _align(refs: Sequence[Sequence[Hashable]], hyps: Sequence[Sequence[Hashable]]) -> list[str]:
    numbers = {token: n for n, token in enumerate(dict.fromkeys(chain(*refs, *hyps)))}
    ref, ref_lens = _padded(refs, numbers, -1)  # (U, B)
    hyp, hyp_lens = _padded(hyps, numbers, -2)  # (V, B): the paddings differ, so they never match
    steps = _steps(ref, hyp)

    # Walk back from the ends of all pairs at once; a walk that has arrived stays at (0, 0), where the step is _END.
    u, v, b = ref_lens.copy(), hyp_lens.copy(), np.arange(len(refs))
    walked = np.full((ref.shape[0] + hyp.shape[0], len(refs)), _END, dtype=np.uint8)
    for row in reversed(walked):
        row[:] = steps[u, v, b]
        u -= (row != ord(INSERTED)) & (row != _END)
        v -= (row != ord(DELETED)) & (row != _END)
        if not (u.any() or v.any()):
            break
    return [column.tobytes().decode("ascii").strip() for column in walked.T]


def _steps(ref: np.ndarray, hyp: np.ndarray) -> np.ndarray:
    """The last edit of the best alignment of every two prefixes: (U + 1, V + 1, B) of letters."""
    steps = np.full((len(ref) + 1, len(hyp) + 1, ref.shape[1]), ord(DELETED), dtype=np.uint8)
    steps[0] = ord(INSERTED)
    steps[0, 0] = _END
    row = np.zeros((len(hyp) + 1, ref.shape[1]), dtype=np.int32)
    for u, token in enumerate(ref, 1):
        same = hyp == token
        paired = row[:-1] + np.where(same, 3, 1)
        row[1:] = np.maximum(row[1:], paired)
        np.maximum.accumulate(row, axis=0, out=row)
        step = steps[u, 1:]
        step[row[1:] == row[:-1]] = ord(INSERTED)
        pair = paired == row[1:]
        step[pair & same] = ord(CORRECT)
        step[pair & ~same] = ord(SUBSTITUTED)
    return steps


def _padded(
    rows: Sequence[Sequence[Hashable]], numbers: dict[Hashable, int], padding: int
) -> tuple[np.ndarray, np.ndarray]:
    lens = np.array([len(row) for row in rows], dtype=np.int64)
    padded = np.full((lens.max(), len(rows)), padding, dtype=np.int32)
    for b, row in enumerate(rows):
        padded[: len(row), b] = [numbers[token] for token in row]
    return padded, lens
