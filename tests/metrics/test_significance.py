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
    # All drawn test sets have the rate of this one: it was not measured how far another may lie.
    assert significance.interval(np.array([1]), np.array([5])) is None
    assert significance.interval(np.array([1, 2]), np.array([5, 0])) is None
    assert significance.interval(np.array([1, 2, 2]), np.array([5, 0, 5]), ["a", "b", "a"]) is None


def test_resamples_without_words_are_left_out() -> None:
    low, high = significance.interval(np.array([0, 1, 1]), np.array([0, 4, 4]))
    assert np.isfinite([low, high]).all() and high <= 0.25


def test_chunks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, lengths = _utterances(50, 2)
    whole = significance.interval(errors, lengths)
    monkeypatch.setattr(significance, "_DRAWS", 1000)
    assert significance.interval(errors, lengths) == whole


# Differences ------------------------------------------------------------------------------------------------------


def test_all_systems_are_drawn_as_each_alone() -> None:
    (errors, lengths), (others, _) = _utterances(60, 3), _utterances(60, 4)
    rates = significance.resampled_rates(np.column_stack([errors, others]), lengths)
    for column, of_one in enumerate((errors, others)):
        assert significance.percentiles(rates[:, column]) == significance.interval(of_one, lengths)


def test_a_paired_difference_is_surer_than_two_intervals_say() -> None:
    """Systems that stumble over the same utterances: the intervals overlap, that of the difference is far from zero."""
    hard, lengths = _utterances(150, 5)
    better = np.maximum(hard - (np.arange(150) % 4 == 0), 0)
    rates = significance.resampled_rates(np.column_stack([hard, better]), lengths)
    worse, best = (significance.percentiles(rates[:, n]) for n in range(2))
    assert best[1] > worse[0]
    assert significance.percentiles(rates[:, 0] - rates[:, 1])[0] > 0
    assert (rates[:, 1] < rates[:, 0]).mean() == 1.0


def _rates(random: np.random.Generator, count: int, rate: float, seeds: int, spread: float) -> np.ndarray:
    """Of errors (N, seeds): every run has a rate of its own, and every utterance is as hard for all."""
    hard = random.gamma(2.0, 0.5, size=count)
    return np.clip(rate * hard[:, None] * np.exp(random.normal(0, spread, size=seeds)), 0, 0.9)


def _trained(random: np.random.Generator, lengths: np.ndarray, rate: float, seeds: int, spread: float) -> np.ndarray:
    """Errors (N, seeds)."""
    return random.binomial(lengths[:, None], _rates(random, len(lengths), rate, seeds, spread))


