"""Each topology against its definition, and networkx's draw where that is the promise."""

import math

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.graphs import generators
from decentralizepy.graphs.generators import (
    GENERATORS,
    derived_seed,
    erdos_renyi,
    exponential,
    fully_connected,
    generate,
    grid,
    grid_of,
    most_square,
    regular,
    ring,
    small_world,
    star,
    torus,
    torus_of,
)
from decentralizepy.graphs.graph import Graph


def from_networkx(drawn):
    return Graph.undirected(len(drawn), list(drawn.edges))


@pytest.mark.parametrize(
    ("n", "degree", "seed"), [(16, 4, 90), (96, 4, 7), (128, 5, 0), (32, 25, 1)]
)
def test_regular_is_the_draw_of_networkx(n, degree, seed):
    drawn = nx.random_regular_graph(degree, n, seed)
    assert nx.is_connected(drawn)
    assert regular(n, degree, seed) == from_networkx(drawn)


@settings(max_examples=40)
@given(st.integers(3, 40), st.integers(2, 39), st.integers(0, 2**40))
def test_regular_is_regular_connected_and_repeatable(n, degree, seed):
    if degree >= n or n * degree % 2:
        with pytest.raises(ValueError, match="no connected"):
            regular(n, degree, seed)
        return
    graph = regular(n, degree, seed)
    assert set(graph.degrees()) == {degree} and graph.is_symmetric() and graph.is_connected()
    assert regular(n, degree, seed) == graph


def test_a_disconnected_draw_is_drawn_again_with_the_derived_seed():
    seed = next(s for s in range(99) if not nx.is_connected(nx.random_regular_graph(2, 12, s)))
    attempts = (nx.random_regular_graph(2, 12, derived_seed(seed, a)) for a in range(99))
    first = next(drawn for drawn in attempts if nx.is_connected(drawn))
    assert regular(12, 2, seed) == from_networkx(first)


def test_derived_seeds_are_frozen_and_start_with_the_seed():
    assert derived_seed(97, 0) == 97
    assert derived_seed(97, 1) == 8849175761440358529
    assert len({derived_seed(s, a) for s in range(20) for a in range(20)}) == 400


def test_drawing_again_ends(monkeypatch):
    monkeypatch.setattr(generators, "_regular_draw", lambda n, degree, seed: Graph(n, []))
    with pytest.raises(ValueError, match="none of 200 draws was connected"):
        regular(8, 2, 0)


@pytest.mark.parametrize(("n", "degree"), [(64, 57), (64, 62), (64, 63), (128, 120)])
def test_dense_regular_graphs_do_not_hang(n, degree):
    graph = regular(n, degree, 3)
    assert set(graph.degrees()) == {degree} and graph.is_connected()


def test_thousand_nodes_of_degree_two_are_one_cycle():
    assert regular(1024, 2, 5).is_connected()


@pytest.mark.parametrize(
    ("n", "degree", "words"),
    [
        (7, 3, "must be even"),
        (4, 4, "from 0 to 3"),
        (4, -1, "from 0 to 3"),
        (4, 1, "at least 2"),
        (3, 0, "at least 2"),
        (2, 0, "at least 1"),
        (0, 0, "1 to"),
    ],
)
def test_impossible_regular_graphs_are_refused(n, degree, words):
    with pytest.raises(ValueError, match=words):
        regular(n, degree, 0)


def test_the_smallest_regular_graphs():
    assert regular(1, 0, 0).edges == ()
    assert regular(2, 1, 0).edges == ((0, 1), (1, 0))
    assert regular(3, 2, 0) == ring(3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16])
def test_definitions(n):
    everybody = {(u, v) for u in range(n) for v in range(n) if u != v}
    assert set(fully_connected(n).edges) == everybody
    assert set(ring(n).edges) == {(u, v) for u, v in everybody if (u - v) % n in (1, n - 1)}
    assert set(star(n).edges) == {(u, v) for u, v in everybody if 0 in (u, v)}
    hops = [2**j for j in range(n) if 2**j < n]
    assert set(exponential(n).edges) == {(u, (u + hop) % n) for u in range(n) for hop in hops}


@pytest.mark.parametrize("make", [fully_connected, ring, star, exponential, torus_of, grid_of])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 36])
def test_fixed_graphs_are_connected(make, n):
    graph = make(n)
    assert graph.n == n and graph.is_connected()
    assert graph.is_symmetric() or make is exponential


@pytest.mark.parametrize("n", [2, 5, 16, 33])
def test_exponential_degrees_grow_with_the_logarithm(n):
    graph = exponential(n)
    assert graph.is_regular() and graph.degree(0) == math.ceil(math.log2(n))


