"""Folds: every utterance is held out once, no speaker stands on two sides, and the same seed divides alike."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asrtts.data import folds
from asrtts.data.utterance import Utterance
from asrtts.registry import UserError

SPEAKERS = st.lists(st.lists(st.floats(1, 10), min_size=2, max_size=4), min_size=12, max_size=30)


def spoken(lengths: list[list[float]], known: bool = True) -> list[Utterance]:
    """Utterances of so many seconds, by speaker."""
    return [
        Utterance(f"{speaker}-{number}", "a.wav", "TEXT", speaker=f"s{speaker}" if known else "", seconds=seconds)
        for speaker, of in enumerate(lengths)
        for number, seconds in enumerate(of)
    ]


def total(utterances: list[Utterance]) -> float:
    return sum(u.seconds for u in utterances)


@settings(max_examples=60, deadline=None)
@given(SPEAKERS, st.integers(2, 4), st.integers(0, 5))
def test_every_utterance_is_held_out_once_and_no_speaker_stands_on_two_sides(lengths, count, seed):
    utterances = spoken(lengths)
    division = folds.divide(utterances, count, seed)
    assert len(division) == count
    held_out = [u.utt_id for fold in division for u in fold.held_out]
    assert sorted(held_out) == sorted(u.utt_id for u in utterances)
    for fold in division:
        parts = (fold.train, fold.dev, fold.held_out)
        assert all(parts)
        assert sorted(u.utt_id for part in parts for u in part) == sorted(u.utt_id for u in utterances)
        speakers = [{u.speaker for u in part} for part in parts]
        assert not any(speakers[i] & speakers[j] for i in range(3) for j in range(i))


@settings(max_examples=60, deadline=None)
@given(SPEAKERS, st.integers(2, 4))
@example([[1.0, 1.0]] * 11 + [[1.0, 10.0, 10.0]], 2)  # one speaker says nearly as much as all others
def test_folds_differ_by_no_more_than_the_longest_speaker(lengths, count):
    seconds = [total(fold.held_out) for fold in folds.divide(spoken(lengths), count, seed=1)]
    assert max(seconds) - min(seconds) <= max(map(sum, lengths)) + 1e-6


@settings(max_examples=30, deadline=None)
@given(SPEAKERS, st.randoms())
def test_the_order_of_the_manifest_divides_nothing(lengths, dice):
    utterances = spoken(lengths)
    shuffled = dice.sample(utterances, len(utterances))
    for one, two in zip(folds.divide(utterances, 3, 1), folds.divide(shuffled, 3, 1), strict=True):
        for part in ("train", "dev", "held_out"):
            assert {u.utt_id for u in getattr(one, part)} == {u.utt_id for u in getattr(two, part)}
        assert [u for u in utterances if u in one.train] == one.train


def test_another_seed_divides_otherwise():
    dice = random.Random(1)
    utterances = spoken([[dice.uniform(1, 5) for _ in range(10)] for _ in range(30)])
    divisions = {
        tuple(tuple(u.utt_id for u in fold.held_out) for fold in folds.divide(utterances, 3, seed)) for seed in range(5)
    }
    assert len(divisions) == 5
    assert folds.divide(utterances, 3, 1) == folds.divide(utterances, 3, 1)


def test_validation_takes_a_twentieth_of_what_is_not_held_out():
    for fold in folds.divide(spoken([[1.0] * 5] * 60), 3, 1):
        assert total(fold.dev) == pytest.approx(0.05 * total([*fold.train, *fold.dev]), rel=0.3)


def test_utterances_without_a_speaker_stand_alone():
    division = folds.divide(spoken([[1.0] * 12], known=False), 3, 1)
    assert [len(fold.held_out) for fold in division] == [4, 4, 4]
    one_speaker = spoken([[1.0] * 12])
    assert [len(fold.held_out) for fold in folds.divide(one_speaker, 3, 1, by_speaker=False)] == [4, 4, 4]


@pytest.mark.parametrize("lengths", [[[1.0]], [[1.0]] * 2, [[1.0] * 5] * 2])
def test_too_few_speakers_are_refused(lengths):
    with pytest.raises(UserError, match=f"{len(lengths)} speakers do not fill 3 folds .*; --by utterance"):
        folds.divide(spoken(lengths), 3, 1)


def test_beside_a_speaker_with_most_of_the_data_stands_another():
    for fold in folds.divide(spoken([[1.0]] * 8 + [[20.0]]), 2, 1):
        assert fold.train and fold.dev and fold.held_out
