"""Mixing weights against dense formulas, closed-form spectra, and matrices that must fail."""

import math

import numpy as np
import pytest
from graph_examples import directed_graphs, undirected_graphs
from hypothesis import given, settings

from decentralizepy.graphs.generators import (
    exponential,
    fully_connected,
    regular,
    ring,
    star,
    torus,
)
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import (
    MixingRow,
    from_weights,
    is_doubly_stochastic,
    is_row_stochastic,
    is_symmetric,
    metropolis_hastings,
    mixing_matrix,
    row_sums,
    spectral_gap,
    uniform,
)

quick = settings(max_examples=60)


def dense_metropolis(graph):
    adjacent = graph.adjacency().astype(float)
    degree = adjacent.sum(axis=1)
    matrix = adjacent / (1 + np.maximum(degree[:, None], degree[None]))
    return matrix + np.diag(1 - matrix.sum(axis=1))


def dense_uniform(graph):
    adjacent = graph.adjacency() + np.eye(graph.n)
    return adjacent / adjacent.sum(axis=1, keepdims=True)


def exact_sum(row):
    return math.fsum([row.self_weight, *row.weights.values()])


@quick
@given(undirected_graphs())
def test_metropolis_hastings_is_the_dense_formula_and_doubly_stochastic(graph):
    matrix = mixing_matrix(graph, metropolis_hastings)
    np.testing.assert_allclose(matrix, dense_metropolis(graph), rtol=0, atol=1e-15)
    assert is_symmetric(matrix, tol=0.0) and is_doubly_stochastic(matrix, tol=1e-14)
    assert (np.diag(matrix) > 0).all()


@quick
@given(directed_graphs())
def test_uniform_is_the_dense_formula(graph):
    matrix = mixing_matrix(graph, uniform)
    np.testing.assert_allclose(matrix, dense_uniform(graph), rtol=0, atol=1e-15)
    assert is_row_stochastic(matrix)


@quick
@given(directed_graphs(max_nodes=30), undirected_graphs(max_nodes=30))
def test_rows_sum_to_exactly_one_in_ascending_order(directed, undirected):
    for graph, rule in ((directed, uniform), (undirected, metropolis_hastings)):
        for uid in range(graph.n):
            row = rule(graph, uid)
            assert exact_sum(row) == 1.0
            assert tuple(row.weights) == graph.in_neighbors(uid)


def test_a_row_by_hand():
    path = Graph.undirected(4, [(0, 1), (1, 2), (1, 3)])
    assert metropolis_hastings(path, 0) == MixingRow(0.75, {1: 0.25})
    assert metropolis_hastings(path, 1) == MixingRow(0.25, {0: 0.25, 2: 0.25, 3: 0.25})
    assert uniform(path, 0) == MixingRow(0.5, {1: 0.5})
    assert metropolis_hastings(Graph(1, []), 0) == uniform(Graph(1, []), 0) == MixingRow(1.0, {})


def test_one_way_edges_are_refused_by_metropolis_hastings():
    with pytest.raises(ValueError, match=r"one-way.*undirected, or take PlainAverageSharing"):
        metropolis_hastings(exponential(6), 0)


def test_a_row_looks_at_the_nodes_surroundings_only(monkeypatch):
    graph = regular(1024, 6, 0)
    asked = []
    monkeypatch.setattr(Graph, "degree", lambda self, uid: asked.append(uid) or 6)
    metropolis_hastings(graph, 17)
    assert set(asked) == {17, *graph.in_neighbors(17)} and len(asked) <= 7


def test_uniform_is_doubly_stochastic_where_degrees_are_equal():
    assert is_doubly_stochastic(mixing_matrix(exponential(12), uniform))
    assert is_doubly_stochastic(mixing_matrix(regular(12, 5, 0), uniform))
    unequal = mixing_matrix(star(5), uniform)
    assert is_row_stochastic(unequal) and not is_doubly_stochastic(unequal)
    assert not is_row_stochastic(unequal.T) and not is_doubly_stochastic(unequal.T)


def test_weights_of_the_graph():
    weights = {(1, 0): 0.25, (2, 0): 0.5, (0, 1): 0.3, (1, 1): 0.6}
    graph = Graph(3, [(1, 0), (2, 0), (0, 1)], weights)
    assert from_weights(graph, 0) == MixingRow(0.25, {1: 0.25, 2: 0.5})  # what is left of 1
    assert from_weights(graph, 1) == MixingRow(0.6, {0: 0.3})  # as written, though not 1
    assert from_weights(graph, 2) == MixingRow(1.0, {})
    assert not is_row_stochastic(mixing_matrix(graph, from_weights))
    with pytest.raises(ValueError, match="carries no weights"):
        from_weights(ring(3), 0)


