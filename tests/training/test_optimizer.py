"""The learning rate's course at its corners, and what is decayed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asrtts.config import build
from asrtts.registry import UserError
from asrtts.training import optimizer
from asrtts.training.optimizer import Config, learning_rate


@pytest.mark.parametrize("schedule", ["cosine", "linear", "inverse_sqrt", "constant"])
def test_the_rate_rises_by_equal_steps_to_its_peak(schedule):
    config = Config(lr=1.0, warmup_updates=4, schedule=schedule)
    assert [learning_rate(config, update, 20) for update in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("schedule", "first", "last"), [("cosine", 1.0, 0.1), ("linear", 1.0, 0.1), ("constant", 1.0, 1.0)]
)
def test_the_rate_ends_where_it_says(schedule, first, last):
    config = Config(lr=1.0, warmup_updates=4, schedule=schedule, final_lr=0.1)
    assert learning_rate(config, 4, 20) == first
    assert learning_rate(config, 20, 20) == pytest.approx(last)
    rates = [learning_rate(config, update, 20) for update in range(4, 21)]
    assert rates == sorted(rates, reverse=True)


def test_cosine_and_linear_are_half_way_down_in_the_middle():
    for schedule in ("cosine", "linear"):
        config = Config(lr=1.0, warmup_updates=4, schedule=schedule, final_lr=0.2)
        assert learning_rate(config, 12, 20) == pytest.approx(0.6)


def test_inverse_sqrt_halves_when_the_updates_are_four_times_as_many():
    config = Config(lr=1.0, warmup_updates=4, schedule="inverse_sqrt")
    assert learning_rate(config, 16, 20) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "inverse_sqrt", "constant"])
def test_there_need_not_be_a_rise_nor_a_fall(schedule):
    none = Config(lr=1.0, warmup_updates=0, schedule=schedule)
    assert 0.9 < learning_rate(none, 1, 100) <= 1.0
    long = Config(lr=1.0, warmup_updates=200, schedule=schedule)
    assert learning_rate(long, 100, 100) == 0.5
    assert learning_rate(Config(lr=1.0, warmup_updates=1, schedule=schedule), 1, 1) == 1.0


def test_only_matrices_are_decayed():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    groups = optimizer.build(Config(weight_decay=0.3), model.parameters()).param_groups
    assert {p.ndim for p in groups[0]["params"]} == {2} and groups[0]["weight_decay"] == 0.3
    assert {p.ndim for p in groups[1]["params"]} == {1} and groups[1]["weight_decay"] == 0.0


def test_it_is_torchs_adamw_to_the_bit():
    results = []
    for kind in (optimizer.AdamW, torch.optim.AdamW):
        torch.manual_seed(0)
        model = nn.Linear(5, 7)
        optim = kind(model.parameters(), lr=0.1, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
        for _ in range(5):
            optim.zero_grad(set_to_none=True)
            assert model.weight.grad is None
            model(torch.randn(3, 5)).square().sum().backward()
            optim.step()
        assert model.weight.requires_grad and model.weight.is_leaf
        results.append(model.weight.detach())
    assert torch.equal(*results)


@pytest.mark.parametrize("setting", [{"betas": [0.9, 1.0]}, {"eps": 0}, {"lr": 0}, {"schedule": "cosinus"}])
def test_a_setting_that_adam_cannot_take_is_refused_by_its_key(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        build(Config, setting, "conf")
