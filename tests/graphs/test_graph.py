"""The graph itself, against plain sets and networkx."""

import pickle
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
from graph_examples import directed_graphs, edge_lists
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.graphs.graph import MAX_NODES, Graph

TRIANGLE = [(0, 1), (1, 2), (2, 0)]


def test_neighbours_go_by_direction():
    graph = Graph(4, [(0, 1), (0, 3), (2, 1), (0, 3)])
    assert graph.n == 4 and graph.size == 3
    assert graph.edges == ((0, 1), (0, 3), (2, 1))
    assert graph.out_neighbors(0) == (1, 3) and graph.in_neighbors(0) == ()
    assert graph.in_neighbors(1) == (0, 2) and graph.out_neighbors(1) == ()
    assert (graph.in_degree(1), graph.out_degree(0), graph.degree(0)) == (2, 2, 2)
    assert graph.degrees() == (2, 0, 1, 0)


@given(edge_lists())
def test_agrees_with_sets_and_networkx(case):
    n, edges = case
    graph, wanted = Graph(n, edges), set(edges)
    other = nx.DiGraph(edges)
    other.add_nodes_from(range(n))
    assert graph.edges == tuple(sorted(wanted))
    assert graph.is_symmetric() == all((v, u) in wanted for u, v in wanted)
    assert graph.is_connected() == nx.is_strongly_connected(other)
    for uid in range(n):
        assert graph.out_neighbors(uid) == tuple(sorted(other.successors(uid)))
        assert graph.in_neighbors(uid) == tuple(sorted(other.predecessors(uid)))
        assert graph.in_degree(uid) == other.in_degree(uid)
        assert graph.out_degree(uid) == other.out_degree(uid)
    dense = graph.adjacency()
    assert dense.dtype == bool
    assert set(map(tuple, np.argwhere(dense).tolist())) == {(v, u) for u, v in wanted}


def test_undirected_is_both_ways_however_it_is_given():
    graph = Graph.undirected(3, [(0, 1), (2, 1), (1, 2)])
    assert graph.edges == ((0, 1), (1, 0), (1, 2), (2, 1))
    assert graph.is_symmetric() and not Graph(3, TRIANGLE).is_symmetric()


def test_connected_means_strongly():
    assert Graph(3, TRIANGLE).is_connected()
    assert not Graph(3, [(0, 1), (1, 2)]).is_connected()  # nothing comes back to 0
    assert not Graph(3, [(1, 0), (2, 1)]).is_connected()  # nothing leaves 0
    assert Graph(1, []).is_connected() and not Graph(2, []).is_connected()


def test_a_very_long_path_needs_no_recursion():
    n = 20_000
    assert Graph.undirected(n, [(i, i + 1) for i in range(n - 1)]).is_connected()


def test_regular_looks_at_both_directions():
    assert Graph(3, TRIANGLE).is_regular() and Graph(5, []).is_regular()
    fan_in = Graph(3, [(0, 1), (1, 0), (2, 1)])  # all send once, only 1 hears twice
    assert fan_in.degrees() == (1, 1, 1) and not fan_in.is_regular()


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ([(0, 3)], "leaves the graph: its nodes are 0 to 2"),
        ([(-1, 0)], "leaves the graph"),
        ([(0, 1), (2, 2)], r"self loop \(2, 2\)"),
        ([(0, 1), (2,)], "pairs"),
        ([(0, 1, 2)], "pairs"),
        ([0, 1], "pairs"),
        ([(0.5, 1)], "pairs"),
        ([("0", "1")], "pairs"),
        ([(0, 2**64)], "pairs"),
        ([(0, 2**63)], "pairs"),
        (np.array([[0.0, 1.0]]), "pairs"),
        (np.array([[0, 2**63]], dtype=np.uint64), "leaves the graph"),
    ],
)
def test_wrong_edges_are_refused(edges, words):
    with pytest.raises(ValueError, match=words):
        Graph(3, edges)


@pytest.mark.parametrize("n", [0, -1, MAX_NODES + 1, 2.0, "3"])
def test_wrong_node_counts_are_refused(n):
    with pytest.raises(ValueError, match="nodes"):
        Graph(n, [])


@pytest.mark.parametrize("uid", [-1, 3])
def test_unknown_nodes_are_refused(uid):
    graph = Graph(3, TRIANGLE)
    for ask in (graph.in_neighbors, graph.out_neighbors, graph.in_degree, graph.out_degree):
        with pytest.raises(ValueError, match=f"node {uid} is not in the graph"):
            ask(uid)
    with pytest.raises(ValueError, match="is not in the graph"):
        graph.restrict({0, uid})


@given(edge_lists(), st.data())
def test_restrict_keeps_the_edges_among_members(case, data):
    n, edges = case
    members = data.draw(st.sets(st.integers(0, n - 1)))
    kept = Graph(n, edges).restrict(members)
    assert kept.n == n
    assert set(kept.edges) == {(u, v) for u, v in edges if u in members and v in members}


