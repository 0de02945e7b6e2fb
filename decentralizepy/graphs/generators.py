"""The usual topologies, by name: connected graphs with exactly the property that was asked for.

The graphs come from networkx where it has them, imported only when one is drawn. A random draw
that is not connected is drawn again with a derived seed: adding edges instead, as the reference
system does, would silently change the degrees.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import math
from collections.abc import Callable
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from decentralizepy.graphs.graph import Graph, node_count

if TYPE_CHECKING:
    import networkx as nx

TRIES = 200
"""Random draws before giving up. Random 2-regular graphs of 1024 nodes need about twelve."""

HOPELESS_ISOLATED = 20.0
"""Expected isolated nodes beyond which 200 draws of G(n, p) all fail (chance about e^-20 each)."""

MAX_LINKS = 10_000_000
"""Links of a graph that is made: more would take many gigabytes, and no run could use them."""

DENSE_FROM = 32
"""Beyond this many nodes, networkx may never finish drawing a dense regular graph."""


def check_regular(n: int, degree: int) -> None:
    """Refuse a pair for which no connected ``degree``-regular graph of ``n`` nodes is made.

    Raises:
        ValueError: says which rule is broken and what to choose instead.
    """
    node_count(n)
    wish = f"no connected {degree}-regular graph of {n} nodes"
    if not 0 <= degree < n:
        raise ValueError(f"{wish}: the degree must be from 0 to {n - 1}")
    if degree < min(2, n - 1):
        raise ValueError(f"{wish}: choose a degree of at least {min(2, n - 1)}")
    if n * degree % 2:
        raise ValueError(f"{wish}: nodes x degree must be even, choose another degree or size")
    _check_links(f"a {degree}-regular graph of {n} nodes", n * degree // 2)


def regular(n: int, degree: int, seed: int = 0) -> Graph:
    """A random connected ``degree``-regular graph.

    Where the first draw is connected, it is ``networkx.random_regular_graph(degree, n, seed)``,
    the reference system's graph for this seed. Only above 32 nodes and for a degree over n/2,
    where networkx can run forever, the graph is the complement of such a draw.
    """
    check_regular(n, degree)
    return _connected(lambda s: _regular_draw(n, degree, s), seed, f"{degree}-regular, {n} nodes")


def fully_connected(n: int) -> Graph:
    """Everybody sends to everybody."""
    import networkx as nx

    _check_links(f"the complete graph of {n} nodes", node_count(n) * (n - 1) // 2)
    return _from_networkx(nx.complete_graph(n))


def ring(n: int) -> Graph:
    """Node i is linked with i - 1 and i + 1 (modulo n)."""
    import networkx as nx

    # networkx makes a self loop of a ring of one node.
    return _from_networkx(nx.cycle_graph(n) if node_count(n) > 1 else nx.empty_graph(1))


def star(n: int) -> Graph:
    """Node 0 is linked with all others."""
    import networkx as nx

    return _from_networkx(nx.star_graph(node_count(n) - 1))


def small_world(n: int, k_over_2: int, beta: float, seed: int = 0) -> Graph:
    """A Watts-Strogatz small world: a ring lattice, each link rewired with probability ``beta``.

    A node starts with ``k_over_2`` neighbours on each side (Watts & Strogatz 1998).
    ``beta`` is 0 for the lattice and 1 for a graph that is nearly random.
    """
    import networkx as nx

    node_count(n)
    _probability("beta", beta)
    if not (k_over_2 >= 1 and 2 * k_over_2 < n):
        raise ValueError(
            f"k_over_2 = {k_over_2} does not fit {n} nodes: choose at least 1, "
            f"and fewer than half the nodes"
        )
    what = f"small world, {n} nodes, k_over_2 {k_over_2}, beta {beta}"
    _check_links(what, n * k_over_2)
    return _connected(
        lambda s: _from_networkx(nx.watts_strogatz_graph(n, 2 * k_over_2, beta, s)), seed, what
    )


def erdos_renyi(n: int, p: float, seed: int = 0) -> Graph:
    """A connected random graph in which each pair is linked with probability ``p``: G(n, p)."""
    import networkx as nx

    node_count(n)
    _probability("p", p)
    isolated = n * (1 - p) ** (n - 1) if n > 1 else 0.0
    what = f"Erdos-Renyi, {n} nodes, p = {p}"
    if isolated > HOPELESS_ISOLATED:
        raise ValueError(
            f"{what}: about {isolated:.0f} nodes would have no neighbour, so it is never "
            f"connected: raise p above ln(n)/n = {math.log(n) / n:.3g}"
        )
    _check_links(what, int(p * n * (n - 1) / 2))
    return _connected(lambda s: _from_networkx(nx.gnp_random_graph(n, p, s)), seed, what)


def torus(rows: int, cols: int) -> Graph:
    """A grid that wraps around; node ``r * cols + c`` is at row r, column c.

    All degrees are 4 from three rows and columns on. One row is a ring.
    """
    return _lattice(rows, cols, wraps=True)


def grid(rows: int, cols: int) -> Graph:
    """Each node is linked with those above, below, left and right of it, if any."""
    return _lattice(rows, cols, wraps=False)


def torus_of(n: int) -> Graph:
    """The torus of ``n`` nodes that is nearest to a square."""
    return torus(*most_square(n))


def grid_of(n: int) -> Graph:
    """The grid of ``n`` nodes that is nearest to a square."""
    return grid(*most_square(n))


def most_square(n: int) -> tuple[int, int]:
    """``(rows, cols)`` with rows <= cols, rows * cols = n, and rows as large as possible.

    Raises:
        ValueError: for a prime n over 3, which leaves only a line.
    """
    rows = next(r for r in range(math.isqrt(node_count(n)), 0, -1) if n % r == 0)
    if rows == 1 and n > 3:
        raise ValueError(
            f"{n} nodes are one row of {n}, no grid: take {n - 1} or {n + 1} nodes, or a Ring"
        )
    return rows, n // rows


def exponential(n: int) -> Graph:
    """The static exponential graph: i sends to ``i + 2**j`` (modulo n) for each ``2**j < n``.

    Directed, with in- and out-degree ceil(log2 n) (Ying et al. 2021).
    """
    hops = 2 ** np.arange((node_count(n) - 1).bit_length(), dtype=np.int64)
    src = np.repeat(np.arange(n, dtype=np.int64), len(hops))
    return Graph(n, np.stack([src, (src + np.tile(hops, n)) % n], axis=1))


GENERATORS: MappingProxyType[str, Callable[..., Graph]] = MappingProxyType(
    {
        "Regular": regular,
        "FullyConnected": fully_connected,
        "Ring": ring,
        "SmallWorld": small_world,
        "Star": star,
        "ErdosRenyi": erdos_renyi,
        "Torus": torus_of,
        "Grid": grid_of,
        "Exponential": exponential,
    }
)
"""Every topology by the name that commands and configurations use."""


def find_generator(name: str) -> tuple[str, Callable[..., Graph]]:
    """The topology's canonical name and function; upper and lower case are the same.

    Raises:
        ValueError: if there is none; names the nearest and all others.
    """
    by_lower = {known.lower(): known for known in GENERATORS}
    if name.lower() in by_lower:
        known = by_lower[name.lower()]
        return known, GENERATORS[known]
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
    hint = f"did you mean {by_lower[near[0]]}? " if near else ""
    raise ValueError(f"unknown graph {name!r}: {hint}There are {', '.join(GENERATORS)}")


def options_of(generator: Callable[..., Graph]) -> dict[str, inspect.Parameter]:
    """The options that a generator takes besides ``n``, by name."""
    return dict(list(inspect.signature(generator).parameters.items())[1:])


def generate(name: str, n: int, **options: Any) -> Graph:
    """The graph ``name`` with ``n`` nodes; the options are those of its generator.

    Raises:
        ValueError: for an unknown name, an unknown or missing option, or values that don't fit.
    """
    known, generator = find_generator(name)
    takes = options_of(generator)
    listing = ", ".join(str(option) for option in takes.values()) or "none"
    for option in options:
        if option not in takes:
            raise ValueError(f"{known} has no option {option!r}: its options are: {listing}")
    for option, parameter in takes.items():
        if parameter.default is parameter.empty and option not in options:
            raise ValueError(f"{known} needs the option {option!r}: its options are: {listing}")
    return generator(n, **options)


def derived_seed(seed: int, attempt: int) -> int:
    """The seed of a random graph's ``attempt``-th draw; the first is ``seed`` itself."""
    if attempt == 0:
        return int(seed)
    text = f"decentralizepy graph redraw {int(seed)} {attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _connected(draw: Callable[[int], Graph], seed: int, what: str) -> Graph:
    for attempt in range(TRIES):
        graph = draw(derived_seed(seed, attempt))
        if graph.is_connected():
            return graph
    raise ValueError(f"{what}: none of {TRIES} draws was connected: ask for more edges")


