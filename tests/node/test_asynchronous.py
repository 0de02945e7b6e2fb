"""Asynchronous programs: replayed densely where nobody is late, else held to their invariants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from launching import Experiment
from programs import NODES, experiment, here, named, simulation, stacked
from teams import Team

from decentralizepy.graphs.graph import Graph
from decentralizepy.here import Outcome
from decentralizepy.node.async_pull import AsyncPull
from decentralizepy.node.async_push import AsyncPush
from decentralizepy.node.push_sum import PushSum
from decentralizepy.streams import generator
from decentralizepy.words import Record

#: strongly connected, irregular, one-way
DIRECTED = Graph(
    NODES, [(i, (i + 1) % NODES) for i in range(NODES)] + [(0, 3), (0, 5), (2, 7), (6, 1), (4, 0)]
)
PROGRAMS = {"async_push": AsyncPush, "async_pull": AsyncPull, "push_sum": PushSum}


def apart(name: str, **options):
    """Nodes that begin far from one another; with ``rounds = 0`` they do not train."""

    class Apart(PROGRAMS[name]):
        def setup(self):
            self.x = torch.arange(len(self.x)).float() % 5 + self.uid
            super().setup()

    return lambda: Apart(**options)


def start(length: int) -> np.ndarray:
    return np.arange(NODES)[:, None] + (np.arange(length) % 5)[None, :].astype(float)


def quiet(tmp_path: Path, cache: Path, name: str, staleness: int | None = 0) -> Experiment:
    node = named(name, PROGRAMS[name].__name__, f"staleness = {staleness}")
    one = experiment(tmp_path, cache, name, node=node, rounds="0")
    one.graph = DIRECTED
    return one


def run(one: Experiment, name: str, iterations: int, latency: float, staleness, seconds=0.1):
    node = apart(name, staleness=staleness)
    links = simulation(one, seconds, latency)
    return here(one, "run", iterations, node=node, test_after=1, simulate=links)


# ---------------------------------------------------------------- replayed densely


def test_push_sum_is_its_recursion(tmp_path: Path, cache: Path) -> None:
    """Masses and weights are multiplied by one column-stochastic matrix; x = mass / weight."""
    out = run(quiet(tmp_path, cache, "push_sum"), "push_sum", 7, 0.0, 0)
    shares = DIRECTED.adjacency() + np.eye(NODES)
    shares = shares / shares.sum(axis=0, keepdims=True)
    mass, weight = start(out.rows[0].numel()), np.ones(NODES)
    for t in range(7):
        mass, weight = shares @ mass, shares @ weight
        told = {r["uid"]: r["weight"] for r in out.records if r["iteration"] == t + 1}
        np.testing.assert_allclose([told[uid] for uid in range(NODES)], weight, rtol=1e-12)
    np.testing.assert_allclose(stacked(out.rows).numpy(), mass / weight[:, None], rtol=1e-5)
    assert weight.max() > 1.2 * weight.min(), "plain averages would not do"


def test_pushing_is_the_plain_mean(tmp_path: Path, cache: Path) -> None:
    out = run(quiet(tmp_path, cache, "async_push"), "async_push", 5, 0.0, 0)
    weights = DIRECTED.adjacency() + np.eye(NODES)
    weights = weights / weights.sum(axis=1, keepdims=True)
    x = np.linalg.matrix_power(weights, 5) @ start(out.rows[0].numel())
    np.testing.assert_allclose(stacked(out.rows).numpy(), x, rtol=1e-5)


def test_pulling_takes_the_mean_with_the_one_that_was_asked(tmp_path: Path, cache: Path) -> None:
    out = run(quiet(tmp_path, cache, "async_pull"), "async_pull", 5, 0.0, 0)
    x = start(out.rows[0].numel())
    for t in range(5):
        draws = (generator(90, uid, "node", t) for uid in range(NODES))
        peers = [int(d.choice(DIRECTED.in_neighbors(i))) for i, d in enumerate(draws)]
        x = (x + x[peers]) / 2
    np.testing.assert_allclose(stacked(out.rows).numpy(), x, rtol=1e-5)


def test_a_step_of_push_sum_moves_the_model_by_itself(tmp_path: Path, cache: Path) -> None:
    """Mass after training is mass + weight * step, whatever the weight: x moves by the step."""

    class Mine(PushSum):
        def setup(self):
            super().setup()
            self.rows["mass"], self.weight = self.x * 0.25, 0.25

    ini = {"node": named("push_sum", "PushSum")}
    alone = experiment(tmp_path, cache, "alone", Graph(2, ()), **ini)
    out = here(alone, "run", 3, node=lambda: Mine(), test_after=0)
    plain = experiment(tmp_path, cache, "plain", Graph(2, ()))
    same = here(plain, "run", 3, test_after=0)
    torch.testing.assert_close(out.rows[0], same.rows[0], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- late messages


def stale(out: Outcome) -> int:
    return max(row["stale"] for row in out.records)


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_older_than_the_bound(name: str, tmp_path: Path, cache: Path) -> None:
    """Node 2 is ten times slower; without a bound the others leave it behind."""
    seconds = [0.1, 0.1, 1.0, *[0.1] * 5]
    for staleness in (0, 2):
        one = quiet(tmp_path / str(staleness), cache, name, staleness)
        assert stale(run(one, name, 12, 0.01, staleness, seconds)) == staleness
    one = quiet(tmp_path, cache, name, None)
    assert stale(run(one, name, 12, 0.01, None, seconds)) > 4


def test_push_sum_keeps_all_mass_however_late_it_is(tmp_path: Path, cache: Path) -> None:
    """Sums of masses and weights stay; in the end all are at the mean of where they began."""
    one = quiet(tmp_path, cache, "push_sum", 3)
    out = run(one, "push_sum", 120, 0.25, 3, [0.1, 0.13, 0.4, *[0.1] * 5])
    masses = stacked({uid: node.rows["mass"] for uid, node in out.nodes.items()})
    x = start(out.rows[0].numel())
    np.testing.assert_allclose(masses.sum(0).numpy(), x.sum(0), rtol=1e-5)
    weights = [node.weight for node in out.nodes.values()]
    assert sum(weights) == pytest.approx(NODES, rel=1e-12)
    np.testing.assert_allclose(stacked(out.rows).numpy(), np.tile(x.mean(0), (NODES, 1)), rtol=2e-3)


@pytest.mark.parametrize("layout", [(2,), (1, 1)])
@pytest.mark.parametrize("name", PROGRAMS)
def test_invariants_hold_in_real_time(
    name: str, layout: tuple[int, ...], tmp_path: Path, cache: Path
) -> None:
    """With a slow node, over workers and machines, through a checkpoint that saves mail."""
    node = named(name, PROGRAMS[name].__name__, "staleness = 1")
    one = experiment(tmp_path, cache, name, node=node, rounds="1,1,40,1,1,1,1,1")
    flags = ("-ta", "1", "-tea", "0", "--test_samples", "2", "--checkpoint_after", "4")
    team = Team(one, 9, *flags, layout=layout).run()
    records = [told.columns for told in team.told if isinstance(told, Record)]
    assert len(records) == 9 * NODES
    assert max(row["stale"] for row in records) <= 1
    if name == "push_sum":
        last = [row["weight"] for row in records if row["iteration"] == 9]
        assert sum(last) == pytest.approx(NODES, rel=1e-12)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_lost_node_stops_nobody(name: str, tmp_path: Path, cache: Path) -> None:
    one = quiet(tmp_path, cache, name, 1)
    (one.folder / "faults.json").write_text('[{"kill": {"node": 2}, "round": 3}]')
    flags = {"simulate": simulation(one, 0.1, 0.03), "faults": one.folder / "faults.json"}
    out = here(one, "run", 8, test_after=8, on_loss="drop", **flags)
    done = {row["uid"] for row in out.records if row["iteration"] == 8}
    assert done == set(range(NODES)) - {2}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_negative_bound_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match="staleness = -1: at least 0, or None"):
        PROGRAMS[name](staleness=-1)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_node_without_neighbours_trains_alone(name: str, tmp_path: Path, cache: Path) -> None:
    node = named(name, PROGRAMS[name].__name__)
    out = here(experiment(tmp_path, cache, name, Graph(2, ()), node=node), "run", 3, test_after=3)
    plain = here(experiment(tmp_path, cache, "plain", Graph(2, ())), "run", 3, test_after=3)
    for uid in range(2):
        torch.testing.assert_close(out.rows[uid], plain.rows[uid], rtol=1e-5, atol=1e-6)
