"""ARPA files: the text form in which SRILM, KenLM and others exchange n-grams."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from asrtts import storage
from asrtts.registry import UserError, quoted
from asrtts.search.ngram import NEVER, Ngrams
from asrtts.text import text_file

LOG10 = math.log(10)
START, END = "<s>", "</s>"
ROUNDED = 1e-4  # a logarithm so little above 0 is 0, which was computed in 32 bits


def write(path: Path, ngrams: Ngrams, pieces: Sequence[str]) -> None:
    """pieces: the V tokens by id. Raises UserError if the file cannot be written."""
    names = [*pieces, END, START]
    lines = ["\\data\\", *(f"ngram {n}={len(rows)}" for n, rows in enumerate(ngrams.tokens, 1))]
    for n, (rows, scores, backs) in enumerate(zip(ngrams.tokens, ngrams.log_probs, ngrams.backoffs, strict=True), 1):
        lines += ["", f"\\{n}-grams:"]
        last = n == ngrams.order
        for row, score, back in zip(rows.tolist(), np.maximum(scores, NEVER) / LOG10, backs / LOG10, strict=True):
            words = " ".join(names[i] for i in row)
            lines.append(
                f"{score:.7g}\t{words}" if last or row[-1] == len(pieces) else f"{score:.7g}\t{words}\t{back:.7g}"
            )
    storage.write(path, "\n".join([*lines, "", "\\end\\", ""]))


def read(path: Path, pieces: Sequence[str]) -> Ngrams:
    """The n-grams of a file, compressed or not, whose words are `pieces`; a piece that it lacks is as likely as <unk>.

    Raises:
        UserError: no ARPA file, a bad line (named), a word that is no token, or no end of a sentence.
    """
    return read_with_lacking(path, pieces)[0]


def read_with_lacking(path: Path, pieces: Sequence[str]) -> tuple[Ngrams, list[int]]:
    """The same, and the tokens that the file lacks; <unk> is none of them."""
    reader = _Reader(Path(path), pieces)
    with text_file.opened(Path(path), "ARPA file") as lines:
        return reader.read(lines), reader.lacking


class _Reader:
    def __init__(self, path: Path, pieces: Sequence[str]) -> None:
        self.path, self.number, self.size = path, 0, len(pieces)
        self.lacking: list[int] = []
        self.ids = {piece: i for i, piece in enumerate(pieces) if i > 0} | {END: len(pieces), START: len(pieces) + 1}
        self.ids.setdefault("<UNK>", 1)

    def read(self, lines: Iterator[str]) -> Ngrams:
        counts = self._header(lines)
        tokens, log_probs, backoffs = [], [], []
        known: set[tuple[int, ...]] = {()}
        for n, count in enumerate(counts, 1):
            rows, scores, backs = self._section(lines, n, count, known, last=n == len(counts))
            known = set(map(tuple, rows))
            tokens.append(np.array(rows, dtype=np.int64).reshape(-1, n))
            log_probs.append(np.array(scores) * LOG10)
            backoffs.append(np.array(backs) * LOG10)
        if self._line(lines) != "\\end\\":
            self._refuse("wanted \\end\\")
        return self._completed(Ngrams(self.size, tokens, log_probs, backoffs))

    def _header(self, lines: Iterator[str]) -> list[int]:
        for line in lines:
            self.number += 1
            if line.strip() == "\\data\\":
                break
        else:
            raise UserError(f"{self.path}: no ARPA file: there is no line \\data\\ in it")
        counts: list[int] = []
        while (line := self._line(lines)) != "\\1-grams:":
            name, _, count = line.removeprefix("ngram ").partition("=")
            if not line.startswith("ngram ") or name.strip() != str(len(counts) + 1) or not count.strip().isdigit():
                self._refuse(f"wanted `ngram {len(counts) + 1}=` and a count, or \\1-grams:, found {quoted(line, 40)}")
            counts.append(int(count))
        return counts or self._refuse("no counts stand before the n-grams")

    def _section(
        self, lines: Iterator[str], n: int, count: int, contexts: set[tuple[int, ...]], last: bool
    ) -> tuple[list[list[int]], list[float], list[float]]:
        if n > 1 and (line := self._line(lines)) != f"\\{n}-grams:":
            self._refuse(f"wanted \\{n}-grams:, found {quoted(line, 40)}; \\data\\ promised other counts")
        rows, scores, backs = [], [], []
        known: set[tuple[int, ...]] = set()
        for _ in range(count):
            words = self._line(lines).split()
            if len(words) - n not in (1, 1 if last else 2):
                self._refuse(f"wanted a log-probability, {n} words{'' if last else ' and maybe a back-off weight'}")
            row = [self._id(word) for word in words[1 : n + 1]]
            if tuple(row) in known:
                self._refuse(f"{quoted(' '.join(words[1 : n + 1]))} stands there twice")
            known.add(tuple(row))
            if self.ids[START] in row[1:]:
                self._refuse(f"{START} stands behind {quoted(words[1])}; it can only be the first word")
            if tuple(row[:-1]) not in contexts:
                self._refuse(f"{quoted(' '.join(words[1:n]))}, the context, is none of the {n - 1}-grams above")
            score, back = self._number(words[0]), self._number(words[n + 1]) if len(words) == n + 2 else 0.0
            if score > ROUNDED:
                self._refuse(f"{score:g} is no logarithm of a probability")
            rows.append(row)
            scores.append(min(score, 0.0))
            backs.append(back)
        return rows, scores, backs

    def _line(self, lines: Iterator[str]) -> str:
        """The next line that is not empty."""
        for line in lines:
            self.number += 1
            if "\0" in line:
                self._refuse("a zero byte; the file is damaged")
            if line.strip():
                return line.strip()
        raise UserError(f"{self.path}: ends at line {self.number}, before \\end\\; it is not whole")

    def _id(self, word: str) -> int:
        number = self.ids.get(word, self.ids.get(unicodedata.normalize("NFC", word)))  # tokens are in NFC
        if number is None:
            what = f"{quoted(word)} is none of the {self.size} tokens of the recognizer (--tokens)"
            self._refuse(f"{what}; make the file of these tokens, divided by blanks, or give a text to `asrtts lm`")
        return number

    def _number(self, word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if math.isnan(value) or value == math.inf:
            self._refuse(f"{quoted(word)} is no number")
        return max(value, NEVER / LOG10)

    def _refuse(self, what: str) -> None:
        raise UserError(f"{self.path}:{self.number}: {what}")

    def _completed(self, ngrams: Ngrams) -> Ngrams:
        """With every token as a unigram."""
        eos, known = self.size, ngrams.tokens[0][:, 0]
        if eos not in known:
            raise UserError(f"{self.path}: has no {END}, so that the end of a sentence cannot be scored")
        unknown = ngrams.log_probs[0][known == 1]
        lost = np.setdiff1d(np.arange(1, eos), known)
        self.lacking = [int(i) for i in lost if i > 1]
        score = unknown[0] if len(unknown) else NEVER
        ngrams.tokens[0] = np.concatenate([ngrams.tokens[0], lost[:, None]])
        ngrams.log_probs[0] = np.concatenate([ngrams.log_probs[0], np.full(len(lost), score)])
        ngrams.backoffs[0] = np.concatenate([ngrams.backoffs[0], np.zeros(len(lost))])
        return ngrams
