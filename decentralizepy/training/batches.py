"""The batches of nodes that train together, as numbers of samples of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np


@dataclass(eq=False, slots=True)
class Block:
    """Batches of some nodes from iteration ``first`` on.

    ``index`` [nodes, iterations, steps, width] numbers samples of the training set; batches shorter
    than ``width`` are filled up with the node's first sample. ``shares`` [nodes, steps, width] are
    those of the samples in their batch's mean, 0 where filled up, and ``taken`` [nodes] the samples
    of an iteration.
    """

    first: int
    index: np.ndarray
    shares: np.ndarray
    taken: list[int]

    def holds(self, t: int, shape: tuple[int, int]) -> bool:
        """Whether batches of iteration ``t`` are here, so many and so wide."""
        return 0 <= t - self.first < self.index.shape[1] and self.index.shape[2:] == shape


@dataclass(eq=False, slots=True)
class Batches:
    """What the nodes of a stack train on in one iteration, in their order; as in `Block`."""

    index: np.ndarray
    shares: np.ndarray
    taken: list[int]

    def part(self, start: int, stop: int) -> Batches:
        """Those of some of the nodes."""
        return Batches(self.index[start:stop], self.shares[start:stop], self.taken[start:stop])

    def sizes(self) -> list[tuple[int, ...]]:
        """The lengths of each node's batches."""
        return [tuple(lengths) for lengths in (self.shares > 0).sum(axis=2).tolist()]

    @classmethod
    def of(cls, held: Sequence[tuple[Block, int]], t: int) -> Batches:
        """Those of iteration ``t`` of nodes that have rows of blocks."""
        block = held[0][0]
        if all(other is block for other, _ in held):
            rows = [row for _, row in held]
            taken = [block.taken[row] for row in rows]
            return cls(block.index[rows, t - block.first], block.shares[rows], taken)
        index = np.stack([one.index[row, t - one.first] for one, row in held])
        shares = np.stack([one.shares[row] for one, row in held])
        return cls(index, shares, [one.taken[row] for one, row in held])


#: holds the batches of no iteration
NONE: Final = Block(0, np.empty((1, 0, 0, 0)), np.empty((1, 0, 0)), [0]), 0
