"""Hypothesis strategies for graphs, shared by the tests of this folder."""

from hypothesis import strategies as st

from decentralizepy.graphs.graph import Graph


@st.composite
def edge_lists(draw, max_nodes=12):
    """``(n, edges)``: any number of nodes, any directed edges, repeats included."""
    n = draw(st.integers(1, max_nodes))
    if n == 1:
        return 1, []
    node = st.integers(0, n - 1)
    edge = st.tuples(node, node).filter(lambda e: e[0] != e[1])
    return n, draw(st.lists(edge, max_size=3 * n))


def directed_graphs(max_nodes=12):
    return edge_lists(max_nodes).map(lambda ne: Graph(*ne))


def undirected_graphs(max_nodes=12):
    return edge_lists(max_nodes).map(lambda ne: Graph.undirected(*ne))
