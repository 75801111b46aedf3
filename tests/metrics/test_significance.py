"""Confidence intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from asrtts.metrics import significance


def _utterances(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 15, size=n)
    return random.binomial(lengths, 0.1), lengths


def test_interval_holds_the_rate_and_is_repeatable() -> None:
    errors, lengths = _utterances(100, 0)
    low, high = significance.interval(errors, lengths)
    assert low < errors.sum() / lengths.sum() < high
    assert significance.interval(errors, lengths) == (low, high)


def test_true_rate_is_held_95_times_of_100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "RESAMPLES", 500)
    intervals = [significance.interval(*_utterances(80, seed)) for seed in range(300)]
    held = np.mean([low <= 0.1 <= high for low, high in intervals])
    assert 0.90 <= held <= 0.98  # the binomial's own spread is 1.3 %; percentile intervals are a little too narrow


def test_many_utterances_narrow_the_interval_by_the_root() -> None:
    errors, lengths = _utterances(200, 1)
    one = significance.interval(errors, lengths)
    sixteen = significance.interval(np.tile(errors, 16), np.tile(lengths, 16))
    assert (one[1] - one[0]) / (sixteen[1] - sixteen[0]) == pytest.approx(4, rel=0.1)


def test_speakers_that_differ_widen_the_interval() -> None:
    lengths = np.full(100, 10)
    errors = np.repeat([0, 1, 0, 4, 0, 1, 0, 5, 0, 3], 10)  # ten speakers, each as bad as ever
    speakers = [f"s{n // 10}" for n in range(100)]
    by_utterance = significance.interval(errors, lengths)
    by_speaker = significance.interval(errors, lengths, speakers)
    assert by_speaker[1] - by_speaker[0] > 2 * (by_utterance[1] - by_utterance[0])
    every_one = significance.interval(errors, lengths, [str(n) for n in range(100)])
    assert every_one == pytest.approx(by_utterance, abs=0.02)


def test_nothing_to_draw_from_gives_no_interval() -> None:
    assert significance.interval(np.array([]), np.array([])) is None
    assert significance.interval(np.array([1, 0]), np.array([0, 0])) is None
    assert significance.interval(np.array([1, 0]), np.array([3, 3]), ["s", "s"]) is None


def test_resamples_without_words_are_left_out() -> None:
    low, high = significance.interval(np.array([0, 1]), np.array([0, 4]))
    assert np.isfinite([low, high]).all() and high <= 0.25


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, lengths = _utterances(50, 2)
    whole = significance.interval(errors, lengths)
    monkeypatch.setattr(significance, "_DRAWS", 1000)
    assert significance.interval(errors, lengths) == whole
