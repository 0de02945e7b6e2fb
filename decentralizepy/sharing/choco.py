"""CHOCO: gossip of compressed differences to what the neighbours know already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from decentralizepy.compression.base import Sparse
from decentralizepy.compression.top_k import checked_share, largest, number_of
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.sharing import Sharing


class Choco(Sharing):
    """x_i <- x_i + gamma sum_j w_ij (h_ji - h_ij), where h_ij is what j knows of x_i.

    CHOCO-SGD (Koloskova, Stich & Jaggi, ICML 2019, arXiv 1902.00340, algorithms 1 and 2). Node i
    says q_ij = Q(x_i - h_ij), and both ends set h_ij <- h_ij + q_ij; all begin with 0. Q takes the
    round(alpha P) largest entries, then what the INI names as compression; the sender adds what
    receivers decode. As w is symmetric, the mean is kept exactly, whatever Q does.

    In the paper the graph is static, so that all neighbours know the same, and h_ij = h_i. Here
    each edge has its references, and neighbours that know the same share one row: a static graph
    gives the paper's recursion and one message for all, and a changing graph works too, where the
    references of an edge rest while it is absent. Every message has to arrive: a program that goes
    on without late ones parts the references of an edge. Nodes that are lost for good do no harm.

    Args:
        step_size: gamma, in (0, 1]; theory wants it smaller, the less is said.
        alpha: the share of the difference that is said, in (0, 1]; with 1 all of it, and no index.

    Bytes: 4 for each value and 4 for its index, so 2 alpha of the model for each neighbour; with an
    index coder, alpha and what that states.
    Memory: one row for each node heard before, and one for each set of nodes that know the same
    (one in a static graph).
    Passes over the row: for each such set the difference, the selection (`largest`) and one sum,
    then one sum for each neighbour; a copy into the next row.
    """

    reference_name: ClassVar[str] = "decentralizepy.sharing.Choco"
    kept: ClassVar[tuple[str, ...]] = ("said", "known")
    packs: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    sends_changes: ClassVar[bool] = True
    needs_symmetric: ClassVar[bool] = True

    def __init__(self, *, step_size: float, alpha: float) -> None:
        if not 0 < step_size <= 1:
            raise ValueError(f"step_size = {step_size}: above 0 and at most 1 is expected")
        self.step_size, self.alpha = step_size, checked_share(alpha)
        #: peers ("1,4") -> what all of them know of this node, and peer -> what it said of itself
        self.said: dict[str, Tensor] = {}
        self.known: dict[str, Tensor] = {}

    def mixing(self, graph: Graph, uid: int) -> MixingRow:
        """As in `Sharing`; raises ValueError for one-way edges, whose terms would not cancel."""
        if not graph.is_symmetric():
            raise ValueError("Choco needs a link both ways: make the graph undirected")
        return super().mixing(graph, uid)

    def outgoing(self, x: Tensor, ctx: Context) -> Iterator[tuple[Sequence[int], Message]]:
        """For all that know the same: the difference to it, compressed."""
        alike = self._split(ctx.receivers, x)
        for peers, reference in alike:
            message = self._message(x - reference, ctx, None if len(alike) == 1 else peers[0])
            self.said[_name(peers)] = _sum(reference, self.unpack(message, len(x)))
            yield peers, message

    def _split(self, receivers: Sequence[int], x: Tensor) -> list[tuple[list[int], Tensor]]:
        """The receivers by what they know of this node; that is taken out of ``said``."""
        new, alike = set(receivers), []
        for name, reference in list(self.said.items()):
            peers = [int(peer) for peer in name.split(",")]
            here = [peer for peer in peers if peer in new]
            if not here:
                continue
            del self.said[name]
            if rest := [peer for peer in peers if peer not in new]:
                self.said[_name(rest)] = reference.clone()
            new.difference_update(here)
            alike.append((here, reference))
        if new:
            alike.append((sorted(new), torch.zeros_like(x)))
        return sorted(alike, key=lambda one: one[0])

    def _message(self, difference: Tensor, ctx: Context, receiver: int | None) -> Message:
        if self.alpha == 1:
            return self.pack(difference, ctx, receiver=receiver)
        indices = largest(difference, number_of(self.alpha, len(difference)))
        part = Sparse(indices, difference.index_select(0, indices), len(difference))
        return self.pack(part, ctx, receiver=receiver)

    def merge(self, x: Tensor, heard: Sequence[Message | Missing], ctx: Context) -> Tensor:
        """One step towards what the neighbours said of themselves."""
        came = [one for one in heard if isinstance(one, Message)]
        for one in came:
            name = str(one.sender)
            known = self.known.pop(name) if name in self.known else torch.zeros_like(x)
            self.known[name] = _sum(known, self.unpack(one, len(x)))
        weights = {one.sender: self.step_size * ctx.mixing.weights[one.sender] for one in came}
        lent = ctx.out
        out = x.clone() if lent is None else lent.copy_(x)
        for name, reference in sorted(self.said.items()):
            weight = sum(weights.get(int(peer), 0.0) for peer in name.split(","))
            if weight:
                out.sub_(reference, alpha=weight)
        for one in came:
            out.add_(self.known[str(one.sender)], alpha=weights[one.sender])
        return out


def _name(peers: Sequence[int]) -> str:
    return ",".join(map(str, peers))


def _sum(reference: Tensor, said: Tensor | Sparse) -> Tensor:
    """The reference, which is written, with what was said."""
    if isinstance(said, Sparse):
        indices, values = said.indices.to(reference.device), said.values.to(reference)
        return reference.index_add_(0, indices, values)
    return reference.add_(said.to(reference))
