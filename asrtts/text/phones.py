"""Phones as tokens: a lexicon from a file or from espeak-ng, and phone sequences back to words."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from asrtts import storage
from asrtts.registry import UserError, quoted
from asrtts.text import espeak, normalization
from asrtts.text.normalization import BLANK, BOUNDARY, SHOWN_UNKNOWN, UNKNOWN

Lexicon = dict[str, list[tuple[str, ...]]]  # word -> its pronunciations, the usual one first

_VARIANT = re.compile(r"\(\d+\)$")  # CMU dictionaries write the second way to say A as A(2)
# Numbers between a word and its phones: no phone has a point or an exponent, but X-SAMPA has phones that are digits.
_NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+")
_DIGITS = re.compile(r"[-+]?\d+")
NUMBERS = (0, 1, 4)  # a probability; with it MFA's and Kaldi's three of silences around the word


class Phones:
    """Words become the phones of their first pronunciation with '▁' between words.

    Without '▁' a phone sequence could not be read back as words. Texts are given in the form of `normalization.plain`.

    Back to words: the phones between two boundaries are looked up. Of several words that sound alike the most
    frequent in the training text is written; phones that are no word's stay as they are, joined by spaces.
    """

    def __init__(self, lexicon_file: bytes) -> None:
        self.files = {"lexicon.txt": lexicon_file}
        self._lexicon = _composed(parse(lexicon_file.decode(), "lexicon.txt"))
        self._words: dict[tuple[str, ...], str] = {}
        for word, pronunciations in self._lexicon.items():  # the file's order: most frequent first
            for pronunciation in pronunciations:
                self._words.setdefault(pronunciation, word)

    def split(self, text: str) -> list[str]:
        pieces: list[str] = []
        for word in normalization.words(text):
            # A word without pronunciation is one piece that no token list has: <unk>.
            pieces += [BOUNDARY] * bool(pieces) + list(self._lexicon.get(word, [(f"no phones: {word}",)])[0])
        return pieces

    def join(self, pieces: Sequence[str]) -> str:
        spoken = [tuple(word.split()) for word in " ".join(pieces).split(BOUNDARY)]
        written = " ".join(self._words.get(word, " ".join(word)) for word in spoken if word)
        return normalization.without_cjk_spaces(written)

    def uncovered(self, text: str, known: set[str]) -> set[str]:
        lost = {word for word in normalization.words(text) if word not in self._lexicon}
        return {word for word in lost if SHOWN_UNKNOWN not in word}


def read_lexicon(path: Path) -> Lexicon:
    """A Kaldi lexicon.txt, lexiconp.txt or lexiconp_silprob.txt, a CMU dictionary, or one of MFA.

    Raises:
        UserError: the file is missing or no UTF-8, a line has no phones, or has numbers that no such lexicon has.
    """
    try:
        return _composed(parse(read_bytes(path).decode("utf-8-sig").replace("\n\ufeff", "\n"), str(path)))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; convert it, e.g. `iconv -f latin1 -t utf8`") from None


def _composed(lexicon: Lexicon) -> Lexicon:
    """The words in NFC, as texts are."""
    composed: Lexicon = {}
    for word, pronunciations in lexicon.items():
        known = composed.setdefault(unicodedata.normalize("NFC", word), [])
        known += [pronunciation for pronunciation in pronunciations if pronunciation not in known]
    return composed


def read_bytes(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the lexicon cannot be read ({error.strerror})") from None


def parse(text: str, where: str) -> Lexicon:
    """Lines `WORD PHONE PHONE ...`; `where` names the file in an error.

    Numbers between the word and its phones are no phones: the first is the probability of the pronunciation, by which
    those of a word are ordered; those of the silences around it are left out. A comment begins with # or, at the start
    of a line, with ;;; and ends with the line.
    """
    entries: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(storage.lines(text), 1):
        fields = line.split()
        if not fields or line.lstrip().startswith((";;;", "#")):
            continue
        end = next((place for place, field in enumerate(fields) if place and field.startswith("#")), len(fields))
        entries.append((number, fields[0], fields[1:end]))
    columns = _columns_of_numbers([fields for _, _, fields in entries])
    weighed: dict[str, dict[tuple[str, ...], float]] = {}
    for number, word, fields in entries:
        count = _count_numbers(fields, columns)
        numbers, phones = fields[:count], fields[count:]
        if not phones:
            listed = " ".join([word, *fields])[:60]
            raise UserError(f"{where}:{number}: wanted `WORD PHONE PHONE ...`, found {listed!r}")
        strange = next((phone for phone in phones if _NUMBER.fullmatch(phone)), None)
        if count not in NUMBERS or strange:
            what = f"{strange} among the phones" if strange else f"{count} numbers before the phones"
            raise UserError(
                f"{where}:{number}: {what} of {word}; wanted none, a probability, or the four numbers of MFA"
            )
        if BOUNDARY in phones:
            raise UserError(f"{where}:{number}: {BOUNDARY} stands between words and cannot be a phone of {word}")
        ways = weighed.setdefault(_VARIANT.sub("", word) or word, {})
        probability = float(numbers[0]) if numbers else 1.0
        ways[tuple(phones)] = max(probability, ways.get(tuple(phones), probability))
    if not weighed:
        raise UserError(f"{where}: no words in it; wanted lines `WORD PHONE PHONE ...`")
    return {word: sorted(ways, key=lambda phones: -ways[phones]) for word, ways in weighed.items()}


def _columns_of_numbers(lines: Sequence[Sequence[str]]) -> list[bool]:
    """Of each column behind the word, whether digits alone are a number there: they are phones, too, as in X-SAMPA.

    They are a number where some line has one with a point, or all lines have the probability 1.
    """
    columns = ([line[column] for line in lines if column < len(line)] for column in range(max(NUMBERS)))
    return [
        any(map(_NUMBER.fullmatch, values)) or (len(values) == len(lines) and set(values) == {"1"})
        for values in columns
    ]


def _count_numbers(fields: Sequence[str], columns: Sequence[bool]) -> int:
    """How many of the fields behind a word are numbers."""
    digits = [place < len(columns) and columns[place] and _DIGITS.fullmatch(f) for place, f in enumerate(fields)]
    phones = (at for at, field in enumerate(fields) if not digits[at] and not _NUMBER.fullmatch(field))
    return next(phones, len(fields))


def spoken_lexicon(vocabulary: Iterable[str], lang: str) -> Lexicon:
    """How espeak-ng says each word by itself. Raises UserError for an unknown language or a word it cannot say."""
    lexicon: Lexicon = {}
    for word in sorted(vocabulary):
        pronunciation = tuple(espeak.phones(word, lang))
        if not pronunciation:
            raise UserError(
                f"espeak-ng ({lang}) says nothing for the word {quoted(word)}; take it out of the text "
                "(`asrtts prepare --no-punctuation` for marks), or give --lexicon"
            )
        lexicon[word] = [pronunciation]
    return lexicon


def spelled_lexicon(vocabulary: Iterable[str]) -> Lexicon:
    """Each word's letters, digits and marks as its phones, in small letters; words without any are left out."""
    spelled = {word: tuple(c for c in word.casefold() if unicodedata.category(c)[0] in "LNM") for word in vocabulary}
    return {word: [letters] for word, letters in spelled.items() if letters}


def inventory(lexicon: Lexicon) -> list[str]:
    """The boundary and the lexicon's phones in code point order. Raises UserError for one that is a token already."""
    phones = {phone for ways in lexicon.values() for pronunciation in ways for phone in pronunciation}
    if taken := {BLANK, UNKNOWN} & phones:
        raise UserError(f"{taken.pop()} is a phone of the lexicon, and a token already; give the phone another name")
    return [BOUNDARY, *sorted(phones)]


def fingerprint(lexicon: Lexicon) -> str:
    return hashlib.sha256(repr(sorted(lexicon.items())).encode()).hexdigest()[:16]


def dump(lexicon: Lexicon, count: Counter[str]) -> bytes:
    """The lexicon as a file, the words that `count` has most of first."""
    order = sorted(lexicon, key=lambda word: (-count[word], word))
    lines = [f"{word} {' '.join(phones)}\n" for word in order for phones in lexicon[word]]
    return "".join(lines).encode()
