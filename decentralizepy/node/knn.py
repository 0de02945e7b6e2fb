"""D-PSGD over the overlay that links every node with those whose labels are most like its own."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.graphs.graph import Graph
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.dpsgd import DPSGD
from decentralizepy.node.effects import Receive, Send
from decentralizepy.node.node import Program


class KNN(DPSGD):
    """Each node chooses the ``neighbours`` nodes of nearest label histogram, by the cosine; a link
    is one that either end has chosen.

    Nodes first tell one another their histograms, in ceil(log2 n) rounds in each of which a node
    says all that it knows to a single other one. The overlay need not be connected.
    """

    needs_graph: ClassVar[bool] = False
    gossips: ClassVar[bool] = False
    kept: ClassVar[tuple[str, ...]] = ("links",)
    #: whether the most alike are chosen, or the least
    nearest: ClassVar[bool] = True

    def __init__(self, *, neighbours: int = 4) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours = {neighbours}: at least 1 is needed")
        self.neighbours = neighbours
        #: the overlay's links [m, 2], once they are known
        self.links = torch.zeros((0, 2), dtype=torch.int32)
        self._overlay: Graph | None = None

    def setup(self) -> None:
        """Everybody needs labels, and others to choose from."""
        if not self.label_counts:
            raise ConfigError(f"{type(self).__name__} compares labels, and the data set has none")

    def program(self) -> Program:
        if self.round == 0 and self.iterations:
            yield from self._discover()
        yield from super().program()

    def graph_at(self, t: int, k: int = 0) -> Graph:
        """The overlay among those that take part."""
        if self._overlay is None:
            self._overlay = _graph(self.n, self.links.numpy().tobytes())
        members = self.members(t)
        return self._overlay if members is None else _restricted(self._overlay, members)

    def _discover(self) -> Program:
        """Hear of all histograms: after r rounds those of the nodes uid - 2^r + 1 to uid."""
        known = torch.tensor([self.label_counts], dtype=torch.int32)
        for r in range((self.n - 1).bit_length()):
            to, source = (self.uid + 2**r) % self.n, (self.uid - 2**r) % self.n
            round_ = (0, self.averaging_steps + r)
            yield Send([([to], Message({"histograms": known}))], round_)
            (said,) = yield Receive([source], round_)
            if isinstance(said, Missing):
                raise RunError(f"node {source} was lost before the overlay was built")
            known = torch.cat([said["histograms"], known])[-self.n :]
        table = known.numpy()[(np.arange(self.n) - self.uid - 1) % self.n].astype(np.int64)
        self.links = _links(table.tobytes(), self.n, self.neighbours, self.nearest)


def similarities(histograms: np.ndarray) -> np.ndarray:
    """The cosine [n, n] of each two histograms [n, L] of whole numbers; 0 where one is empty.

    Inner products of whole numbers are exact and each further step is rounded once, so that nodes
    on machines of different kinds come to the same overlay.
    """
    products = histograms @ histograms.T
    norms = np.diagonal(products).astype(np.float64)
    scale = np.sqrt(norms[:, None] * norms[None, :])
    return np.divide(products, scale, out=np.zeros(scale.shape), where=scale > 0)


def chosen(histograms: np.ndarray, neighbours: int, nearest: bool) -> np.ndarray:
    """Whom each node chooses [n, k]; of those that are equally near, the next ones by uid."""
    n = len(histograms)
    ahead = (np.arange(n)[:, None] + np.arange(1, n)[None, :]) % n  # the others, in this order
    near = np.take_along_axis(similarities(histograms), ahead, axis=1)
    order = np.argsort(-near if nearest else near, axis=1, kind="stable")[:, :neighbours]
    return np.take_along_axis(ahead, order, axis=1)


@lru_cache(maxsize=2)
def _links(table: bytes, n: int, neighbours: int, nearest: bool) -> torch.Tensor:
    """Links [m, 2] of the overlay, calculated once for all nodes of a worker."""
    choice = chosen(np.frombuffer(table, np.int64).reshape(n, -1), neighbours, nearest)
    pairs = np.stack([np.repeat(np.arange(n), choice.shape[1]), choice.reshape(-1)], axis=1)
    return torch.from_numpy(np.unique(np.sort(pairs, axis=1), axis=0).astype(np.int32))


@lru_cache(maxsize=2)
def _graph(n: int, links: bytes) -> Graph:
    return Graph.undirected(n, np.frombuffer(links, np.int32).reshape(-1, 2))


@lru_cache(maxsize=8)
def _restricted(graph: Graph, members: frozenset[int]) -> Graph:
    return graph.restrict(members)