def _decoded_twice(
    random: np.random.Generator, lengths: np.ndarray, seeds: int, gain: float, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """Errors (N, seeds) of two searches of the same runs, whose rates differ much.

    The second mends 3 errors of 10, and makes as many others but for a share `gain`, which is another one in every run.
    """
    rates = _rates(random, len(lengths), 0.1, seeds, 0.3)
    first = random.binomial(lengths[:, None], rates)
    new = 0.3 * rates / (1 - rates) * (1 - gain - random.normal(0, spread, size=seeds))
    return first, random.binomial(first, 0.7) + random.binomial(lengths[:, None] - first, np.clip(new, 0, 1))


@pytest.mark.parametrize("seeds, spread", [(2, 0.1), (3, 0.3), (5, 0.2)])
def test_equal_systems_are_told_apart_at_most_5_times_of_100(seeds: int, spread: float) -> None:
    random = np.random.default_rng(6)
    lengths = random.integers(3, 12, size=80)
    found = [
        significance.over_seeds(*(_trained(random, lengths, 0.1, seeds, spread) for _ in range(2)), lengths).p
        for _ in range(400)
    ]
    assert np.mean(np.array(found) < 0.05) <= 0.075  # the binomial's own spread is 1.1 %


def test_systems_that_differ_are_told_apart_and_the_interval_holds_the_difference() -> None:
    random = np.random.default_rng(7)
    lengths = random.integers(3, 12, size=400)
    found = significance.over_seeds(
        _trained(random, lengths, 0.2, 4, 0.05), _trained(random, lengths, 0.1, 4, 0.05), lengths
    )
    assert found.p < 0.001 and found.interval[0] < found.difference < found.interval[1]
    assert found.interval[0] < 0.1 < found.interval[1]


@pytest.mark.parametrize("seeds, spread", [(2, 0.3), (3, 0.0), (5, 0.3)])
def test_equal_searches_of_the_paired_are_told_apart_at_most_5_times_of_100(seeds: int, spread: float) -> None:
    random = np.random.default_rng(11)
    lengths = random.integers(3, 12, size=130)
    found = [
        significance.over_seeds(*_decoded_twice(random, lengths, seeds, 0.0, spread), lengths, paired=True).p
        for _ in range(400)
    ]
    assert np.mean(np.array(found) < 0.05) <= 0.075  # the binomial's own spread is 1.1 %


def test_what_runs_share_is_no_doubt_about_two_searches() -> None:
    """The second search makes 15 of 100 errors less; as if of other runs, their spread hides it."""
    random = np.random.default_rng(12)
    lengths = random.integers(3, 12, size=130)
    drawn = [_decoded_twice(random, lengths, 3, 0.5, 0.1) for _ in range(200)]
    found, apart = (
        [significance.over_seeds(a, b, lengths, paired=paired) for a, b in drawn] for paired in (True, False)
    )
    assert np.mean([one.p < 0.05 for one in found]) > 0.4
    assert np.mean([one.p < 0.05 for one in apart]) < 0.1
    gains = [0.15 * a.mean(axis=1).sum() / lengths.sum() for a, _ in drawn]
    held = [one.interval[0] <= gain <= one.interval[1] for one, gain in zip(found, gains, strict=True)]
    assert np.mean(held) >= 0.93


def _heads_on_one_encoder(
    random: np.random.Generator, lengths: np.ndarray, seeds: int, gain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Errors (N, seeds) of two heads whose runs of one seed share an encoder, and so three quarters of their spread."""
    hard, encoder = random.gamma(0.5, 2.0, size=(len(lengths), 1)), random.normal(0, 0.2, size=seeds)
    first, second = (
        random.binomial(
            lengths[:, None], np.clip(0.08 * share * hard * np.exp(encoder + random.normal(0, 0.1, seeds)), 0, 0.95)
        )
        for share in (1.0, 1.0 - gain)
    )
    return first, second


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_heads_on_one_encoder_are_paired_and_equal_ones_told_apart_at_most_5_times_of_100(seeds: int) -> None:
    random = np.random.default_rng(13)
    lengths = random.integers(3, 12, size=130)
    drawn = [_heads_on_one_encoder(random, lengths, seeds, 0.0) for _ in range(400)]
    found = [significance.over_seeds(a, b, lengths, paired=True).p for a, b in drawn]
    assert np.mean(np.array(found) < 0.05) <= 0.075


def test_pairing_heads_on_one_encoder_finds_more() -> None:
    """Of heads of which one makes 30 of 100 errors less."""
    random = np.random.default_rng(14)
    lengths = random.integers(3, 12, size=130)
    drawn = [_heads_on_one_encoder(random, lengths, 3, 0.3) for _ in range(300)]
    found, apart = (
        np.mean([significance.over_seeds(a, b, lengths, paired=paired).p < 0.05 for a, b in drawn])
        for paired in (True, False)
    )
    assert found > 1.3 * apart


def test_seeds_without_spread_leave_the_spread_of_utterances() -> None:
    random = np.random.default_rng(8)
    lengths = random.integers(3, 12, size=500)
    a, b = (random.binomial(lengths, rate)[:, None].repeat(3, axis=1) for rate in (0.1, 0.13))
    found = significance.over_seeds(a, b, lengths)
    assert found.seed_variance == pytest.approx(0, abs=1e-20)
    rates = significance.resampled_rates(np.column_stack([a[:, 0], b[:, 0]]), lengths)
    assert found.interval == pytest.approx(significance.percentiles(rates[:, 0] - rates[:, 1]), abs=0.002)


def test_one_seed_has_no_spread_over_seeds() -> None:
    errors, lengths = _utterances(50, 9)
    assert significance.over_seeds(errors[:, None], np.tile(errors[:, None], 3), lengths) is None


def test_holm_by_hand() -> None:
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([0.9, 0.8]) == [1.0, 1.0]
    assert significance.holm([]) == []


def test_words_needed_are_enough_four_times_of_five() -> None:
    """Draw test sets of the size that was said, with the difference that was seen."""
    z, words = 1.0, 773
    needed = significance.words_needed(z, words)
    drawn = np.random.default_rng(10).normal(z * np.sqrt(needed / words), 1.0, size=20000)
    assert (np.abs(drawn) > 1.96).mean() == pytest.approx(0.8, abs=0.01)
    assert significance.words_needed(z, words, tests=6) > needed
    assert significance.words_needed(0.1, words) is None


def test_no_number_of_words_makes_up_for_the_spread_over_seeds() -> None:
    found = significance.Seeds(0.02, (-0.1, 0.1), 0.5, 4.0, 0.6, seed_variance=1e-3, utterance_variance=1e-4)
    assert significance.words_needed_with_seeds(found, 773) == 0
