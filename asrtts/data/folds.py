"""Folds for cross-validation: every utterance is held out once, and no speaker stands in two folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

VALIDATION = 0.05  # of the seconds that are not held out; nothing is trained on it


@dataclass(frozen=True)
class Fold:
    """One way to part the data; a speaker is in one of the three."""

    train: list[Utterance]
    dev: list[Utterance]  # validates while the others train, so that what is held out selects nothing
    held_out: list[Utterance]


def divide(utterances: Sequence[Utterance], count: int, seed: int, by_speaker: bool = True) -> list[Fold]:
    """`count` folds of about equal seconds; their order of utterances is that of `utterances`.

    An utterance without a speaker is taken for one of a speaker of its own. The longest and the shortest fold differ by
    no more than one speaker says.

    Raises:
        UserError: there are too few speakers.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for row, utterance in enumerate(utterances):
        alone = not (by_speaker and utterance.speaker)
        groups.setdefault(("", utterance.utt_id) if alone else (utterance.speaker, ""), []).append(row)
    names = sorted(groups)  # so that the order of the manifest divides nothing
    seconds = np.array([sum(utterances[row].seconds for row in groups[name]) for name in names])
    rng = np.random.default_rng(seed)
    fold_of = _balanced(seconds, count, rng)
    order = rng.permutation(len(names))
    folds = []
    for fold in range(count):
        others = order[fold_of[order] != fold]
        if len(others) < 2 or len(others) == len(order):
            what = "speakers" if by_speaker else "utterances"
            more = "; --by utterance divides utterances" if by_speaker else ""
            raise UserError(
                f"{len(names)} {what} do not fill {count} folds with two of them left to train and validate on; take "
                f"fewer folds{more}"
            )
        dev = _validation(others, seconds)
        role = np.where(fold_of == fold, 2, 0)  # 0 train, 1 dev, 2 held out
        role[dev] = 1
        of_row = np.empty(len(utterances), dtype=np.int64)
        for group, name in enumerate(names):
            of_row[groups[name]] = role[group]
        folds.append(Fold(*([u for u, r in zip(utterances, of_row, strict=True) if r == part] for part in range(3))))
    return folds


def _balanced(seconds: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of every group: roughly the longest first, each into the emptiest fold.

    Roughly, so that another seed gives another division and not only another order of the same. Of two folds each is
    all that the other's model has: it wants a group to train on and one to validate on, however long the first is.
    """
    fold_of, filled, sizes = np.zeros(len(seconds), dtype=np.int64), np.zeros(count), np.zeros(count, dtype=np.int64)
    least = 2 if count == 2 else 1
    for done, group in enumerate(reversed(np.argsort(seconds * rng.uniform(0.5, 1.0, len(seconds)), kind="stable"))):
        lacking = np.maximum(least - sizes, 0)
        last_chance = len(seconds) - done <= lacking.sum()
        fold = np.where((lacking > 0) | ~last_chance, filled, np.inf).argmin()
        fold_of[group] = fold
        filled[fold] += seconds[group]
        sizes[fold] += 1
    return fold_of


def _validation(order: np.ndarray, seconds: np.ndarray) -> list[int]:
    """The first groups that fit into the share of validation; the shortest one, if none does."""
    room, chosen = VALIDATION * float(seconds[order].sum()), []
    for group in order.tolist():
        if seconds[group] <= room:
            room -= float(seconds[group])
            chosen.append(group)
    return chosen or [int(order[seconds[order].argmin()])]
