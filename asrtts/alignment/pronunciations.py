"""How the words of the utterances that are aligned are pronounced."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from asrtts.config import warn
from asrtts.data.utterance import Utterance
from asrtts.metrics import error_rate
from asrtts.registry import UserError
from asrtts.text import normalization, phones
from asrtts.text.phones import Lexicon

MOST_WAYS = 100  # to say a word, of which a search can keep count


def pronunciations(lexicon: Path | None, lang: str | None, utterances: Sequence[Utterance]) -> Lexicon:
    """The pronunciations of the words that are spoken; a word without any is left out, an aligner takes it for noise.

    Args:
        lexicon: a file, see `phones.read_lexicon`; its words may be in other case than the text.
        lang: of espeak-ng; without both, words are spelled out.

    Raises:
        UserError: the lexicon has none of the words, or too many pronunciations of one.
    """
    vocabulary = Counter(word for utterance in utterances for word in normalization.words(utterance.text))
    vocabulary = Counter({word: count for word, count in vocabulary.items() if not error_rate.is_unknown(word)})
    if lang:
        return phones.spoken_lexicon([word for word in vocabulary if any(map(str.isalnum, word))], lang)
    if not lexicon:
        return phones.spelled_lexicon(vocabulary)
    given = phones.read_lexicon(lexicon)
    plain: Lexicon = {}
    for word, ways in given.items():
        plain.setdefault(_plain(word), ways)
    known = {word: ways for word in vocabulary if (ways := _looked_up(word, given, plain))}
    if many := next((word for word, ways in known.items() if len(ways) > MOST_WAYS), None):
        raise UserError(f"{lexicon}: {len(known[many])} pronunciations of {many}; wanted at most {MOST_WAYS}")
    if absent := [word for word, _ in vocabulary.most_common() if word not in known]:
        count, few = sum(vocabulary[word] for word in absent), ", ".join(absent[:3])
        if not known:
            raise UserError(f"{lexicon}: has none of the {len(absent)} words, e.g. {few}; is it of this corpus?")
        warn(f"{lexicon}: {len(absent)} words ({count} times) are missing and aligned as noise, e.g. {few}")
    return known


def _looked_up(word: str, given: Lexicon, plain: Lexicon) -> list[tuple[str, ...]] | None:
    """As it is written, in other case, or without the punctuation around it."""
    folded = _plain(word)
    return given.get(word) or plain.get(folded) or plain.get(_without_punctuation(folded))


def _plain(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold().replace("\u2019", "'")


def _without_punctuation(word: str) -> str:
    places = [i for i, c in enumerate(word) if unicodedata.category(c)[0] in "LMN"]
    return word[places[0] : places[-1] + 1] if places else ""
