"""Noise that the next iteration takes away again: anticorrelated in time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor

from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing import noise
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.sharing import Sharing
from decentralizepy.streams import generator


class AntiCorSharing(Sharing):
    """x <- x + z_t - z_{t-1}, which all neighbours hear too; then a round of gossip.

    z_t is N(0, noise_std^2 I), drawn anew in each iteration t in which the node takes part; the
    first has nothing to take away. Perturbations of this kind are those of anti-PGD (Orvieto et
    al., ICML 2022). Over T iterations they sum to z_{T-1}, not to a sum of T draws. Only the first
    averaging round of an iteration has noise.

    Passes over the row: a copy and two draws. The former draw is repeated, not kept.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.AntiCorSharing"
    sends_whole_row: ClassVar[bool] = True
    packs: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("last",)

    def __init__(self, *, noise_std: float = 0.0, sharing_seed: int = 421) -> None:
        self.noise_std, self.sharing_seed = noise.level(noise_std), sharing_seed
        #: iteration of the node's newest noise; -1 before the first
        self.last = -1
        self._own: Tensor | None = None

    def outgoing(self, x: Tensor, ctx: Context) -> Iterator[tuple[Sequence[int], Message]]:
        """In the first round the row with noise, afterwards the row; one message for all."""
        self._own = x
        if self.noise_std and ctx.k == 0:
            self._own = noise.noised(x, ctx, self.noise_std, self._seed(ctx, ctx.t))
            if self.last >= 0:
                row = self._own[: ctx.n_parameters]
                noise.add(row, -self.noise_std, self._seed(ctx, self.last))
            self.last = ctx.t
        yield from super().outgoing(self._own, ctx)

    def merge(self, x: Tensor, heard: Sequence[Message | Missing], ctx: Context) -> Tensor:
        """The weighted sum of what was said, the own row included."""
        own, self._own = x if self._own is None else self._own, None
        return super().merge(own, heard, ctx)

    def _seed(self, ctx: Context, t: int) -> int:
        return noise.seed_of(generator(ctx.seed, ctx.uid, "sharing", t), self.sharing_seed)
