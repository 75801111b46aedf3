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
_WEIGHT = re.compile(r"\d*\.\d+|1")  # lexiconp.txt: a probability between the word and its phones


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
    """A Kaldi lexicon.txt or lexiconp.txt, or a CMU dictionary.

    Raises:
        UserError: the file is missing, or a line has no phones.
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
    """Lines `WORD PHONE PHONE ...`; `where` names the file in an error."""
    lexicon: Lexicon = {}
    for number, line in enumerate(storage.lines(text), 1):
        if not line.strip() or line.startswith((";;;", "#")):
            continue
        word, *phones = line.split()
        if phones and _WEIGHT.fullmatch(phones[0]):
            phones = phones[1:]
        if not phones:
            raise UserError(f"{where}:{number}: wanted `WORD PHONE PHONE ...`, found {line.strip()[:60]!r}")
        if BOUNDARY in phones:
            raise UserError(f"{where}:{number}: {BOUNDARY} stands between words and cannot be a phone of {word}")
        known = lexicon.setdefault(_VARIANT.sub("", word) or word, [])
        if tuple(phones) not in known:
            known.append(tuple(phones))
    if not lexicon:
        raise UserError(f"{where}: no words in it; wanted lines `WORD PHONE PHONE ...`")
    return lexicon


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
