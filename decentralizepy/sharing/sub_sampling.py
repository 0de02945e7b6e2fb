"""Random gossip: each node says a random part of its model, and by a seed which."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from decentralizepy.compression.base import Sparse
from decentralizepy.compression.top_k import checked_share
from decentralizepy.messages.message import Message
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.sharing import Sharing


class SubSampling(Sharing):
    """x_i <- x_i + sum_j w_ij (x_j - x_i) on S_j, a random part of about alpha P entries.

    As in DecentralizePy (arXiv 2304.08322). Each entry is drawn with probability alpha, on its own
    and in each round; receivers draw S_j again from a seed, so no indices travel. Where nothing is
    said, a neighbour counts as equal to the node itself: rows of weights sum to 1.

    Args:
        alpha: the expected share of the model that is said, in (0, 1].
        metadata_cap: with ``alpha`` above this, or 1, the whole model is said.
        layerwise: no difference; entries are drawn one by one, layer after layer or not.

    Bytes: 4 for each value, so alpha of the model in expectation, and the seed in the header.
    Passes over the row: the next row, and nothing else; alpha P random numbers are drawn for the
    node itself and for each neighbour.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.SubSampling"
    packs: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    def __init__(
        self, *, alpha: float = 1.0, metadata_cap: float = 1.0, layerwise: bool = False
    ) -> None:
        self.alpha, self.metadata_cap = checked_share(alpha), metadata_cap
        self.layerwise = layerwise

    def outgoing(self, x: Tensor, ctx: Context) -> Iterator[tuple[Sequence[int], Message]]:
        """The values that were drawn, with the seed and ``alpha``; or the whole row."""
        if not ctx.receivers:
            return
        if self.alpha == 1 or self.alpha > self.metadata_cap:
            yield ctx.receivers, self.pack(x, ctx)
            return
        seed = int(ctx.generator.integers(1 << 62))
        values = x.index_select(0, drawn(seed, self.alpha, len(x)).to(x.device))
        yield ctx.receivers, self.pack(values, ctx, {"seed": seed, "alpha": self.alpha})

    def is_part(self, message: Message) -> bool:
        """A message with a seed is."""
        return "seed" in message.meta

    def decode(self, message: Message, n: int) -> Tensor | Sparse:
        """The values that were said and where they belong, or the whole row [n]."""
        if not self.is_part(message):
            return super().decode(message, n)
        seed, alpha = message.meta["seed"], checked_share(message.meta["alpha"])
        indices = drawn(seed, alpha, n)
        values = super().decode(message, len(indices))
        assert isinstance(values, Tensor)
        return Sparse(indices.to(values.device), values, n, checked=True)


def drawn(seed: int, alpha: float, n: int) -> Tensor:
    """Ascending indices int64 below ``n``, each of them there with probability ``alpha`` < 1.

    The gaps between them are geometric, 1 + floor(E / -log(1 - alpha)) with E exponential, so that
    only about alpha n numbers are drawn.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    most = int(alpha * n + 3 * math.sqrt(alpha * n) + 16)
    indices = _places(rng, alpha, most, -1)
    while indices[-1] < n:  # once in a thousand calls or more
        more = _places(rng, alpha, most, int(indices[-1]))
        indices = np.concatenate([indices, more])
    return torch.from_numpy(indices[: np.searchsorted(indices, n)])


def _places(rng: np.random.Generator, alpha: float, count: int, last: int) -> np.ndarray:
    """The next successes [count] int64 of trials behind number ``last``."""
    waits = rng.standard_exponential(count)
    waits *= 1 / max(-math.log1p(-alpha), 1e-15)  # sums stay within int64
    gaps = waits.astype(np.int64)
    gaps += 1
    gaps[0] += last
    return gaps.cumsum(out=gaps)
