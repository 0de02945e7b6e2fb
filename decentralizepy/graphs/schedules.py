"""Which graph is in force when: a schedule gives the graph of each iteration and gossip round.

Schedules are pure: the same question has the same answer, in any order and on any machine, so
that nodes need no central peer sampler and a resumed run needs no history.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from decentralizepy.errors import ConfigError
from decentralizepy.given import check_is
from decentralizepy.graphs.generators import check_regular, regular
from decentralizepy.graphs.graph import Graph
from decentralizepy.streams import generator

WINDOW = 8
"""Graphs kept in memory by a schedule: nodes of one worker are a few rounds apart at most."""


class Schedule(ABC):
    """The graph at each point of a run. Subclasses say which one in :meth:`draw`.

    The INI names one in [GRAPH] (``graph_package``, ``graph_class``). Of its ``__init__``'s
    parameters the engine gives ``n`` (number of nodes), ``graph`` (that of the graph file) and
    ``seed`` (of the experiment), where they are named; all others are options.
    """

    #: whether the graph is the same at all times
    fixed: ClassVar[bool] = False
    #: receivers of each node in a round where all have as many: a number, or the name of the option
    out_degree: ClassVar[int | str | None] = None

    def __init__(self, n: int) -> None:
        self._n = n
        self._drawn = _Window()
        self._restricted = _Window()

    @property
    def n(self) -> int:
        """Number of nodes, the same at all times."""
        return self._n

    def at(self, t: int, k: int = 0, members: frozenset[int] | None = None) -> Graph:
        """The graph in force.

        Args:
            t: iteration, from 0.
            k: averaging round within the iteration, from 0.
            members: the nodes that take part; only edges among them are kept. ``None``: all.

        Raises:
            ValueError: for a negative time, or a member that is no node.
        """
        if t < 0 or k < 0:
            raise ValueError(f"iteration {t}, averaging round {k}: both count from 0")
        key = self.key(t, k)
        graph = self._drawn.get(key, lambda: self._checked(*key))
        if members is None:
            return graph
        return self._restricted.get((key, members), lambda: graph.restrict(members))

    def _checked(self, t: int, k: int) -> Graph:
        graph, method = self.draw(t, k), f"draw({t}, {k})"
        check_is(Graph, graph, self, method, "Graph(self.n, edges)")
        if graph.n != self._n:
            raise ConfigError(
                f"{type(self).__name__}.{method} gives a Graph of {graph.n} nodes, and there are "
                f"{self._n}: write Graph(self.n, edges)"
            )
        return graph

    def key(self, t: int, k: int) -> tuple[int, int]:
        """The first time at which the graph of ``(t, k)`` is in force: one draw serves all."""
        return t, k

    @abstractmethod
    def draw(self, t: int, k: int) -> Graph:
        """Make the graph of iteration t, round k: a pure function of both."""


class StaticSchedule(Schedule):
    """The same graph at all times."""

    fixed: ClassVar[bool] = True

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.n)
        self._graph = graph

    def at(self, t: int, k: int = 0, members: frozenset[int] | None = None) -> Graph:
        """The graph; asked for by every node in every round, so it is not looked for."""
        return self._graph if members is None and t >= 0 <= k else super().at(t, k, members)

    def key(self, t: int, k: int) -> tuple[int, int]:
        """Always the start."""
        return 0, 0

    def draw(self, t: int, k: int) -> Graph:
        """The graph."""
        return self._graph


class RandomRegularSchedule(Schedule):
    """A fresh random regular graph each iteration, or each averaging round.

    A draw's seed is ``seed * 100000 + t``, or ``seed * 100000 + 10000000 * t + k`` with
    ``per_averaging_round``: those of the reference system, whose graph it is wherever that draw is
    connected. Where not, the reference adds a ring (and the graph is no longer regular);
    here it is drawn again.
    """

    out_degree: ClassVar[int | str | None] = "degree"

    def __init__(self, n: int, degree: int, seed: int, per_averaging_round: bool = False) -> None:
        check_regular(n, degree)
        super().__init__(n)
        self._degree = degree
        self._seed = seed
        self._per_averaging_round = per_averaging_round

    def key(self, t: int, k: int) -> tuple[int, int]:
        """The averaging rounds of one iteration share a graph, unless asked otherwise."""
        return (t, k) if self._per_averaging_round else (t, 0)

    def draw(self, t: int, k: int) -> Graph:
        """The regular graph of this time's seed."""
        since_start = 10_000_000 * t + k if self._per_averaging_round else t
        return regular(self._n, self._degree, self._seed * 100_000 + since_start)


class EpidemicSchedule(Schedule):
    """Each node sends to ``degree`` others, drawn afresh at random in each iteration, or each
    averaging round: the local variant of epidemic learning (de Vos et al., NeurIPS 2023).

    A directed graph: how many a node hears varies around ``degree``.
    """

    out_degree: ClassVar[int | str | None] = "degree"

    def __init__(
        self, n: int, seed: int, degree: int = 2, per_averaging_round: bool = False
    ) -> None:
        if not 0 <= degree < max(n, 1):
            raise ValueError(f"degree {degree}: {n} nodes can send to 0 to {n - 1} others")
        super().__init__(n)
        self._degree = degree
        self._seed = seed
        self._per_averaging_round = per_averaging_round

    def key(self, t: int, k: int) -> tuple[int, int]:
        """The averaging rounds of one iteration share a graph, unless asked otherwise."""
        return (t, k) if self._per_averaging_round else (t, 0)

    def draw(self, t: int, k: int) -> Graph:
        """Every node's receivers at this time."""
        steps = subsets(self._n - 1, self._degree, self._n, generator(self._seed, 0, "peers", t, k))
        src = np.repeat(np.arange(self._n), self._degree)
        dst = (src + 1 + steps.reshape(-1)) % self._n
        return Graph(self._n, np.stack([src, dst], axis=1))


def subsets(n: int, size: int, count: int, draws: np.random.Generator) -> npt.NDArray[np.int64]:
    """``count`` random subsets [count, size] of 0 .. n-1, all of them equally likely.

    Floyd's algorithm (Bentley & Floyd, CACM 1987) for all at once: the i-th number is drawn from
    the first n - size + i + 1, and who has it already takes the last of these.
    """
    found = np.empty((count, size), np.int64)
    for i in range(size):
        last = n - size + i
        drawn = draws.integers(last + 1, size=count)
        twice = (found[:, :i] == drawn[:, None]).any(axis=1)
        found[:, i] = np.where(twice, last, drawn)
    return found


class _Window:
    """The last few graphs asked for, by key."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Graph]) -> Graph:
        if key not in self._graphs:
            self._graphs[key] = make()
            while len(self._graphs) > WINDOW:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]