def test_restrict_to_all_is_the_same_object():
    graph = Graph(3, TRIANGLE)
    assert graph.restrict(range(3)) is graph


def test_equality_hash_and_digest_follow_the_content():
    same = [Graph(3, TRIANGLE), Graph(3, TRIANGLE[::-1] + TRIANGLE), Graph(3, np.array(TRIANGLE))]
    assert len(set(same)) == 1 and len({graph.digest() for graph in same}) == 1
    weights = dict.fromkeys(TRIANGLE, 0.5)
    others = [
        Graph(4, TRIANGLE),
        Graph(3, TRIANGLE[:2]),
        Graph(3, [(v, u) for u, v in TRIANGLE]),
        Graph(3, TRIANGLE, weights),
        Graph(3, TRIANGLE, {**weights, (0, 1): 0.25}),
        Graph(3, TRIANGLE, {**weights, (0, 0): 0.5}),
        Graph(3, []),
        Graph(3, [], {}),
    ]
    assert len({same[0], *others}) == len({g.digest() for g in (same[0], *others)}) == 9
    assert same[0] != "graph"


def test_the_digest_is_frozen():
    """A changed digest would silently part old runs from new ones."""
    assert Graph(3, TRIANGLE).digest()[:16] == "77cdeb535ef36a26"
    weighted = Graph(3, TRIANGLE, dict.fromkeys(TRIANGLE, 0.5))
    assert weighted.digest()[:16] == "ea82324c48511caf"


@settings(max_examples=30)
@given(directed_graphs(), directed_graphs())
def test_digests_are_equal_exactly_when_graphs_are(one, other):
    assert (one == other) == (one.digest() == other.digest())
    assert pickle.loads(pickle.dumps(one)) == one


def test_weights_are_sorted_read_only_and_survive_pickling():
    weights = {(2, 0): 0.25, (0, 1): 0.5, (1, 2): 1, (1, 1): -0.0}
    graph = Graph(3, TRIANGLE, weights)
    assert list(graph.weights) == [(0, 1), (1, 1), (1, 2), (2, 0)]
    assert Graph(3, TRIANGLE, {**weights, (1, 1): 0.0}).digest() == graph.digest()
    with pytest.raises(TypeError):
        graph.weights[0, 1] = 1.0
    weights[0, 1] = 9.0  # the caller's dictionary is not the graph's
    assert graph.weights[0, 1] == 0.5
    assert pickle.loads(pickle.dumps(graph)) == graph
    assert Graph(3, TRIANGLE).weights is None


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({(0, 1): 0.5, (1, 2): 0.5}, r"edge \(2, 0\) has no weight"),
        ({**dict.fromkeys(TRIANGLE, 0.5), (1, 0): 0.5}, "no edge"),
        ({**dict.fromkeys(TRIANGLE, 0.5), (3, 3): 0.5}, "no edge"),
        ({**dict.fromkeys(TRIANGLE, 0.5), (1, 2): float("nan")}, "must be finite"),
        ({**dict.fromkeys(TRIANGLE, 0.5), (1, 2): float("inf")}, "must be finite"),
    ],
)
def test_wrong_weights_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        Graph(3, TRIANGLE, weights)


def test_restricting_gives_an_absent_neighbours_weight_to_the_node():
    both = [*TRIANGLE, *((v, u) for u, v in TRIANGLE)]
    own = {(0, 0): 0.5, (1, 1): 0.25}
    weights = {**dict.fromkeys(both, 0.25), **own}
    kept = Graph(3, both, weights).restrict({0, 1})
    assert kept.edges == ((0, 1), (1, 0))
    # Node 2 has no written self weight, so none is written now either.
    assert kept.weights == {(0, 0): 0.75, (0, 1): 0.25, (1, 0): 0.25, (1, 1): 0.5}


def test_it_is_described_for_people():
    assert Graph(3, TRIANGLE).describe() == "3 nodes, 3 arcs, 1-regular"
    star = Graph.undirected(4, [(0, 1), (0, 2), (0, 3)])
    assert repr(star) == "<Graph: 4 nodes, 3 edges, degree 1 to 3>"
    assert Graph.undirected(2, [(0, 1)]).describe() == "2 nodes, 1 edge, 1-regular"


LIGHT = """
import sys
from decentralizepy.graphs import command, files, generators, graph, mixing, picture, schedules
from decentralizepy.mappings import mapping
ring = files.read_graph(sys.argv[1])
assert mixing.metropolis_hastings(ring, 0).self_weight > 0
assert schedules.StaticSchedule(ring).at(3) is ring
heavy = {"networkx", "torch", "matplotlib", "scipy", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""


def test_reading_and_mixing_import_nothing_heavy(tmp_path):
    path = tmp_path / "ring.edges"
    path.write_text("3\n0 1\n1 2\n2 0\n")
    subprocess.run([sys.executable, "-c", LIGHT, str(path)], check=True)
