"""The reference system's central peer sampler, for those who want to measure what it costs."""

from __future__ import annotations

from typing import ClassVar

import torch

from decentralizepy.errors import RunError
from decentralizepy.graphs.graph import Graph
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.dpsgd import DPSGD
from decentralizepy.node.effects import Ask, Checkpoint, Receive, Train
from decentralizepy.node.node import Program


class CentralPeerSampler(DPSGD):
    """D-PSGD whose nodes ask server -1 for their neighbours in each averaging round.

    Numbers are those of D-PSGD, where every node computes the graph itself; bytes and seconds are
    not. The answer is the edges of the node and of its neighbours, from which weights follow.
    """

    servers: ClassVar[int] = 1
    gossips: ClassVar[bool] = False

    def setup(self) -> None:
        """Nobody has been told anything yet."""
        self._told: list[Graph] = []

    def program(self) -> Program:
        return self._sample() if self.is_server else self._ask()

    def _sample(self) -> Program:
        for t in self.rounds():
            yield Checkpoint(t)

    def _ask(self) -> Program:
        """D-PSGD, with questions after each training."""
        program, answer = super().program(), None
        while True:
            try:
                effect = program.send(answer)
            except StopIteration:
                return
            answer = yield effect
            if isinstance(effect, Train):
                yield from self._hear_neighbours(effect.t)

    def _hear_neighbours(self, t: int) -> Program:
        self._told = []
        for k in range(self.averaging_steps):
            round_ = (t, self.averaging_steps + k)
            yield Ask([-1], Message({}), round_)
            (said,) = yield Receive([-1], round_)
            if isinstance(said, Missing):
                raise RunError(f"node {self.uid}: the peer sampler was lost")
            self._told.append(_read(said, self.n))

    def graph_at(self, t: int, k: int = 0) -> Graph:
        """What the sampler has told; to the sampler itself, the graph."""
        return super().graph_at(t, k) if self.is_server else self._told[k]

    def answer(self, message: Message) -> Message:
        """The edges [m, 2] around the one who asks, with their weights if they have any."""
        t, k = message.round[0], message.round[1] - self.averaging_steps
        return _write(self.graph_at(t, k), message.sender)


def _write(graph: Graph, uid: int) -> Message:
    near = {uid, *graph.in_neighbors(uid), *graph.out_neighbors(uid)}
    edges = {(i, j) for i in near for j in graph.out_neighbors(i)}
    edges |= {(j, i) for i in near for j in graph.in_neighbors(i)}
    weights = graph.weights
    if weights is not None:
        edges |= {(i, i) for i in near if (i, i) in weights}
    found = torch.tensor(sorted(edges), dtype=torch.int32).reshape(-1, 2)
    if weights is None:
        return Message({"edges": found})
    values = torch.tensor([weights[edge] for edge in sorted(edges)], dtype=torch.float64)
    return Message({"edges": found, "weights": values})


def _read(said: Message, n: int) -> Graph:
    pairs = [(int(i), int(j)) for i, j in said["edges"].tolist()]
    edges = [(i, j) for i, j in pairs if i != j]
    if "weights" not in said:
        return Graph(n, edges)
    return Graph(n, edges, dict(zip(pairs, said["weights"].tolist(), strict=True)))
