"""Each rule of sharing against its closed form, with dense matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import metropolis_hastings, mixing_matrix
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.plain_average import PlainAverageSharing
from decentralizepy.sharing.sharing import Sharing

P = 13


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    n = draw(st.integers(1, 8))
    pairs = [(u, v) for u in range(n) for v in range(u)]
    return Graph.undirected(n, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else [])


def one_round(
    sharing: Sharing, graph: Graph, rows: torch.Tensor, absent: tuple = ()
) -> torch.Tensor:
    """Everybody speaks, then everybody merges."""
    contexts = [
        Context(uid, 4, 0, graph, sharing.mixing(graph, uid), P, 0) for uid in range(graph.n)
    ]
    heard: dict[int, dict[int, Message]] = {uid: {} for uid in range(graph.n)}
    for uid, ctx in enumerate(contexts):
        for receivers, message in sharing.outgoing(rows[uid], ctx):
            for receiver in receivers:
                heard[receiver][uid] = message.stamped(uid, ctx.round)
    merged = []
    for uid, ctx in enumerate(contexts):
        came = [Missing(j, "gone") if (j, uid) in absent else heard[uid][j] for j in ctx.sources]
        merged.append(sharing.merge(rows[uid], came, ctx))
    return torch.stack(merged)


def rows_of(n: int) -> torch.Tensor:
    return torch.randn(n, P, generator=torch.Generator().manual_seed(n))


@given(graphs())
def test_metropolis_hastings_is_the_dense_product_and_keeps_the_mean(graph: Graph) -> None:
    rows = rows_of(graph.n)
    adjacency = torch.from_numpy(graph.adjacency()).double()
    degree = adjacency.sum(1)
    weights = adjacency / (1 + torch.maximum(degree[:, None], degree[None, :]))
    weights += torch.diag(1 - weights.sum(1))
    merged = one_round(Sharing(), graph, rows)
    torch.testing.assert_close(merged.double(), weights @ rows.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged.mean(0), rows.mean(0), rtol=1e-5, atol=1e-6)


@given(graphs())
def test_plain_average_is_the_mean_of_the_neighbourhood(graph: Graph) -> None:
    rows = rows_of(graph.n)
    closed = torch.from_numpy(graph.adjacency()).double() + torch.eye(graph.n).double()
    expected = closed / closed.sum(1, keepdim=True) @ rows.double()
    merged = one_round(PlainAverageSharing(), graph, rows)
    torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-6)


def test_plain_average_takes_what_came() -> None:
    graph, rows = Graph.undirected(3, [(0, 1), (0, 2)]), rows_of(3)
    merged = one_round(PlainAverageSharing(), graph, rows, absent=((1, 0),))
    torch.testing.assert_close(merged[0], (rows[0] + rows[2]) / 2)


@given(graphs(), st.data())
def test_weights_sum_to_one_whoever_is_missing(graph: Graph, data: st.DataObject) -> None:
    """Missing weight goes to the own row: the dense matrix with it on the diagonal."""
    edges = sorted(graph.edges)
    absent = tuple(data.draw(st.lists(st.sampled_from(edges), unique=True))) if edges else ()
    rows = rows_of(graph.n).double()
    matrix = torch.from_numpy(mixing_matrix(graph, metropolis_hastings))
    for source, receiver in absent:
        matrix[receiver, receiver] += matrix[receiver, source]
        matrix[receiver, source] = 0
    assert torch.allclose(matrix.sum(1), torch.ones(graph.n, dtype=torch.float64))
    assert torch.allclose(one_round(Sharing(), graph, rows, absent), matrix @ rows)


def test_weights_of_the_graph_come_first() -> None:
    weights = {(1, 0): 0.25, (0, 1): 0.5, (0, 0): 0.75, (1, 1): 0.5}
    graph, rows = Graph(2, [(0, 1), (1, 0)], weights), rows_of(2)
    merged = one_round(Sharing(), graph, rows)
    torch.testing.assert_close(merged[0], 0.75 * rows[0] + 0.25 * rows[1])


def test_merge_fills_the_row_that_is_lent() -> None:
    graph, rows = Graph.undirected(2, [(0, 1)]), rows_of(2)
    lent = torch.empty(P)
    ctx = Context(0, 0, 0, graph, Sharing().mixing(graph, 0), P, 0, lambda: lent)
    message = Message({"params": rows[1]}, {}, 1, (0, 0))
    assert Sharing().merge(rows[0], [message], ctx) is lent
    assert torch.equal(rows, rows_of(2)), "what was heard and one's own row stay as they were"


def test_a_context_draws_from_the_nodes_own_stream() -> None:
    graph = Graph.undirected(2, [(0, 1)])
    draws = [
        Context(uid, t, 0, graph, Sharing().mixing(graph, uid), P, 9).generator.random()
        for uid, t in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_weights_are_checked_where_they_are_asked_for() -> None:
    with pytest.raises(ValueError, match="both ways"):
        Sharing().mixing(Graph(2, [(0, 1)]), 0)
