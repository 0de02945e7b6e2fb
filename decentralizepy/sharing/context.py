"""What a sharing method may know of the round it works in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from torch import Tensor

from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow
from decentralizepy.streams import generator


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
    ) -> None:
        self.uid, self.t, self.k = uid, t, k
        self.graph, self.mixing = graph, mixing
        self.n_parameters, self.seed, self._lend = n_parameters, seed, lend

    @property
    def out(self) -> Tensor | None:
        """A free row [P] that `merge` may fill and return, which saves a copy; perhaps None."""
        return self._lend()

    @property
    def round(self) -> tuple[int, int]:
        return self.t, self.k

    @property
    def receivers(self) -> tuple[int, ...]:
        """The nodes that hear this one, ascending."""
        return self.graph.out_neighbors(self.uid)

    @property
    def sources(self) -> tuple[int, ...]:
        """The nodes this one hears, ascending."""
        return self.graph.in_neighbors(self.uid)

    @cached_property
    def generator(self) -> np.random.Generator:
        """The node's random stream of this round."""
        return generator(self.seed, self.uid, "sharing", self.t, self.k)

    def peer_generator(self, peer: int) -> np.random.Generator:
        """A stream of this round for one peer: the same whenever and however often it is asked
        for, so that a deferred message can draw from it."""
        return generator(self.seed, self.uid, "peer", self.t, self.k, peer)
