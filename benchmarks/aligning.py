"""How far the built-in aligner's words are from where they were put: recordings of single digits, one behind the other.

    python benchmarks/aligning.py FSDD [--count 300] [--lang en-us]

FSDD is a copy of the Free Spoken Digit Dataset (files such as 7_jackson_3.wav): digits of six speakers, cut out
closely. Strings of two to five digits of a speaker are put together, half of them with a pause between, and aligned as
words spelled out or as espeak-ng says them. A line for beginnings and one for ends: how late they are at the median,
and how far off at the median and for 90 and 95 of 100 words, in milliseconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

from asrtts.alignment.aligners import hmm
from asrtts.alignment.intervals import Alignment
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError
from asrtts.text import phones

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE = 8000  # Hz, of the recordings
PAUSE = (400, 3200)  # samples, least and most
NOISE = 0.001  # standard deviation; in pauses too

Spoken = dict[str, list[tuple[str, float, float]]]  # word, seconds of its beginning and end


def strings(corpus: Path, folder: Path, count: int) -> tuple[list[Utterance], Spoken]:
    """Strings of digits, written into the folder, and when each digit is spoken. UserError: there are no recordings."""
    takes = defaultdict(list)
    for path in sorted(corpus.rglob("[0-9]_*_*.wav")):
        digit, speaker, _ = path.stem.split("_")
        takes[speaker].append((DIGITS[int(digit)], path))
    if not takes:
        raise UserError(f"{corpus}: no files such as 7_jackson_3.wav in it or below it; wanted a copy of FSDD")
    rng, utterances, spoken = np.random.default_rng(0), [], {}
    for number in range(count):
        speaker = sorted(takes)[number % len(takes)]
        waves, words = [np.zeros(rng.integers(*PAUSE))], []
        for pick in rng.integers(len(takes[speaker]), size=rng.integers(2, 6)):
            word, path = takes[speaker][pick]
            start = sum(map(len, waves))
            waves.append(soundfile.read(path)[0])
            words.append((word, start / RATE, (start + len(waves[-1])) / RATE))
            waves.append(np.zeros(rng.integers(*PAUSE) * rng.integers(2)))
        wave = np.concatenate([*waves, np.zeros(rng.integers(*PAUSE))])
        path = folder / f"{speaker}-{number}.wav"
        soundfile.write(path, wave + NOISE * rng.standard_normal(len(wave)), RATE)
        text = " ".join(word for word, _, _ in words)
        utterances.append(Utterance(path.stem, str(path), text, speaker, 0.0, len(wave) / RATE, RATE))
        spoken[path.stem] = words
    return utterances, spoken


def late(utterances: list[Utterance], spoken: Spoken, lexicon: phones.Lexicon, folder: Path) -> np.ndarray:
    """(words, 2): seconds by which beginnings and ends are late."""
    hmm.train(utterances, lexicon, folder, lambda these, _: these)
    rows = []
    for found in hmm.align(utterances, lexicon, folder, lambda these, _: these):
        assert isinstance(found, Alignment), found
        rows += [(w.start - s, w.end - e) for w, (_, s, e) in zip(found.words, spoken[found.utt_id], strict=True)]
    return np.array(rows)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("corpus", type=Path)
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--lang")
    args = options.parse_args()
    lexicon = phones.spoken_lexicon(DIGITS, args.lang) if args.lang else phones.spelled_lexicon(DIGITS)
    with tempfile.TemporaryDirectory() as folder:
        off = 1000 * late(*strings(args.corpus, Path(folder), args.count), lexicon, Path(folder))
    print(f"{len(off)} words, {'espeak-ng ' + args.lang if args.lang else 'spelled'}")
    for name, column in zip(("beginnings", "ends"), off.T, strict=True):
        far = np.quantile(np.abs(column), [0.5, 0.9, 0.95])
        print(f"{name}: {np.median(column):.0f} ms late; off by {far[0]:.0f}, {far[1]:.0f}, {far[2]:.0f} ms")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
