"""How late words come: the times of a system's words against those of an alignment, a CTM file.

Shangguan et al. 2021, "Dissecting user-perceived latency of on-device E2E speech recognition", call it the emission
delay: from the end of a spoken word to the frame where the last of its tokens is emitted. It may be below zero.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

from asrtts.metrics import error_rate
from asrtts.registry import UserError

Alignment = dict[str, list[tuple[str, float]]]  # utt_id -> words and the seconds where each ends
Ends = list[float | None]  # seconds; None where it is not known

# How pieces say that a word begins; a character tokenizer says it with a piece of its own.
BLANKS = "▁ "


# What aligners write where no word is spoken: Kaldi and MFA, HTK (!SIL), Penn ({NS}), Sphinx (++NOISE++), NIST (%HES).
_MARKS = {"sil", "sp", "spn", "nsn", "ns", "lau", "lg", "br", "cg", "ls", "pau", "pause", "silence", "noise", "oov"}
_MARKS |= {"sil_s", "sil_b", "sil_i", "sil_e"}  # beside those in brackets, and punctuation alone
_MARKED = re.compile(r"<.*>|\[.*\]|\{.*\}|\(.*\)|!\w+|\+\+.*\+\+|%\w+|@\w+@?", re.DOTALL)
_MOST_FIELDS = 8  # NIST's CTM: file, channel, start, duration, word, confidence, type, speaker
_ALTERNATIVES = ("<ALT_BEGIN>", "<ALT>", "<ALT_END>")


def read_ctm(path: Path) -> Alignment:
    """The labels of every utterance and the seconds where each ends; see `spoken`.

    A line: utterance, channel, start, duration, word and anything more. Lines that begin with ;; are comments; of
    NIST's alternatives (<ALT_BEGIN>, <ALT>, <ALT_END>) the first is taken. Raises UserError with the line's number.
    """
    words: dict[str, list[tuple[float, str]]] = defaultdict(list)
    try:
        lines = re.split(r"\r\n|\n|\r", path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); wanted a CTM file, `asrtts align` makes one"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; convert it, e.g. `iconv -f latin1 -t utf8`") from None
    alternative = 0  # of those at one place: 1 is the first; 0 outside
    for number, line in enumerate(lines, 1):
        fields = re.findall(r"[^ \t]+", line)
        if not fields or fields[0].startswith(";;"):
            continue
        if len(fields) > 4 and fields[4] in _ALTERNATIVES:
            alternative = 0 if fields[4] == "<ALT_END>" else alternative + 1
            continue
        if alternative > 1:
            continue
        try:
            utt_id, _, start, duration, word = fields[:5]
            times = float(start), float(duration)
            if len(fields) > _MOST_FIELDS:
                raise ValueError
        except ValueError:
            many = f"; {len(fields)} fields are too many, is it an STM file?" if len(fields) > _MOST_FIELDS else ""
            raise UserError(f"{path}:{number}: no CTM: wanted `utterance channel start duration word`{many}") from None
        if not (all(time >= 0 for time in times) and sum(times) < math.inf):  # nan is neither
            found = f"start {start}, duration {duration}"
            raise UserError(f"{path}:{number}: {found}; wanted seconds from 0 on; correct the line")
        words[utt_id].append((sum(times), word))
    ordered = {utt_id: sorted(of, key=itemgetter(0)) for utt_id, of in words.items()}  # of one end: as in the file
    return {utt_id: [(word, end) for end, word in of] for utt_id, of in ordered.items()}


def spoken(alignment: Alignment, texts: Mapping[str, str], names: Mapping[str, str]) -> Alignment:
    """The words of these utterances, without the marks of pauses and noises that aligners write among them.

    Args:
        texts: the reference of every utterance by utt_id; a word of it that looks like a mark is a word.
        names: what the alignment calls each utterance. A name is found in either form of Unicode, NFC or NFD: some
            file systems change it.
    """
    composed = {unicodedata.normalize("NFC", name): words for name, words in alignment.items()}
    words_of = {}
    for utt_id, text in texts.items():
        name = names[utt_id]
        words = alignment.get(name, composed.get(unicodedata.normalize("NFC", name)))
        if words is not None:
            words_of[utt_id] = without_marks(words, text)
    return words_of


def without_marks(words: Sequence[tuple[str, float]], text: str) -> list[tuple[str, float]]:
    """The words that the reference has, in their order; marks and punctuation alone are left out where it has none."""
    if "".join(word for word, _ in words).casefold() == "".join(text.split()).casefold():
        return list(words)
    rest = [(word, end) for word, end in words if not is_mark(word)]
    if _letters(text) == "".join(_letters(word) for word, _ in rest):
        return rest
    own = {_letters(word) for word in text.split()} - {""}
    return [(word, end) for word, end in words if not is_mark(word) or _letters(word) in own]


def is_mark(label: str) -> bool:
    """Whether an aligner writes this where no word is spoken."""
    label = label.strip()
    return label.casefold() in _MARKS or bool(_MARKED.fullmatch(label)) or not _letters(label)


def _letters(text: str) -> str:
    """Letters, their marks and digits alone, in one form: what two spellings of the same words have in common."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(c for c in plain if unicodedata.category(c)[0] in "LMN")


