"""How late words come: the times of a system's words against those of an alignment, a CTM file.

Shangguan et al. 2021, "Dissecting user-perceived latency of on-device E2E speech recognition", call it the emission
delay: from the end of a spoken word to the frame where the last of its tokens is emitted. It may be below zero.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

from asrtts.metrics import error_rate
from asrtts.registry import UserError

Alignment = dict[str, list[tuple[str, float]]]  # utt_id -> words and the seconds where each ends
Ends = list[float | None]  # seconds; None where it is not known

# How pieces say that a word begins; a character tokenizer says it with a piece of its own.
BLANKS = "▁ "


def read_ctm(path: Path) -> Alignment:
    """The words of every utterance and the seconds where each ends.

    A line: utterance, channel, start, duration, word and anything more. Raises UserError with the line's number.
    """
    words: dict[str, list[tuple[float, str]]] = defaultdict(list)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); --alignment wants a CTM file") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(";;"):
            continue
        try:
            utt_id, _, start, duration, word = line.split()[:5]
            times = float(start), float(duration)
        except ValueError:
            raise UserError(f"{path}:{number}: no CTM: wanted `utterance channel start duration word`") from None
        if not (all(time >= 0 for time in times) and sum(times) < math.inf):  # nan is neither
            found = f"start {start}, duration {duration}"
            raise UserError(f"{path}:{number}: {found}; wanted seconds from 0 on; correct the line")
        words[utt_id].append((sum(times), word))
    ordered = {utt_id: sorted(of, key=itemgetter(0)) for utt_id, of in words.items()}  # of one end: as in the file
    return {utt_id: [(word, end) for end, word in of] for utt_id, of in ordered.items()}


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
    An aligner may have changed their case.

    Args:
        units: words, or characters with SPACE among them.

    Returns:
        None where the alignment is of another text than the reference.
    """
    said = [word.casefold() for word, _ in spoken]
    written = ["" if unit == error_rate.SPACE else unit.casefold() for unit in units]
    if "".join(said) != "".join(written):
        return None
    places = dict(zip(accumulate(map(len, said)), (end for _, end in spoken), strict=True))
    return [places.get(at) if text else None for at, text in zip(accumulate(map(len, written)), written, strict=True)]


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
