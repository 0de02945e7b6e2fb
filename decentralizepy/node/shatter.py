"""Shatter: each node speaks through virtual nodes, and nobody hears a whole model from anybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from decentralizepy.compression.base import Sparse
from decentralizepy.errors import ConfigError
from decentralizepy.graphs.generators import check_regular, regular
from decentralizepy.graphs.graph import Graph
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import Checkpoint, Receive, Report, Send, Train
from decentralizepy.node.node import Node, Program
from decentralizepy.streams import generator


class Shatter(Node):
    """Chunked gossip (Biswas, Even, Kermarrec, Massoulie, Pires, Sharma & de Vos, PoPETs 2025).

    The row is cut into k = ``vnodes_per_node`` chunks of random coordinates, the same on all nodes
    and for good. In each iteration the n k virtual nodes form a new random regular graph; virtual
    node c of node i sends chunk c of i's row to its ``graph_degree`` neighbours. They hand it to
    their nodes, where each coordinate becomes the mean of the own one and all that came:
    x_i[c] <- (x_i[c] + sum_j x_j[c]) / (1 + m_ic), over m_ic chunks c. Rows sum to one; as who
    hears whom differs by chunk, the mean of all nodes is kept on average only.

    A chunk that comes by two virtual nodes of the receiver is sent, and counted, twice; links among
    the virtual nodes of one node carry nothing. A node sends about ``graph_degree`` rows in an
    iteration, whatever k is. Real virtual nodes also hide who speaks; here messages name their
    sender, which an attack has to leave aside.
    """

    needs_graph: ClassVar[bool] = False
    shares: ClassVar[bool] = False

    def __init__(self, *, vnodes_per_node: int = 8, graph_degree: int = 4) -> None:
        if vnodes_per_node < 1:
            raise ValueError(f"vnodes_per_node = {vnodes_per_node}: at least 1")
        self.k, self.degree = vnodes_per_node, graph_degree

    def setup(self) -> None:
        """Cut the row; raises `ConfigError` for a degree that so many virtual nodes cannot have."""
        try:
            check_regular(self.n * self.k, self.degree)
        except ValueError as error:
            raise ConfigError(f"graph_degree of virtual nodes: {error}") from None
        self.chunks = chunks(self.seed, len(self.x), self.k)

    def program(self) -> Program:
        for t in self.rounds():
            yield Train(t)
            own = [self.x[chunk] for chunk in self.chunks]
            receivers, senders = self.links(t)
            for c, copies in receivers.items():
                message = self.sharing.pack(own[c], self.apart(t), receiver=c)
                for copy, uids in enumerate(copies):
                    yield Send([(uids, message)], (t, copy * self.k + c))
            x = self.x.clone()
            for c, copies in senders.items():
                total, count = own[c].clone(), 1
                for copy, uids in enumerate(copies):
                    for heard in (yield Receive(uids, (t, copy * self.k + c))):
                        if isinstance(heard, Message):
                            total += self._said(heard, own[c])
                            count += 1
                x[self.chunks[c]] = total / count
            self.x = x
            yield Report(t)
            yield Checkpoint(t)

    def _said(self, heard: Message, own: Tensor) -> Tensor:
        """The chunk that was said, with the node's own numbers where compression left some out."""
        found = self.sharing.unpack(heard, len(own))
        return found.filled(own) if isinstance(found, Sparse) else found

    def links(self, t: int) -> tuple[Links, Links]:
        """Who hears chunk c of this node, and whose it hears, in iteration ``t``.

        By chunk, lists of nodes, ascending: those with one link at least, with two, and so on.
        """
        graph, members = virtual_graph(self.n * self.k, self.degree, self.seed, t), self._members(t)
        to, of = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
        for c in range(self.k):
            own = self.uid * self.k + c
            for peer in graph.out_neighbors(own):
                uid, chunk = divmod(peer, self.k)
                if uid != self.uid and uid in members:
                    to[c, uid] += 1
                    of[chunk, uid] += 1
        return _by_copy(to), _by_copy(of)

    def _members(self, t: int) -> Iterable[int]:
        members = self.membership.at(t)
        return range(self.n) if members is None else members


Links = Mapping[int, list[list[int]]]


def _by_copy(links: Mapping[tuple[int, int], int]) -> Links:
    found: dict[int, list[list[int]]] = {}
    for (c, uid), count in sorted(links.items()):
        copies = found.setdefault(c, [])
        copies += [[] for _ in range(count - len(copies))]
        for copy in copies[:count]:
            copy.append(uid)
    return found


@lru_cache(maxsize=4)
def virtual_graph(n: int, degree: int, seed: int, t: int) -> Graph:
    """The graph of the virtual nodes in iteration ``t``, with the seed of the authors' artifact."""
    return regular(n, degree, seed * 100_000 + t)


@lru_cache(maxsize=4)
def chunks(seed: int, length: int, k: int) -> tuple[Tensor, ...]:
    """The coordinates of each chunk, ascending; their sizes differ by one at most."""
    order = torch.from_numpy(generator(seed, 0, "shared", 0).permutation(length))
    return tuple(part.sort().values for part in order.tensor_split(k))
