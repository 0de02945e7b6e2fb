"""D-PSGD whose nodes drop out of iterations at random, often several in a row."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import numpy as np

from decentralizepy.node.dpsgd import DPSGD
from decentralizepy.streams import generator


class Dropout(DPSGD):
    """A node drops out of an iteration with probability p = ``dropout_rate``, and with
    p + c (1 - p), c = ``dropout_correlation``, if it dropped out of the one before.

    In the long run a share p / (1 - c (1 - p)) of the nodes is away. Who is away neither trains nor
    sends; all know it, and mix over the graph of those that are there, so weights stay symmetric.
    """

    gossips: ClassVar[bool] = False

    def __init__(self, *, dropout_rate: float = 0.1, dropout_correlation: float = 0.1) -> None:
        for name, value in (("rate", dropout_rate), ("correlation", dropout_correlation)):
            if not 0 <= value <= 1:
                raise ValueError(f"dropout_{name} = {value}: a number from 0 to 1 is needed")
        self.rate, self.correlation = dropout_rate, dropout_correlation

    def members(self, t: int) -> frozenset[int] | None:
        """Those of the run that have not dropped out of iteration ``t``."""
        return _present(
            self.seed, self.n, t, self.rate, self.correlation, self.membership.at(t)
        )  # fmt: skip


def away(seed: int, n: int, t: int, rate: float, correlation: float) -> np.ndarray:
    """Which of the nodes [n] drop out of iteration ``t``.

    A draw below p drops a node whatever was before, one of at least p + c (1 - p) keeps it; in
    between it stays as it was. So only the iterations since the last clear draw are looked at.
    """
    again = rate + correlation * (1 - rate)
    found, open_ = np.zeros(n, bool), np.ones(n, bool)
    for before in range(t, -1, -1):
        draws = generator(seed, 0, "absence", before).random(n)
        found |= open_ & (draws < rate)
        open_ &= (draws >= rate) & (draws < again)
        if not open_.any():
            break
    return found


@lru_cache(maxsize=8)
def _present(
    seed: int, n: int, t: int, rate: float, correlation: float, members: frozenset[int] | None
) -> frozenset[int]:
    """One set for all nodes of a worker."""
    there = frozenset(np.flatnonzero(~away(seed, n, t, rate, correlation)).tolist())
    return there if members is None else there & members
