"""Tests of significance equal SciPy's, and what they are told for runs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from results import significance as s

numbers = st.floats(-100, 100).map(lambda x: round(x, 2))


@settings(max_examples=60)
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12))
def test_paired_is_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs).T
    found = s.paired(a, b)
    assert found.mean == pytest.approx((b - a).mean())
    if np.ptp(b - a) > 1e-9:
        theirs = stats.ttest_rel(b, a)
        assert (found.t, found.p_t) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-8)
        low, high = theirs.confidence_interval()
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3, abs=1e-2)


@settings(max_examples=30)
@given(st.lists(st.integers(-5, 5).filter(bool), min_size=1, max_size=9))
def test_wilcoxon_counts_all_signs(differences: list[int]) -> None:
    d = np.array(differences)
    ranks = stats.rankdata(np.abs(d))
    sums = np.array([*product((0, 1), repeat=len(d))]) @ ranks
    mine = ranks[d > 0].sum()
    expected = min(1, 2 * min((sums <= mine).mean(), (sums >= mine).mean()))
    assert s.wilcoxon([*differences, 0]) == pytest.approx(expected)


@settings(max_examples=60)
@given(st.lists(numbers, min_size=2, max_size=9), st.lists(numbers, min_size=2, max_size=9))
def test_welch_is_scipys(a: list[float], b: list[float]) -> None:
    found = s.welch(a, b)
    if np.std(a) + np.std(b) > 1e-9:
        theirs = stats.ttest_ind(b, a, equal_var=False)
        assert found.p_t == pytest.approx(theirs.pvalue, rel=1e-7)
        assert found.freedom == pytest.approx(theirs.df)
        low, high = theirs.confidence_interval()
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3, abs=1e-2)


def test_wilcoxon_is_scipys_with_and_without_counting() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.3, 1, 20), rng.normal(0.2, 1, 80)
    exact = stats.wilcoxon(few, method="exact").pvalue
    assert s.wilcoxon(few) == pytest.approx(exact)
    normal = stats.wilcoxon(many, method="asymptotic", correction=False).pvalue
    assert s.wilcoxon(many) == pytest.approx(normal)
    assert s.wilcoxon([0.0, 0.0]) == 1.0


def test_equal_differences_and_too_few() -> None:
    assert s.paired([1, 2, 3], [1, 2, 3]).p_t == 1.0
    same = s.paired([1, 2, 3], [2, 3, 4])
    assert (same.p_t, same.low, same.high) == (0.0, 1.0, 1.0)
    assert np.isnan(s.paired([1], [2]).p_t) and s.paired([1], [2]).mean == 1
    assert np.isnan(s.welch([1, 2], [2]).p_t)


def test_holm() -> None:
    assert s.holm([0.01, 0.04, float("nan"), 0.03]) == pytest.approx(
        [0.03, 0.06, float("nan"), 0.06], nan_ok=True
    )
