"""Normal and Student's t: two-sided p-values and the quantiles that intervals are made of."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

# Gauss and Legendre's nodes lie densest at the ends, and the tail of t is all at one end.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(256)


def normal_p(z: float) -> float:
    """P(|Z| >= |z|)."""
    return math.erfc(abs(z) / math.sqrt(2))


def normal_quantile(share: float) -> float:
    """The z below which this share of the distribution lies, 0 < share < 1."""
    return NormalDist().inv_cdf(share)


def t_p(t: float, freedom: float) -> float:
    """P(|T| >= |t|) with `freedom` > 0 degrees of freedom, not only whole ones.

    With t = sqrt(freedom) tan(x) the density is proportional to cos(x) ** (freedom - 1), which is summed from x to
    pi / 2. For small degrees of freedom the density rises steeply at pi / 2, so below 1 the answer is coarse (1e-3).
    """
    at = math.atan(abs(t) / math.sqrt(freedom))
    half = (math.pi / 2 - at) / 2
    x = at + half * (_NODES + 1)
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(math.pi) / 2
    tail = half * float(_WEIGHTS @ np.exp((freedom - 1) * np.log(np.cos(x)) + scale))
    return min(1.0, 2 * tail)


def t_quantile(share: float, freedom: float) -> float:
    """The t below which this share of the distribution lies, 0.5 <= share < 1."""
    wanted, low, high = 2 * (1 - share), 0.0, 1.0
    while t_p(high, freedom) > wanted:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_p(middle, freedom) > wanted else (low, middle)
    return high