def word_times(tokens: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Pieces and their seconds -> words and the seconds where the last piece of each was emitted.

    [("▁G", 0.2), ("O", 0.3), ("▁ON", 0.7)] -> [("GO", 0.3), ("ON", 0.7)]
    """
    words: list[tuple[str, float]] = []
    begun = False
    for piece, time in tokens:
        for part in _parts(piece):
            if part == BLANKS[1]:
                begun = False
            elif begun:
                words[-1] = (words[-1][0] + part, time)
            else:
                words.append((part, time))
                begun = True
    return words


def character_times(tokens: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Pieces and their seconds -> characters without blanks: [("打开", 0.2), ("灯", 0.5)] -> [("打", 0.2), ...]"""
    return [(c, time) for piece, time in tokens for part in _parts(piece) if part != BLANKS[1] for c in part]


def ends(spoken: Sequence[tuple[str, float]], units: Sequence[str]) -> Ends | None:
    """The seconds where each unit of the reference ends; of a blank, and within a word of the alignment, None.

    Units and the alignment's words may be cut differently: words against characters, or 打开light against three words.
    An aligner may have changed their case, or left out their punctuation.

    Args:
        units: words, or characters with SPACE among them.

    Returns:
        None where the alignment is of another text than the reference.
    """
    written = ["" if unit == error_rate.SPACE else unit for unit in units]
    for plain in (str.casefold, _letters):
        told, texts = [plain(word) for word, _ in spoken], [plain(unit) for unit in written]
        if "".join(told) == "".join(texts):
            places = dict(zip(accumulate(map(len, told)), (end for _, end in spoken), strict=True))
            return [
                places.get(at) if text else None for at, text in zip(accumulate(map(len, texts)), texts, strict=True)
            ]
    return None


def delays(edits: str, ref_ends: Sequence[float | None], hyp_times: Sequence[float | None]) -> list[float]:
    """Seconds from the end of each right unit to its emission, where both are known.

    Args:
        edits: "CCSDI". ref_ends, hyp_times: of every unit of the reference and of the hypothesis.
    """
    found, ref, hyp = [], 0, 0
    for edit in edits:
        if edit == "C" and (end := ref_ends[ref]) is not None and (time := hyp_times[hyp]) is not None:
            found.append(time - end)
        ref += edit != "I"
        hyp += edit != "D"
    return found


def _parts(piece: str) -> list[str]:
    """'▁ON' -> [' ', 'ON']."""
    parts: list[str] = []
    for character in piece.replace("<space>", " "):
        if character in BLANKS:
            parts.append(BLANKS[1])
        elif parts and parts[-1] != BLANKS[1]:
            parts[-1] += character
        else:
            parts.append(character)
    return parts