def lattice(rows, cols, wraps):
    def near(a, b, size):
        return abs(a - b) == 1 or (wraps and size > 1 and abs(a - b) == size - 1)

    cells = [(r, c) for r in range(rows) for c in range(cols)]
    return {
        (r * cols + c, s * cols + d)
        for r, c in cells
        for s, d in cells
        if (r == s and near(c, d, cols)) or (c == d and near(r, s, rows))
        if (r, c) != (s, d)
    }


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6))
def test_torus_and_grid_are_lattices(rows, cols):
    assert set(torus(rows, cols).edges) == lattice(rows, cols, wraps=True)
    assert set(grid(rows, cols).edges) == lattice(rows, cols, wraps=False)


def test_one_row_of_a_torus_is_a_ring_and_four_neighbours_are_usual():
    assert torus(1, 7) == ring(7)
    assert torus(3, 5).is_regular() and torus(3, 5).degree(0) == 4
    assert sorted(set(grid(3, 3).degrees())) == [2, 3, 4]


def test_most_square():
    assert [most_square(n) for n in (1, 2, 3, 4, 12, 36, 128)] == [
        (1, 1), (1, 2), (1, 3), (2, 2), (3, 4), (6, 6), (8, 16)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="take 16 or 18 nodes, or a Ring"):
        torus_of(17)


def test_sizes_below_one_are_refused():
    for make in (fully_connected, ring, star, exponential, torus_of, grid_of):
        with pytest.raises(ValueError, match="1 to"):
            make(0)
    for rows, cols in ((0, 3), (3, 0), (-2, -2)):
        with pytest.raises(ValueError, match="at least 1"):
            torus(rows, cols)


@settings(max_examples=25)
@given(st.integers(3, 40), st.integers(1, 4), st.floats(0, 1), st.integers(0, 999))
def test_small_world_keeps_the_number_of_links(n, k_over_2, beta, seed):
    if 2 * k_over_2 >= n:
        with pytest.raises(ValueError, match="does not fit"):
            small_world(n, k_over_2, beta, seed)
        return
    if k_over_2 > 1 or beta < 0.3:
        graph = small_world(n, k_over_2, beta, seed)
        assert graph.size == 2 * n * k_over_2 and graph.is_connected()
        assert graph == small_world(n, k_over_2, beta, seed)


def test_small_world_goes_from_lattice_to_networkx_draw():
    lattice_links = {(u, (u + hop) % 20) for u in range(20) for hop in (-2, -1, 1, 2)}
    assert set(small_world(20, 2, 0.0).edges) == lattice_links
    drawn = nx.watts_strogatz_graph(50, 6, 0.3, 11)
    assert nx.is_connected(drawn) and small_world(50, 3, 0.3, 11) == from_networkx(drawn)


def test_erdos_renyi_is_networkx_draw_or_redrawn():
    drawn = nx.gnp_random_graph(40, 0.3, 5)
    assert nx.is_connected(drawn) and erdos_renyi(40, 0.3, 5) == from_networkx(drawn)
    assert erdos_renyi(12, 1.0) == fully_connected(12)
    assert erdos_renyi(1, 0.0).n == 1 and erdos_renyi(2, 0.5).size == 2
    unlucky = next(s for s in range(99) if not nx.is_connected(nx.gnp_random_graph(12, 0.25, s)))
    assert erdos_renyi(12, 0.25, unlucky).is_connected()


def test_hopeless_random_graphs_are_refused():
    with pytest.raises(ValueError, match=r"raise p above ln\(n\)/n = 0.00677"):
        erdos_renyi(1024, 0.001)
    with pytest.raises(ValueError, match="none of 200 draws was connected"):
        erdos_renyi(10, 0.0001)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_probabilities_are_checked(value):
    with pytest.raises(ValueError, match="is no probability"):
        erdos_renyi(10, value)
    with pytest.raises(ValueError, match="is no probability"):
        small_world(10, 2, value)


def test_generate_finds_every_name_in_any_case():
    options = {
        "Regular": {"degree": 4, "seed": 3},
        "SmallWorld": {"k_over_2": 2, "beta": 0.1},
        "ErdosRenyi": {"p": 0.5},
    }
    for name in GENERATORS:
        graph = generate(name.upper(), 16, **options.get(name, {}))
        assert graph.n == 16 and graph.is_connected()
    assert generate("regular", 16, degree=4, seed=3) == regular(16, 4, 3)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Regulr", {}, "did you mean Regular"),
        ("zzz", {}, "unknown graph 'zzz': There are Regular"),
        ("Ring", {"degree": 4}, "Ring has no option 'degree': its options are: none"),
        ("Regular", {"degre": 4}, "no option 'degre'.*degree"),
        ("Regular", {"seed": 4}, "needs the option 'degree'"),
    ],
)
def test_generate_explains_what_is_wrong(name, options, words):
    with pytest.raises(ValueError, match=words):
        generate(name, 16, **options)
