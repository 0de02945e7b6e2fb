"""What a sharing method may know of the round it works in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from torch import Tensor

from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow
from decentralizepy.streams import generator

#: receivers and sources of a node
Neighbours = tuple[tuple[int, ...], tuple[int, ...]]


class Context:
    """One node's view of iteration ``t``, averaging round ``k`` (both 0-based)."""

    def __init__(
        self,
        uid: int,
        t: int,
        k: int,
        graph: Graph,
        mixing: MixingRow,
        n_parameters: int,
        seed: int,
        lend: Callable[[], Tensor | None] = lambda: None,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.uid, self.t, self.k = uid, t, k
        self.graph, self.mixing = graph, mixing
        self.n_parameters, self.seed, self._lend = n_parameters, seed, lend
        #: the nodes that hear this one, and those that it hears, ascending
        self.receivers, self.sources = neighbours or _neighbours(graph, uid)

    @property
    def out(self) -> Tensor | None:
        """A free row [P] that `merge` may fill and return, which saves a copy; perhaps None."""
        return self._lend()

    @property
    def round(self) -> tuple[int, int]:
        return self.t, self.k

    @cached_property
    def generator(self) -> np.random.Generator:
        """The node's random stream of this round."""
        return generator(self.seed, self.uid, "sharing", self.t, self.k)

    def peer_generator(self, peer: int) -> np.random.Generator:
        """A stream of this round for one peer: the same whenever and however often it is asked
        for, so that a deferred message can draw from it."""
        return generator(self.seed, self.uid, "peer", self.t, self.k, peer)

    def compression_generator(self, receiver: int | None = None) -> np.random.Generator:
        """The stream that compression draws from in this round, for all receivers or for one: apart
        from the others, so that compression leaves a method's own draws as they are."""
        series = 0 if receiver is None else (1 << 32) + receiver
        return generator(self.seed, self.uid, "compression", self.t, self.k, series)


def _neighbours(graph: Graph, uid: int) -> Neighbours:
    return graph.out_neighbors(uid), graph.in_neighbors(uid)
