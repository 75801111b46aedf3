"""p-values against the tables of textbooks."""

from __future__ import annotations

import math

import pytest

from asrtts.metrics.distributions import normal_p, normal_quantile, t_p, t_quantile


def test_normal() -> None:
    assert normal_p(1.959964) == pytest.approx(0.05, abs=1e-6)
    assert normal_p(-2.575829) == pytest.approx(0.01, abs=1e-6)
    assert normal_p(0.0) == 1.0
    assert normal_quantile(0.975) == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize(
    "freedom, t",
    [(1, 12.706205), (2, 4.302653), (3, 3.182446), (4, 2.776445), (10, 2.228139), (120, 1.979930), (1e5, 1.959988)],
)
def test_t_at_five_percent(freedom: float, t: float) -> None:
    assert t_p(t, freedom) == pytest.approx(0.05, abs=1e-6)
    assert t_p(-t, freedom) == t_p(t, freedom)
    assert t_quantile(0.975, freedom) == pytest.approx(t, abs=2e-5)


def test_t_where_it_has_a_formula() -> None:
    for t in (0.0, 0.3, 1.0, 5.0, 40.0):
        assert t_p(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-12)
        assert t_p(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)
    assert t_p(8.0, 30.5) == pytest.approx((t_p(8.0, 30) * t_p(8.0, 31)) ** 0.5, rel=0.01)
