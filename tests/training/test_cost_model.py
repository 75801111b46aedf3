"""What a training costs: laws that were put in are found again, and what cannot be known is not negative."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch

from asrtts.training import cost_model
from asrtts.training.cost_model import Costs, Trial


def trials(first=(0.5, 0.02, 1e-3), again=(0.1, 0.01, 1e-3), memory=(4e8, 7e6, 1e5, 3e7)) -> list[Trial]:
    made = []
    for shapes, (padded, longest) in enumerate(itertools.product((10.0, 20.0, 40.0), (2.0, 8.0)), 1):
        sizes = np.array([1.0, padded, padded * longest, shapes])
        times = float(sizes[:3] @ first), float(sizes[:3] @ again)
        made.append(Trial(padded, longest, shapes, *times, int(sizes @ memory)))
    return made


def test_the_law_that_was_put_in_is_found():
    costs, padded, longest = Costs.of(trials()), np.array([80.0, 160.0]), np.array([4.0, 16.0])
    np.testing.assert_allclose(costs.seconds(padded, longest, 0.0), 0.1 + 0.01 * padded + 1e-3 * padded * longest)
    np.testing.assert_allclose(costs.seconds(padded, longest, 1.0), 0.5 + 0.02 * padded + 1e-3 * padded * longest)
    assert costs.peak(padded, longest, 10) == pytest.approx(4e8 + 160 * 7e6 + 160 * 16 * 1e5 + 3e8)


def test_the_largest_batch_takes_what_may_be_used():
    costs = Costs.of(trials())
    size = costs.largest(4e9, longest=8.0)
    assert costs.peak(np.array([size]), np.array([8.0]), 10**6) == pytest.approx(4e9)
    assert costs.largest(1e8, longest=8.0) <= 0  # the model alone is larger


def test_no_weight_is_negative():
    """A trial during which others used the machine: the longer batch took less."""
    costs = Costs.of([Trial(10.0, 2.0, 1, 3.0, 2.0, 5 << 28), Trial(20.0, 2.0, 2, 1.0, 1.0, 5 << 28)])
    assert all((weights >= 0).all() for weights in (costs.first, costs.again, costs.memory))


def test_one_trial_is_enough():
    costs = Costs.of(trials()[:1])
    assert float(costs.seconds(np.array([10.0]), np.array([2.0]), 0.0)[0]) == pytest.approx(0.22)
    assert costs.peak(np.array([10.0]), np.array([2.0]), 1) == pytest.approx(5.02e8, rel=1e-6)


def test_the_peak_counts_what_was_held_for_a_moment():
    before = cost_model.peak(torch.device("cpu"))
    torch.ones(cost_model.peak(torch.device("cpu")) // 4)  # float32: as much again
    assert cost_model.peak(torch.device("cpu")) > 1.5 * before


def test_free_memory_is_within_the_container(tmp_path, monkeypatch):
    assert 0 < cost_model.free(torch.device("cpu")) < sys.maxsize
    assert cost_model._free_in_container(tmp_path) == sys.maxsize  # no control group
    for name, text in (("max", "1000\n"), ("current", "900\n"), ("stat", "anon 5\ninactive_file 300\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert cost_model._free_in_container(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert cost_model._free_in_container(tmp_path) == sys.maxsize
