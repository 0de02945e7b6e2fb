"""Nodes that drop out: as often and as long as documented, and without moving the mean."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import NODES, experiment, here, named, stacked

from decentralizepy.graphs.mixing import is_doubly_stochastic, metropolis_hastings, mixing_matrix
from decentralizepy.node.dropout import Dropout, away
from decentralizepy.streams import generator


@pytest.mark.parametrize(
    ("rate", "correlation"), [(0.25, 0.1), (0.25, 0.6), (0.1, 0.9), (0.5, 0.0)]
)
def test_the_chain_is_the_documented_one(rate: float, correlation: float) -> None:
    """Measured: P(away), P(away | away before) and P(away | there before)."""
    n, ts = 300, 400
    found = np.array([away(7, n, t, rate, correlation) for t in range(ts)])
    again = rate + correlation * (1 - rate)
    before, after = found[:-1].ravel(), found[1:].ravel()
    assert after[before].mean() == pytest.approx(again, abs=0.012)
    assert after[~before].mean() == pytest.approx(rate, abs=0.008)
    stationary = rate / (1 - correlation * (1 - rate))
    assert found[100:].mean() == pytest.approx(stationary, abs=0.01)
    if (rate, correlation) == (0.25, 0.1):
        assert stationary == pytest.approx(0.2703, abs=1e-4), "not the 30.2 % of the reference"


def test_looking_back_gives_what_going_forward_gives() -> None:
    rate, correlation, n = 0.2, 0.7, 50
    state = np.zeros(n, bool)
    for t in range(60):
        limit = np.where(state, rate + correlation * (1 - rate), rate)
        state = generator(3, 0, "absence", t).random(n) < limit
        assert np.array_equal(state, away(3, n, t, rate, correlation))


@pytest.mark.parametrize(("rate", "correlation"), [(0.0, 0.0), (1.0, 0.0), (0.3, 1.0)])
def test_the_ends_of_the_ranges(rate: float, correlation: float) -> None:
    found = [away(1, 20, t, rate, correlation) for t in range(30)]
    if rate in (0, 1):
        assert all((gone == bool(rate)).all() for gone in found)
    else:  # who is away never comes back
        assert all((a <= b).all() for a, b in pairwise(found))


@pytest.mark.parametrize(("options", "said"), [
    ({"dropout_rate": 1.5}, "dropout_rate = 1.5"),
    ({"dropout_correlation": -0.1}, "dropout_correlation = -0.1"),
])  # fmt: skip
def test_other_numbers_are_rejected(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Dropout(**options)


def test_who_is_away_neither_trains_nor_sends_and_the_mean_stays(
    tmp_path: Path, cache: Path
) -> None:
    """Without training X(t+1) = W(t) X(t), with the weights W(t) among those that are there."""

    class Mine(Dropout):
        def setup(self):
            self.x = torch.arange(len(self.x)).float() % 7 + self.uid

    one = experiment(tmp_path, cache, "dropout", rounds="0")
    out = here(one, "run", 6, node=lambda: Mine(dropout_rate=0.4), test_after=0)
    x = np.arange(NODES)[:, None] + (np.arange(out.rows[0].numel()) % 7)[None, :].astype(float)
    mean, sent = x.mean(0), np.zeros(NODES, int)
    for t in range(6):
        there = np.flatnonzero(~away(90, NODES, t, 0.4, 0.1)).tolist()
        graph = one.graph.restrict(there)
        matrix = mixing_matrix(graph, metropolis_hastings)
        assert is_doubly_stochastic(matrix)
        x = matrix @ x
        sent += np.array(graph.degrees())
    np.testing.assert_allclose(stacked(out.rows).numpy(), x, atol=1e-5)
    np.testing.assert_allclose(stacked(out.rows).mean(0).numpy(), mean, atol=1e-5)
    assert sent.min() > 0 and sent.max() < 6 * 4


def test_the_driver_has_it(tmp_path: Path, cache: Path) -> None:
    keys = "dropout_rate = 0.4\ndropout_correlation = 0.2"
    one = experiment(tmp_path, cache, "driver", node=keys)
    driver = "testingPeerSamplerMultipleAvgRoundsDropout.py"
    out = here(one, "run", 8, test_after=8, eval_file=driver, averaging_steps=2)
    steps = {row["uid"]: row["local_steps"] for row in out.records if row["iteration"] == 8}
    there = sum(~away(90, NODES, t, 0.4, 0.2) for t in range(8))
    assert steps == {uid: 3 * int(there[uid]) for uid in range(NODES)}
    named_ = experiment(tmp_path, cache, "named", node=named("dropout", "Dropout", keys))
    same = here(named_, "run", 8, test_after=8, averaging_steps=2)
    assert all(torch.equal(out.rows[uid], same.rows[uid]) for uid in out.rows)