@quick
@given(undirected_graphs(), directed_graphs())
def test_restricted_weights_stay_doubly_stochastic(graph, picks):
    """Metropolis-Hastings weights written into the graph, then some nodes leave."""
    rows = {uid: metropolis_hastings(graph, uid) for uid in range(graph.n)}
    weights = {(j, i): w for i, row in rows.items() for j, w in row.weights.items()}
    weights |= {(i, i): row.self_weight for i, row in rows.items()}
    members = {uid for uid in range(graph.n) if uid < picks.n and picks.degree(uid)}
    written = Graph(graph.n, graph.edges, weights).restrict(members)
    matrix = mixing_matrix(written, from_weights)
    assert is_symmetric(matrix) and is_doubly_stochastic(matrix)
    assert all(matrix[uid, uid] == pytest.approx(1) for uid in range(graph.n) if uid not in members)


@pytest.mark.parametrize(
    ("change", "row", "double", "symmetric"),
    [
        ({}, True, True, True),
        ({(0, 0): 1e-6}, False, False, True),
        ({(0, 1): 1e-6, (0, 0): -1e-6}, True, False, False),
        ({(0, 2): -0.1, (0, 0): 0.1, (2, 0): -0.1, (2, 2): 0.1}, False, False, True),
        ({(0, 0): math.nan}, False, False, False),
    ],
)
def test_the_checks_bite(change, row, double, symmetric):
    matrix = mixing_matrix(ring(5), metropolis_hastings)
    for place, by in change.items():
        matrix[place] += by
    assert is_row_stochastic(matrix) is row
    assert is_doubly_stochastic(matrix) is double
    assert is_symmetric(matrix) is symmetric


def test_row_sums_are_correctly_rounded_and_ask_for_a_square():
    matrix = np.array([[1.0, 1e-17], [0.1, 0.2]])
    assert row_sums(matrix).tolist() == [1.0, 0.1 + 0.2]
    for check in (row_sums, is_row_stochastic, is_symmetric, is_doubly_stochastic, spectral_gap):
        with pytest.raises(ValueError, match="square"):
            check(np.ones((2, 3)))


def gap(graph, rule=metropolis_hastings):
    return spectral_gap(mixing_matrix(graph, rule))


@pytest.mark.parametrize("n", [3, 5, 16, 33])
def test_spectral_gap_of_a_ring(n):
    sizes = sorted(abs(1 / 3 + 2 / 3 * math.cos(2 * math.pi * k / n)) for k in range(n))
    assert gap(ring(n)) == pytest.approx(1 - sizes[-2], abs=1e-12)


def test_spectral_gap_of_a_torus():
    parts = [math.cos(2 * math.pi * k / 5) for k in range(5)]
    sizes = sorted(abs(1 + 2 * a + 2 * b) / 5 for a in parts for b in parts)
    assert gap(torus(5, 5)) == pytest.approx(1 - sizes[-2], abs=1e-12)


@pytest.mark.parametrize("n", [4, 6, 16, 32])
def test_spectral_gap_of_the_exponential_graph(n):
    """2 / (1 + ceil(log2 n)) for even n (Ying et al. 2021)."""
    assert gap(exponential(n), uniform) == pytest.approx(2 / (1 + math.ceil(math.log2(n))))


def test_spectral_gap_at_its_ends():
    assert gap(fully_connected(7)) == pytest.approx(1)
    assert gap(Graph(1, [])) == 1.0
    assert gap(Graph(4, [])) == 0.0
    assert gap(Graph.undirected(4, [(0, 1), (2, 3)])) == pytest.approx(0, abs=1e-12)


def test_spectral_gap_of_columns_and_of_nonsense():
    matrix = mixing_matrix(star(6), uniform)
    assert spectral_gap(matrix.T) == pytest.approx(spectral_gap(matrix))
    for wrong in (np.ones((3, 3)), np.zeros((3, 3)), np.array([[2.0, -1.0], [-1.0, 2.0]])):
        with pytest.raises(ValueError, match="sum to 1"):
            spectral_gap(wrong)
