"""Muffliato: noise on the model itself, then several rounds of gossip that average it away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import ClassVar, Final

import numpy as np
from torch import Tensor

from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import TOLERANCE, mixing_matrix
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing import noise
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.sharing import Sharing

#: what is left of the weight of the newest round once it is rounded: eigenvalues of two libraries
#: differ in the last digits, and all nodes have to take the same
_DIGITS: Final = 9


class Muffliato(Sharing):
    """x <- x + N(0, noise_std^2 I), which all neighbours hear too; then K rounds of gossip
    (Cyffers, Even, Bellet & Massoulie, NeurIPS 2022, algorithm 1). K is ``-as``.

    ``accelerated`` gossips as their algorithm does: x^1 = W x^0, then
    x^(k+1) = gamma W x^k + (1 - gamma) x^(k-1), with gamma = `relaxation` of the round's graph.
    The reference system's class has plain gossip, which is the default.

    Passes over the row: in the first round a draw and a copy; accelerated, one more in the others.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.Muffliato"
    sends_whole_row: ClassVar[bool] = True
    packs: ClassVar[bool] = True

    def __init__(
        self, *, noise_std: float = 0.0, sharing_seed: int = 421, accelerated: bool = False
    ) -> None:
        self.noise_std, self.sharing_seed = noise.level(noise_std), sharing_seed
        self.accelerated = accelerated
        self._own: Tensor | None = None
        self._before: Tensor | None = None

    def outgoing(self, x: Tensor, ctx: Context) -> Iterator[tuple[Sequence[int], Message]]:
        """In the first round the row with noise, afterwards the row; one message for all."""
        self._own = x
        if self.noise_std and ctx.k == 0:
            seed = noise.seed_of(ctx.generator, self.sharing_seed)
            self._own = noise.noised(x, ctx, self.noise_std, seed)
        yield from super().outgoing(self._own, ctx)

    def merge(self, x: Tensor, heard: Sequence[Message | Missing], ctx: Context) -> Tensor:
        """The weighted sum of what was said, the own row included; accelerated where asked for."""
        own = x if self._own is None else self._own
        merged = super().merge(own, heard, ctx)
        if self.accelerated and ctx.k > 0 and self._before is not None:
            gamma = relaxation(ctx.graph)
            merged.mul_(gamma).add_(self._before, alpha=1 - gamma)
        self._before = own if self.accelerated else None
        self._own = None
        return merged


@lru_cache(maxsize=8)
def relaxation(graph: Graph) -> float:
    """gamma = 2 (1 - sqrt(l (1 - l/4))) / (1 - l/2)^2 for the spectral gap l = 1 - lambda_2(W).

    lambda_2 is the largest eigenvalue below 1 of the weights of `Sharing`, so that parts of the
    graph that are not connected count each on its own. Written with m = 1 - l/2 as
    2 / (1 + sqrt(1 - m^2)), which is 1 where the formula has 0/0.

    Raises:
        ValueError: for weights that are not symmetric; they have no such gap.
    """
    matrix = mixing_matrix(graph, Sharing().mixing)
    if not np.allclose(matrix, matrix.T, rtol=0, atol=TOLERANCE):
        raise ValueError("accelerated gossip needs symmetric weights: set accelerated = False")
    values = np.linalg.eigvalsh(matrix)
    below = values[values < 1 - TOLERANCE]
    middle = (1 + float(below.max(initial=-1.0))) / 2
    return round(2 / (1 + math.sqrt(1 - middle * middle)), _DIGITS)
