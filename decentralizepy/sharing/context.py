"""What a sharing method may know of the round it works in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow
from decentralizepy.streams import generator


@dataclass
class Context:
    """One node's view of iteration ``t``, averaging round ``k`` (both 0-based).

    ``out`` is a free row [P] that `merge` may fill and return, which saves a copy.
    """

    uid: int
    t: int
    k: int
    graph: Graph
    mixing: MixingRow
    n_parameters: int
    seed: int
    out: Tensor | None = None

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
