"""Gossip of the coefficients of a linear transform of the model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from decentralizepy.compression.base import Sparse
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.partial_model import PartialModel
from decentralizepy.sharing.parts import add_parts


class Transformed(PartialModel):
    """x_i <- x_i + T^-1(sum_j w_ij (T x_j - T x_i) on S_j): `PartialModel` in another basis.

    That is T^-1 of the weighted sum of all coefficients, as T is linear, without the rounding of
    x_i's way there and back. Whole models, from ``metadata_cap`` on, travel as they are and are
    averaged as they are.

    Passes over the row, beside those of `PartialModel`: two transforms (of the row that is said
    and of the next one), one inverse and its sum, and zeros to add up the differences in.
    """

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """The coefficients of a row [P]."""

    @abstractmethod
    def inverse(self, coefficients: Tensor, n: int) -> Tensor:
        """The row [n] of such coefficients."""

    def mixed(self, x: Tensor, heard: Sequence[Message | Missing], ctx: Context) -> Tensor:
        """Whole models as in `Sharing`; differences of coefficients are added up, then undone."""
        parts = [one for one in heard if isinstance(one, Message) and self.is_part(one)]
        whole = [Missing(one.sender, "in part") if one in parts else one for one in heard]
        out = self.average(x, whole, ctx.mixing, ctx)
        if parts:
            now = self.coefficients(x)
            change = torch.zeros_like(now)
            add_parts(change, now, [self._weighed(one, len(now), ctx) for one in parts])
            out += self.inverse(change, len(x))
        return out

    def _weighed(self, message: Message, n: int, ctx: Context) -> tuple[Sparse, float]:
        part = self.unpack(message, n)
        assert isinstance(part, Sparse)
        return part, ctx.mixing.weights[message.sender]
