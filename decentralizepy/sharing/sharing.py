"""Full-model gossip with Metropolis-Hastings weights, and the interface of every method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow, from_weights, metropolis_hastings
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing.context import Context


class Sharing:
    """x_i <- w_ii x_i + sum_j w_ij x_j with Metropolis-Hastings weights w (Xiao & Boyd, 2004).

    A method of one's own subclasses this and overrides what differs: `outgoing` (what is said),
    `merge` (what is made of what was heard), `mixing` (the weights). Options are the annotated
    keyword parameters of ``__init__``. Attributes that must survive a round are named in ``kept``.
    """

    #: attributes that a checkpoint keeps: tensors, JSON values, dictionaries of these
    kept: ClassVar[tuple[str, ...]] = ()

    reference_name: ClassVar[str] = "decentralizepy.sharing.Sharing"
    #: whether `outgoing` sends the whole row once over each edge; who overrides it says it anew
    sends_whole_row: ClassVar[bool] = True
    #: whether `mixing` needs edges both ways; who overrides it says it anew
    needs_symmetric: ClassVar[bool] = True

    def begin(self, x: Tensor) -> None:  # noqa: B027 - most methods need nothing
        """Learn the row ``x`` [P] that the node starts from; a resumed node gets its state after.

        Called once, before anything is trained. Keep it if you like; don't write into it.
        """

    def mixing(self, graph: Graph, uid: int) -> MixingRow:
        """The node's row of the mixing matrix; weights that the graph carries come first."""
        return from_weights(graph, uid) if graph.weights else metropolis_hastings(graph, uid)

    def outgoing(self, x: Tensor, ctx: Context) -> Iterator[tuple[Sequence[int], Message]]:
        """Pairs (receivers, message) for the row ``x`` [P]; one message serves many receivers."""
        if ctx.receivers:
            yield ctx.receivers, Message({"params": x})

    def merge(self, x: Tensor, heard: Sequence[Message | Missing], ctx: Context) -> Tensor:
        """The node's next row from its own and the messages, which come in ascending uid."""
        return weighted_sum(x, heard, ctx.mixing, ctx.out)

    def state(self) -> dict[str, Any]:
        """What the method remembers between rounds: the attributes in ``kept``."""
        return {name: getattr(self, name) for name in self.kept}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        for name, value in state.items():
            setattr(self, name, value)


def weighted_sum(
    x: Tensor, heard: Sequence[Message | Missing], mixing: MixingRow, out: Tensor | None
) -> Tensor:
    """Own row first, then the others in ascending uid, one multiply-add each.

    The weight of a message that is missing goes to the own row, so that weights still sum to 1.

    The order and the kernel are fixed, whatever worker holds which row, so that every placement
    gives the same bits (a matrix product would not).
    """
    out = torch.empty_like(x) if out is None else out
    own = mixing.self_weight
    for message in heard:
        if isinstance(message, Missing):
            own += mixing.weights[message.sender]
    torch.mul(x, own, out=out)
    for message in heard:
        if isinstance(message, Message):
            out.add_(message["params"], alpha=mixing.weights[message.sender])
    return out
