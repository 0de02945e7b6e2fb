"""The communication graph: an immutable, directed graph over the nodes 0..n-1.

An edge ``(u, v)`` means that u sends to v. An undirected link is two edges, one each way.
The edges are kept as sorted arrays, so that graphs of a thousand nodes are cheap to make each
round, and so that equal graphs are equal byte for byte.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Edge = tuple[int, int]
Edges = Iterable[Edge] | NDArray[np.integer]

MAX_NODES = 1_000_000
"""More nodes than this are taken for a mistake (a wrong file, a wrong unit)."""


def node_count(n: int) -> int:
    """``n`` as an int if it can be a number of nodes, else a ``ValueError``."""
    try:
        count = operator.index(n)
    except TypeError:
        raise ValueError(f"the number of nodes must be an integer, not {n!r}") from None
    if not 1 <= count <= MAX_NODES:
        raise ValueError(f"a graph has 1 to {MAX_NODES} nodes, not {count}: check the node count")
    return count


class Graph:
    """An immutable directed graph over the nodes ``0 .. n-1``; equal content, equal object.

    Args:
        n: number of nodes, at least 1. Nodes without any edge are fine.
        edges: pairs ``(src, dst)``: src sends to dst. An ``[m, 2]`` integer array is fine too.
            Repeated edges count once.
        weights: optional mixing weight by ``(src, dst)``; then every edge needs one. A key
            ``(i, i)`` is the weight that i gives to itself, and may be left out.

    Raises:
        ValueError: for a node outside ``0 .. n-1``, a self loop, or weights that don't fit.
    """

    def __init__(self, n: int, edges: Edges, weights: Mapping[Edge, float] | None = None):
        self._n = node_count(n)
        pairs = _checked_pairs(self._n, edges)
        self._codes = np.unique(pairs[:, 0] * self._n + pairs[:, 1])
        src, dst = np.divmod(self._codes, self._n)
        back = np.sort(dst * self._n + src)
        self._out = _neighbour_lists(self._n, src, dst)
        self._in = _neighbour_lists(self._n, *np.divmod(back, self._n))
        self._symmetric = bool(np.array_equal(self._codes, back))
        self._weights = None if weights is None else self._checked_weights(weights)

    @classmethod
    def undirected(cls, n: int, pairs: Edges) -> Graph:
        """The graph in which each pair is a link both ways (which way it is given is the same)."""
        array = _as_pairs(pairs)
        return cls(n, np.concatenate([array, array[:, ::-1]]))

    @property
    def n(self) -> int:
        """Number of nodes."""
        return self._n

    @property
    def size(self) -> int:
        """Number of directed edges (an undirected link counts twice)."""
        return len(self._codes)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All directed edges ``(src, dst)``, sorted."""
        src, dst = np.divmod(self._codes, self._n)
        return tuple(zip(src.tolist(), dst.tolist(), strict=True))

    @property
    def weights(self) -> Mapping[Edge, float] | None:
        """Mixing weights by ``(src, dst)``, sorted, read-only; ``None`` if there are none."""
        return None if self._weights is None else MappingProxyType(self._weights)

    def in_neighbors(self, uid: int) -> tuple[int, ...]:
        """The nodes that send to ``uid``, ascending."""
        return _list_of(self._in, self._checked_uid(uid))

    def out_neighbors(self, uid: int) -> tuple[int, ...]:
        """The nodes to which ``uid`` sends, ascending."""
        return _list_of(self._out, self._checked_uid(uid))

    def has_edge(self, src: int, dst: int) -> bool:
        """Whether ``src`` sends to ``dst``."""
        return self._checked_uid(dst) in self.out_neighbors(src)

    def in_degree(self, uid: int) -> int:
        """How many nodes send to ``uid``."""
        return self._in_degrees[self._checked_uid(uid)]

    def out_degree(self, uid: int) -> int:
        """To how many nodes ``uid`` sends."""
        return self._out_degrees[self._checked_uid(uid)]

    def degree(self, uid: int) -> int:
        """Same as :meth:`out_degree`; in a symmetric graph, the degree of ``uid``."""
        return self.out_degree(uid)

    def degrees(self) -> tuple[int, ...]:
        """The (out-)degree of each node, by uid."""
        return self._out_degrees

    def is_symmetric(self) -> bool:
        """Whether each edge also goes the other way (the weights are not looked at)."""
        return self._symmetric

    def is_connected(self) -> bool:
        """Whether everybody's news reaches everybody (strongly connected)."""
        return self._connected

    def is_regular(self) -> bool:
        """Whether all in-degrees and all out-degrees are the same number."""
        return len(set(self._out_degrees) | set(self._in_degrees)) == 1

    def restrict(self, members: Collection[int]) -> Graph:
        """The same ``n`` nodes, with only the edges between ``members``.

        Where weights are given, the weight of a neighbour that is left out goes to the node
        itself: each row keeps its sum, and a symmetric doubly stochastic matrix stays one.

        Raises:
            ValueError: if a member is no node of this graph.
        """
        keep = np.zeros(self._n, dtype=bool)
        keep[[self._checked_uid(uid) for uid in members]] = True
        if keep.all():
            return self
        src, dst = np.divmod(self._codes, self._n)
        kept = keep[src] & keep[dst]
        pairs = np.stack([src[kept], dst[kept]], axis=1)
        return Graph(self._n, pairs, self._restricted_weights(keep))

    def adjacency(self) -> NDArray[np.bool_]:
        """Dense ``[n, n]`` matrix ``A[dst, src]``, true where src sends to dst."""
        matrix = np.zeros((self._n, self._n), dtype=bool)
        src, dst = np.divmod(self._codes, self._n)
        matrix[dst, src] = True
        return matrix

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the content: same n, edges and weights, same digest."""
        return self._digest

    def describe(self) -> str:
        """One line for people, such as ``16 nodes, 32 edges, 4-regular``."""
        low, high = min(self._out_degrees), max(self._out_degrees)
        count, noun = (self.size // 2, "edge") if self._symmetric else (self.size, "arc")
        shape = f"{low}-regular" if self.is_regular() else f"degree {low} to {high}"
        return f"{_counted(self._n, 'node')}, {_counted(count, noun)}, {shape}"

    def __repr__(self) -> str:
        return f"<Graph: {self.describe()}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        same_edges = self._n == other._n and np.array_equal(self._codes, other._codes)
        return same_edges and self._weights == other._weights

    def __hash__(self) -> int:
        return hash(self._digest)

    @cached_property
    def _out_degrees(self) -> tuple[int, ...]:
        return tuple(np.diff(self._out[0]).tolist())

    @cached_property
    def _in_degrees(self) -> tuple[int, ...]:
        return tuple(np.diff(self._in[0]).tolist())

    @cached_property
    def _connected(self) -> bool:
        return _reaches_all(self._out) and (self._symmetric or _reaches_all(self._in))

    @cached_property
    def _digest(self) -> str:
        weights = self._weights or {}
        sizes = [self._n, self.size, -1 if self._weights is None else len(weights)]
        content = hashlib.sha256(np.array(sizes, dtype="<i8").tobytes())
        content.update(self._codes.astype("<i8").tobytes())
        content.update(np.array(list(weights), dtype="<i8").tobytes())
        content.update(np.array(list(weights.values()), dtype="<f8").tobytes())
        return content.hexdigest()

    def _checked_uid(self, uid: int) -> int:
        if not 0 <= uid < self._n:
            raise ValueError(f"node {uid} is not in the graph: its nodes are 0 to {self._n - 1}")
        return uid

    def _checked_weights(self, weights: Mapping[Edge, float]) -> dict[Edge, float]:
        known = set(self.edges)
        for edge, weight in weights.items():
            if edge not in known and not (edge[0] == edge[1] and 0 <= edge[0] < self._n):
                raise ValueError(f"weight for {edge}, which is no edge: add the edge or drop it")
            if not math.isfinite(weight):
                raise ValueError(f"the weight of edge {edge} is {weight}: it must be finite")
        missing = sorted(known - weights.keys())
        if missing:
            raise ValueError(f"edge {missing[0]} has no weight: give every edge one, or none")
        # Adding 0.0 turns -0.0 into 0.0, so that equal graphs have equal digests.
        return {(int(u), int(v)): float(weights[u, v]) + 0.0 for u, v in sorted(weights)}

    def _restricted_weights(self, keep: NDArray[np.bool_]) -> dict[Edge, float] | None:
        if self._weights is None:
            return None
        lost: dict[int, list[float]] = {}
        kept: dict[Edge, float] = {}
        for (src, dst), weight in self._weights.items():
            if src == dst or (keep[src] and keep[dst]):
                kept[src, dst] = weight
            else:
                lost.setdefault(dst, []).append(weight)
        for uid, gone in lost.items():
            if (uid, uid) in kept:  # a self weight that isn't written follows by itself
                kept[uid, uid] = math.fsum([kept[uid, uid], *gone])
        return kept


_Lists = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Neighbours of all nodes: node i's are ``members[starts[i]:starts[i+1]]``."""


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _as_pairs(edges: Edges) -> NDArray[np.int64]:
    """The edges as an ``[m, 2]`` array; anything but pairs of integers is refused."""
    try:
        array = np.asarray(edges if isinstance(edges, np.ndarray) else list(edges))
    except (ValueError, OverflowError):
        raise ValueError("edges must be pairs (src, dst) of node numbers") from None
    if array.size == 0:
        return np.empty((0, 2), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise ValueError(f"edges must be pairs (src, dst) of node numbers, not {array[0]!r}")
    return array.astype(np.int64)


def _checked_pairs(n: int, edges: Edges) -> NDArray[np.int64]:
    pairs = _as_pairs(edges)
    outside = ((pairs < 0) | (pairs >= n)).any(axis=1)
    if outside.any():
        edge = tuple(pairs[outside][0].tolist())
        raise ValueError(f"edge {edge} leaves the graph: its nodes are 0 to {n - 1}")
    loops = pairs[:, 0] == pairs[:, 1]
    if loops.any():
        uid = int(pairs[loops][0, 0])
        raise ValueError(f"self loop ({uid}, {uid}): a node needs no edge to itself, drop it")
    return pairs


def _neighbour_lists(n: int, rows: NDArray[np.int64], members: NDArray[np.int64]) -> _Lists:
    starts = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=n), out=starts[1:])
    return starts, members


def _list_of(lists: _Lists, uid: int) -> tuple[int, ...]:
    starts, members = lists
    return tuple(members[starts[uid] : starts[uid + 1]].tolist())


def _reaches_all(lists: _Lists) -> bool:
    """Whether a search from node 0 finds every node (iterative: long paths are fine)."""
    starts, members = lists
    seen = np.zeros(len(starts) - 1, dtype=bool)
    seen[0] = True
    waiting = [0]
    while waiting:
        uid = waiting.pop()
        found = members[starts[uid] : starts[uid + 1]]
        found = found[~seen[found]]
        seen[found] = True
        waiting.extend(found.tolist())
    return bool(seen.all())
