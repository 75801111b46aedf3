"""Mixtures of Gaussians: their densities, and that a step of estimation never makes them worse."""

from __future__ import annotations

import numpy as np
import pytest

from asrtts.alignment.mixtures import LEAST_VARIANCE, Mixtures


def some(rng: np.random.Generator, sizes: list[int], dims: int) -> Mixtures:
    weights = np.concatenate([rng.dirichlet(np.ones(size)) for size in sizes])
    total = sum(sizes)
    return Mixtures(
        np.cumsum([0, *sizes]), weights, rng.standard_normal((total, dims)), rng.uniform(0.3, 2.0, (total, dims))
    )


def test_likelihoods_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    model = some(rng, [1, 3, 2], 4)
    frames = rng.standard_normal((7, 4)).astype(np.float32)
    found = model.log_likelihoods(frames, np.array([2, 1]))
    for column, k in enumerate((2, 1)):
        of = slice(model.first[k], model.first[k + 1])
        apart = (frames[:, None] - model.means[of]) ** 2 / model.variances[of]
        density = np.exp(-0.5 * apart) / np.sqrt(2 * np.pi * model.variances[of])
        wanted = np.log((model.weights[of] * density.prod(2)).sum(1))
        assert found[:, column] == pytest.approx(wanted, abs=1e-4)


def test_a_step_without_splits_never_lowers_the_likelihood() -> None:
    rng = np.random.default_rng(1)
    frames = np.concatenate([rng.standard_normal((300, 3)) + shift for shift in (-2, 0, 3)]).astype(np.float32)
    of = np.repeat([0, 1], 450)
    model, before = some(rng, [2, 2], 3), -np.inf
    for _ in range(12):
        both = model.log_likelihoods(frames, np.array([0, 1]))
        now = float(both[np.arange(900), of].sum())
        assert now >= before - 1e-2
        before, model = now, model.improved(frames, of, 4)
    assert np.add.reduceat(model.weights, model.first[:-1]) == pytest.approx([1, 1])


def test_two_heaps_become_two_components() -> None:
    rng = np.random.default_rng(2)
    heaps = np.concatenate([rng.standard_normal((500, 2)) * 0.5 - 3, rng.standard_normal((1500, 2)) * 0.5 + 3])
    frames = heaps.astype(np.float32)
    model, of = Mixtures.one(frames.mean(0), frames.var(0), 1), np.zeros(2000, int)
    for _ in range(20):
        model = model.improved(frames, of, 2)
    order = model.means[:, 0].argsort()
    assert model.means[order] == pytest.approx(np.array([[-3, -3], [3, 3]]), abs=0.1)
    assert model.weights[order] == pytest.approx([0.25, 0.75], abs=0.01)
    assert model.variances == pytest.approx(np.full((2, 2), 0.25), abs=0.05)


def test_few_frames_make_no_more_components_and_no_variance_vanishes() -> None:
    frames = np.zeros((30, 2), np.float32)
    model = Mixtures.one(np.ones(2), np.ones(2), 3)
    model = model.improved(frames, np.zeros(30, int), 100)
    assert model.first.tolist() == [0, 1, 2, 3]  # 30 are too few for two; the others have none
    assert model.variances[0] == pytest.approx([LEAST_VARIANCE] * 2)
    assert model.means[1] == pytest.approx([1, 1])
