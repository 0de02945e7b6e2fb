"""Measures of membership: scikit-learn's on the same scores, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score, roc_curve

from results.attacks.scores import auc, auc_interval, roc, tpr_at_fpr, tpr_columns

LOSSES = arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.5]))


@given(LOSSES, LOSSES)
@settings(max_examples=100)
def test_as_scikit_learn_has_it(members: np.ndarray, others: np.ndarray) -> None:
    truth = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    scores = -np.concatenate([members, others]).astype(float)
    assert auc(members, others) == pytest.approx(roc_auc_score(truth, scores))
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    ours = roc(members, others)
    np.testing.assert_allclose(ours, (fpr, tpr))
    for limit, found in tpr_at_fpr(members, others, (1e-3, 0.1, 0.25, 0.5, 1.0)).items():
        assert found == pytest.approx(tpr[fpr <= limit + 1e-12].max())


@pytest.mark.parametrize("distance", [0.0, 0.5, 2.0])
def test_gaussians(distance: float) -> None:
    rng = np.random.default_rng(1)
    n = 20_000
    members, others = rng.normal(0, 1, n), rng.normal(distance, 1, n)
    expected = 0.5 * (1 + math.erf(distance / 2))
    assert auc(members, others) == pytest.approx(expected, abs=0.01)
    low, high = auc_interval(members, others)
    assert low < expected < high
    # Hanley & McNeil's closed form of the variance holds roughly; for normal scores nearly
    q1, q2 = expected / (2 - expected), 2 * expected**2 / (1 + expected)
    variance = expected * (1 - expected) + (n - 1) * (q1 + q2 - 2 * expected**2)
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(variance) / n, rel=0.1)


def test_intervals_hold_what_they_promise() -> None:
    rng, inside = np.random.default_rng(2), 0
    expected = 0.5 * (1 + math.erf(0.5))
    for _ in range(400):
        low, high = auc_interval(rng.normal(0, 1, 60), rng.normal(1, 1, 80))
        inside += low <= expected <= high
    assert 0.91 < inside / 400 < 0.985


def test_a_perfect_attack_finds_all_at_any_rate() -> None:
    members, others = np.zeros(10), np.ones(10)
    assert auc(members, others) == 1
    assert set(tpr_at_fpr(members, others).values()) == {1.0}
    assert set(tpr_at_fpr(others, members).values()) == {0.0}


def test_equal_losses_tell_nothing() -> None:
    assert auc(np.ones(3), np.ones(5)) == 0.5
    assert set(tpr_at_fpr(np.ones(3), np.ones(5)).values()) == {0.0}


def test_losses_that_are_no_number_are_infinite() -> None:
    nan, some = np.full(4, np.nan), np.arange(4.0)
    assert auc(nan, nan) == 0.5
    assert auc(some, nan) == 1
    assert auc(nan, some) == 0
    assert auc(np.full(4, np.inf), nan) == 0.5


def test_nobody_gives_nothing() -> None:
    none = np.zeros(0)
    assert math.isnan(auc(none, np.ones(2)))
    assert math.isnan(auc(np.ones(2), none))
    assert all(math.isnan(x) for x in auc_interval(np.ones(1), np.ones(9)))
    assert all(math.isnan(x) for x in tpr_at_fpr(none, np.ones(2)).values())


def test_the_references_names() -> None:
    assert [*tpr_columns(np.zeros(2), np.ones(2))] == [
        "tpr_at_fpr1e-05", "tpr_at_fpr0.0001", "tpr_at_fpr0.001", "tpr_at_fpr0.01", "tpr_at_fpr0.1"
    ]  # fmt: skip
