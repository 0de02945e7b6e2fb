"""Tests of a difference of means: Student's paired t, Welch's t and Wilcoxon's signed ranks.

Two-sided p-values in closed form or by counting, so that SciPy is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from results.interval import student

#: Above so many pairs Wilcoxon's test goes by the normal law with a correction for ties.
MOST_EXACT: Final = 50
_TINY: Final = 1e-300
_TERMS: Final = 500


@dataclass(frozen=True)
class Difference:
    """``mean`` of b - a with its 95 % interval; t with its degrees of ``freedom``, and p-values.

    ``p_wilcoxon`` is NaN where the test is unpaired.
    """

    n: int
    mean: float
    low: float
    high: float
    t: float
    freedom: float
    p_t: float
    p_wilcoxon: float = math.nan


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Student's test on the differences of pairs, beside Wilcoxon's; NaN p for fewer than two."""
    d = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    n = len(d)
    if n < 2:
        return _nothing(n, float(d.mean()) if n else math.nan)
    error = float(d.std(ddof=1)) / math.sqrt(n)
    return _tested(n, float(d.mean()), error, n - 1, wilcoxon(d))


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Two independent samples of unequal variances (Welch, 1947); NaN p for fewer than two."""
    x, y = (np.asarray(one, dtype=np.float64) for one in (a, b))
    n = min(len(x), len(y))
    mean = float(y.mean() - x.mean()) if n else math.nan
    if n < 2:
        return _nothing(n, mean)
    parts = [float(one.var(ddof=1)) / len(one) for one in (x, y)]
    total = sum(parts)
    below = parts[0] ** 2 / (len(x) - 1) + parts[1] ** 2 / (len(y) - 1)
    freedom = total**2 / below if below else float(len(x) + len(y) - 2)
    return _tested(n, mean, math.sqrt(total), freedom)


def _nothing(n: int, mean: float) -> Difference:
    return Difference(n, mean, *[math.nan] * 5)


def _tested(
    n: int, mean: float, error: float, freedom: float, signed: float = math.nan
) -> Difference:
    if error == 0:  # all differences are equal
        t, p = (math.nan, 1.0) if mean == 0 else (math.copysign(math.inf, mean), 0.0)
        return Difference(n, mean, mean, mean, t, freedom, p, signed)
    half, t = _quantile(freedom) * error, mean / error
    return Difference(n, mean, mean - half, mean + half, t, freedom, p_of_t(t, freedom), signed)


def _quantile(freedom: float) -> float:
    """The 97.5 % point of Student's t, also between whole degrees of freedom, by bisection."""
    if freedom == int(freedom):
        return student(int(freedom))
    low, high = 1.0, 1e7
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if p_of_t(middle, freedom) > 0.05 else (low, middle)
    return low


def p_of_t(t: float, freedom: float) -> float:
    """P(|T| >= |t|) of Student's t: I_x(f / 2, 1 / 2) at x = f / (f + t^2)."""
    if math.isinf(t):
        return 0.0
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below
        return 1 - _beta(1 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x)
    front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(front) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + ...)), from the front (Lentz's method)."""
    value, c, d = 1.0, 1.0, 0.0
    for k in range(1, _TERMS):
        m = k // 2
        if k % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def wilcoxon(differences: Sequence[float] | np.ndarray) -> float:
    """Wilcoxon's signed-rank test (1945), two-sided; zeros are left out, ties share their rank.

    Exact, over all signs of the ranks that are there, up to `MOST_EXACT` of them.
    """
    d = np.asarray(differences, dtype=np.float64)
    d = d[d != 0]
    if not len(d):
        return 1.0
    doubled = _doubled_ranks(np.abs(d))
    above = int(doubled[d > 0].sum())
    return _exact(doubled, above) if len(d) <= MOST_EXACT else _normal(doubled, above)


def _doubled_ranks(values: np.ndarray) -> np.ndarray:
    """Twice the ranks, which are whole numbers also where ties share one."""
    ordered = np.sort(values)
    first = np.searchsorted(ordered, values, "left")
    return first + np.searchsorted(ordered, values, "right") + 1


def _exact(doubled: np.ndarray, above: int) -> float:
    ways = np.zeros(int(doubled.sum()) + 1)
    ways[0] = 1.0
    for rank in doubled:
        ways[rank:] = ways[rank:] + ways[: len(ways) - rank].copy()
    tail = min(ways[: above + 1].sum(), ways[above:].sum()) / ways.sum()
    return float(min(1.0, 2 * tail))


def _normal(doubled: np.ndarray, above: int) -> float:
    mean, deviation = doubled.sum() / 2, math.sqrt(float((doubled.astype(float) ** 2).sum())) / 2
    return math.erfc(abs(above - mean) / deviation / math.sqrt(2))


def holm(p: Sequence[float]) -> list[float]:
    """p-values that hold for all of several tests together (Holm, 1979); NaN stays."""
    order = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    found, highest = [math.nan] * len(p), 0.0
    for place, (value, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * value))
        found[i] = highest
    return found
