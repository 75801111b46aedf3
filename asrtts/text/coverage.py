"""How much of a text some tokens cover: a model of unknown tokens learns nothing, and makes every result worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from asrtts.registry import UserError
from asrtts.text.tokenizer import Tokenizer

MOST = 0.5  # of the tokens of a text may be unknown
SAMPLE = 1000  # sentences that are tried in other letters


def share(path: Path, sentences: Sequence[str], tokens: Sequence[Sequence[int]], tokenizer: Tokenizer) -> float:
    """The share of unknown tokens in encoded sentences, 0 to 1; tokens of blanks are not counted.

    Raises:
        UserError: more than half are unknown.
    """
    unknown = tokenizer.unknown_share(tokens)
    if unknown > MOST:
        raise UserError(f"{path}: {_explained(unknown, sentences, tokenizer)}")
    return unknown


def refuse_poor(
    arpa: Path, lacking: Iterable[int], dev: Path, tokens: Sequence[Sequence[int]], tokenizer: Tokenizer
) -> None:
    """Raises UserError if an ARPA file lacks most of the tokens of a text."""
    lost = set(lacking)
    as_scored = [[1 if i in lost else i for i in ids] for ids in tokens]
    unknown = tokenizer.unknown_share(as_scored)
    if unknown > MOST:
        raise UserError(
            f"{arpa}: {unknown:.0%} of the tokens of {dev} are not among its words; make one of these tokens, e.g. by "
            "`asrtts lm` of a text"
        )


def _explained(unknown: float, sentences: Sequence[str], tokenizer: Tokenizer) -> str:
    lost = Counter(piece for sentence in sentences[:SAMPLE] for piece in tokenizer.uncovered(sentence))
    shown = ", ".join(sorted(piece for piece, _ in lost.most_common(5)))
    what = f"{unknown:.0%} of its tokens are unknown to the {tokenizer.kind} tokens{shown and ', e.g. ' + shown}"
    for letters, form, option in (("small", str.lower, "lower"), ("capital", str.upper, "upper")):
        if tokenizer.unknown_share(map(tokenizer.encode, map(form, sentences[:SAMPLE]))) <= MOST:
            ways = f"a text by `sed 's/.*/\\{option[0].upper()}&/'`, a corpus by `asrtts prepare --case {option}`"
            return f"{what}; write it in {letters} letters: {ways}"
    if tokenizer.kind == "phone":
        return f"{what}; name a lexicon that has these words"
    return f"{what}; name a text of the recognizer's language, or other tokens"
