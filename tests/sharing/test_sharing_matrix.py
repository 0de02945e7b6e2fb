"""Every method x graph x compressor against dense matrices, and what all of them promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sharing_matrix import GRAPHS, LENGTH, Play, Row, World, replayed, start, table, trained

from decentralizepy.graphs.mixing import is_doubly_stochastic

CASES = {
    f"{row.name}-{graph}": (row, World(GRAPHS[graph])) for row in table() for graph in row.graphs
}
QUIET = {name: case for name, case in CASES.items() if case[0].keeps_consensus}
cases = pytest.mark.parametrize("row, world", CASES.values(), ids=list(CASES))
quiet_cases = pytest.mark.parametrize("row, world", QUIET.values(), ids=list(QUIET))


@cases
def test_a_method_is_its_dense_matrix(row: Row, world: World) -> None:
    first = start(world, row.dtype)
    found = Play(row.make, world).run(first, row.steps)
    expected = replayed(row, world, first)
    np.testing.assert_allclose(found.double(), expected, rtol=0, atol=row.tolerance)
    assert np.abs(expected - trained(first, 0).numpy()).max() > 1e-3 or world.n == 1


@cases
def test_the_mean_stays_where_it_is_promised(row: Row, world: World) -> None:
    play, rows = Play(row.make, world), start(world, row.dtype)
    for t in range(len(world.graphs) + 1):
        rows = trained(rows, t)
        before = rows.double().mean(0)[: world.n_parameters]
        for k in range(row.steps):
            rows = play.round(rows, t, k)
        after = rows.double().mean(0)[: world.n_parameters]
        if row.keeps_mean and is_doubly_stochastic(world.weights(t)):
            torch.testing.assert_close(after, before, rtol=0, atol=row.tolerance)


@quiet_cases
def test_rows_sum_to_one(row: Row, world: World) -> None:
    """Nodes that agree go on agreeing, and on the same; whoever is lost."""
    first = start(world, row.dtype)[:1].expand(world.n, LENGTH).clone()
    absent = frozenset(world.graph(0).edges[::3])
    found = Play(row.make, world, absent=absent).round(first, 0)
    torch.testing.assert_close(found, first, rtol=0, atol=row.tolerance)


@cases
def test_what_a_method_remembers_is_in_its_state(row: Row, world: World) -> None:
    first = start(world, row.dtype)
    whole = Play(row.make, world).run(first, row.steps)
    resumed = Play(row.make, world, forgetful=True).run(first, row.steps)
    assert torch.equal(whole, resumed)


def test_the_table_has_all_kinds_of_graphs() -> None:
    assert not all(graph.is_regular() for graph in GRAPHS["irregular"])
    assert not GRAPHS["directed"][0].is_symmetric()
    assert is_doubly_stochastic(World(GRAPHS["directed"]).weights(0))
    tried = {name for row in table() for name in row.graphs}
    assert tried == set(GRAPHS)
