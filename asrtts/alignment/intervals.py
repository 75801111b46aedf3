"""The one record of an alignment: when each word and phone of an utterance is spoken; and its lines in a CTM file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Interval(NamedTuple):
    """A word or a phone, and its seconds from the beginning of the utterance."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """Words and phones in their order, pauses left out."""

    utt_id: str
    seconds: float  # duration of the utterance
    words: list[Interval]
    phones: list[Interval]


@dataclass(frozen=True, slots=True)
class Unaligned:
    """An utterance whose words could not be found in it, and why."""

    utt_id: str
    why: str


def ctm(alignment: Alignment) -> Iterator[str]:
    """Its words as NIST's CTM has them: utterance, channel, start, duration, word."""
    for word in alignment.words:
        yield f"{alignment.utt_id} 1 {word.start:.3f} {word.end - word.start:.3f} {word.label}\n"
