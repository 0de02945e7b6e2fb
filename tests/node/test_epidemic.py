"""Epidemic learning: who hears whom by what law, and rounds that wait for some time only."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import EPIDEMIC, NODES, PLAIN, experiment, here, named, simulation, stacked

from decentralizepy.errors import ConfigError
from decentralizepy.graphs.schedules import EpidemicSchedule, subsets


@given(st.integers(1, 12), st.data(), st.integers(0, 20))
def test_a_subset_has_different_members(n: int, data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(0, n))
    found = subsets(n, size, 7, np.random.default_rng(seed))
    assert found.shape == (7, size) and ((found >= 0) & (found < n)).all()
    assert all(len(set(row)) == size for row in found.tolist())


def test_all_subsets_are_equally_likely() -> None:
    count = 20_000
    found = np.sort(subsets(6, 3, count, np.random.default_rng(1)), axis=1)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == comb(6, 3)
    expected = count / comb(6, 3)
    assert ((counts - expected) ** 2 / expected).sum() < 43.8, "chi-square, 19 degrees, p = 0.001"


def test_everybody_sends_to_s_others_and_in_degrees_are_binomial() -> None:
    n, s, draws = 20, 3, 1500
    schedule = EpidemicSchedule(n, seed=9, degree=s)
    counts = np.zeros(n)
    pairs = np.zeros((n, n))
    for t in range(draws):
        graph = schedule.at(t)
        assert set(graph.degrees()) == {s}
        for uid in range(n):
            counts[graph.in_degree(uid)] += 1
        pairs += graph.adjacency()
    p = s / (n - 1)
    law = np.array([comb(n - 1, d) * p**d * (1 - p) ** (n - 1 - d) for d in range(n)])
    np.testing.assert_allclose(counts / counts.sum(), law, atol=0.006)
    others = pairs[~np.eye(n, dtype=bool)] / draws
    assert not np.diagonal(pairs).any() and others.std() < 1.5 * np.sqrt(p * (1 - p) / draws)


def test_it_is_a_pure_function_of_time() -> None:
    one, other = (EpidemicSchedule(30, seed=4, degree=2) for _ in range(2))
    assert [one.at(t) for t in range(20)] == [other.at(t) for t in reversed(range(20))][::-1]
    assert one.at(3, 0) is one.at(3, 1) and one.at(3) != one.at(4)
    each = EpidemicSchedule(30, seed=4, degree=2, per_averaging_round=True)
    assert each.at(3, 0) != each.at(3, 1)
    with pytest.raises(ValueError, match="degree 5: 5 nodes can send to 0 to 4 others"):
        EpidemicSchedule(5, seed=1, degree=5)


def test_a_round_is_the_plain_mean_of_what_came(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "epidemic", rounds="0")
    out = here(one, "run", 5, node=apart(), test_after=0)
    schedule, x = EpidemicSchedule(NODES, seed=90, degree=2), start(out)
    for t in range(5):
        weights = schedule.at(t).adjacency() + np.eye(NODES)
        x = (weights / weights.sum(axis=1, keepdims=True)) @ x
    np.testing.assert_allclose(stacked(out.rows).numpy(), x, atol=1e-5)


def apart(**options):
    """Nodes of the program that begin far from one another."""
    import torch

    from decentralizepy.node.epidemic import EpidemicLearning

    class Apart(EpidemicLearning):
        def setup(self):
            self.x = torch.arange(len(self.x)).float() % 5 + self.uid

    return lambda: Apart(**options)


def start(out) -> np.ndarray:
    length = out.rows[0].numel()
    return np.arange(NODES)[:, None] + (np.arange(length) % 5)[None, :].astype(float)


def test_a_late_node_holds_nobody_up(tmp_path: Path, cache: Path) -> None:
    """Node 7 takes 1 s, the others a tenth, and nobody waits for longer than 0.2 s."""
    one = experiment(tmp_path, cache, "epidemic_timeout", rounds="0")
    costs = np.array([0.1, 0.103, 0.107, 0.111, 0.113, 0.117, 0.119, 1.0])
    flags = {"test_after": 1, "simulate": simulation(one, costs.tolist())}
    out = here(one, "run", 6, node=apart(timeout=0.2), **flags)
    ends = ends_of(out)
    assert max(ends[uid] for uid in range(7)) <= 6 * (0.12 + 0.2)
    patient = here(one, "patient", 6, node=apart(), **flags)
    ends = ends_of(patient)
    assert max(ends[uid] for uid in range(7)) >= 5.0, "without a time-out they wait for it"
    schedule, x, begun = EpidemicSchedule(NODES, seed=90, degree=2), start(out), np.zeros(NODES)
    for t in range(6):
        ready, hears = begun + costs, schedule.at(t).adjacency()
        in_time = hears & (ready[None, :] < ready[:, None] + 0.2)
        weights = in_time + np.eye(NODES)
        x = (weights / weights.sum(axis=1, keepdims=True)) @ x
        last = np.where(in_time, ready[None, :], 0).max(axis=1)
        begun = np.where((hears & ~in_time).any(axis=1), ready + 0.2, np.maximum(ready, last))
    np.testing.assert_allclose(stacked(out.rows).numpy(), x, atol=1e-5)
    assert [ends_of(out)[uid] for uid in range(NODES)] == pytest.approx(begun.tolist())


def ends_of(out) -> dict[int, float]:
    return {row["uid"]: row["elapsed_s"] for row in out.records if row["iteration"] == 6}


def test_the_driver_of_the_reference(tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, "driver", node="graph_degree = 3", **PLAIN)
    byname = here(one, "run", 4, test_after=4, eval_file="tutorial/EL/testingEL_Local.py")
    three = EPIDEMIC.replace("degree = 2", "degree = 3")
    node = named("epidemic", "EpidemicLearning")
    same = experiment(tmp_path, cache, "same", node=node, schedule=three, **PLAIN)
    ours = here(same, "run", 4, test_after=4)
    np.testing.assert_array_equal(stacked(byname.rows), stacked(ours.rows))
    told = {row["total_data"] for row in byname.records if row["iteration"] == 4}
    assert told == {4 * 3 * 4 * byname.rows[0].numel()}
    mixed = experiment(tmp_path, cache, "mixed", node="graph_degree = 3")
    with pytest.raises(ConfigError, match="need a link both ways"):
        here(mixed, "run", 4, eval_file="testingEL_Local.py")
