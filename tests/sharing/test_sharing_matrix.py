"""Every method x graph x compressor against dense matrices, and what all of them promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sharing_compressors import COMPRESSORS
from sharing_matrix import GRAPHS, LENGTH, Case, Play, World, cases, replayed, start, trained

from decentralizepy.graphs.mixing import is_doubly_stochastic

CASES = cases()
PLAIN = {name: case for name, case in CASES.items() if name.endswith("-none")}
QUIET = {name: case for name, case in PLAIN.items() if case.row.keeps_consensus}


def each(table: dict[str, Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=list(table))


@each(CASES)
def test_a_method_is_its_dense_matrix(case: Case) -> None:
    """Also where nodes go through a checkpoint after each iteration."""
    first = start(case.world)
    found = Play(case.row.make, case.world, forgetful=True).run(first, case.row.steps)
    expected = replayed(case.row, case.world, first)
    np.testing.assert_allclose(found.double(), expected, rtol=0, atol=case.tolerance)
    assert np.abs(expected - trained(first, 0).numpy()).max() > 1e-3


@each(PLAIN)
def test_the_mean_stays_where_it_is_promised(case: Case) -> None:
    row, world = case.row, case.world
    play, rows = Play(row.make, world), start(world)
    for t in range(len(world.graphs) + 1):
        rows = trained(rows, t)
        before = rows.double().mean(0)[: world.n_parameters]
        for k in range(row.steps):
            rows = play.round(rows, t, k)
        after = rows.double().mean(0)[: world.n_parameters]
        if row.keeps_mean and is_doubly_stochastic(world.weights(t)):
            torch.testing.assert_close(after, before, rtol=0, atol=row.tolerance)


@each(QUIET)
def test_rows_sum_to_one(case: Case) -> None:
    """Nodes that agree go on agreeing, and on the same; whoever is lost."""
    first = start(case.world)[:1].expand(case.world.n, LENGTH).clone()
    absent = frozenset(case.world.graph(0).edges[::3])
    found = Play(case.row.make, case.world, absent=absent).round(first, 0)
    torch.testing.assert_close(found, first, rtol=0, atol=case.tolerance)


@each({name: case for name, case in CASES.items() if "-irregular-" in name})
def test_what_a_method_remembers_is_in_its_state(case: Case) -> None:
    first = start(case.world)
    whole = Play(case.row.make, case.world).run(first, case.row.steps)
    resumed = Play(case.row.make, case.world, forgetful=True).run(first, case.row.steps)
    assert torch.equal(whole, resumed)


def test_the_table_has_all_kinds_of_graphs() -> None:
    assert not all(graph.is_regular() for graph in GRAPHS["irregular"])
    assert not GRAPHS["directed"][0].is_symmetric()
    assert is_doubly_stochastic(World(GRAPHS["directed"]).weights(0))
    assert {name.split("-")[1] for name in PLAIN} == set(GRAPHS)
    assert {name.split("-")[2] for name in CASES} == set(COMPRESSORS)
