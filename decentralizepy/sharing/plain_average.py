"""Gossip with equal weights over what was received."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow, uniform
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.sharing import Sharing


class PlainAverageSharing(Sharing):
    """x_i <- (x_i + sum_j x_j) / (m + 1) over the m messages that came.

    Doubly stochastic on regular graphs only; elsewhere nodes with many neighbours weigh more.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.PlainAverageSharing"
    needs_symmetric: ClassVar[bool] = False

    def mixing(self, graph: Graph, uid: int) -> MixingRow:
        """Equal weights over all in-neighbours."""
        return uniform(graph, uid)

    def merge(self, x: Tensor, heard: Sequence[Message | Missing], ctx: Context) -> Tensor:
        """The plain mean of the node's own row and those that came."""
        came = [message for message in heard if isinstance(message, Message)]
        weight = 1.0 / (len(came) + 1)
        row = MixingRow(weight, {message.sender: weight for message in came})
        return self.average(x, came, row, ctx)