def _regular_draw(n: int, degree: int, seed: int) -> Graph:
    import networkx as nx

    if n <= DENSE_FROM or 2 * degree <= n:
        return _from_networkx(nx.random_regular_graph(degree, n, seed))
    return _from_networkx(nx.complement(nx.random_regular_graph(n - 1 - degree, n, seed)))


def _lattice(rows: int, cols: int, wraps: bool) -> Graph:
    import networkx as nx

    if rows < 1 or cols < 1:
        raise ValueError(f"{rows} x {cols} is no grid: rows and columns must be at least 1")
    node_count(rows * cols)
    lattice = nx.grid_2d_graph(rows, cols, periodic=wraps)
    pairs = [(r * cols + c, s * cols + d) for (r, c), (s, d) in lattice.edges]
    return Graph.undirected(rows * cols, pairs)


def _check_links(what: str, links: int) -> None:
    if links > MAX_LINKS:
        raise ValueError(
            f"{what}: {links} links, at most {MAX_LINKS} are made: choose fewer nodes or neighbours"
        )


def _probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value} is no probability: choose a value from 0 to 1")


def _from_networkx(drawn: nx.Graph[int]) -> Graph:
    flat = np.fromiter(chain.from_iterable(drawn.edges), dtype=np.int64)
    return Graph.undirected(len(drawn), flat.reshape(-1, 2))
