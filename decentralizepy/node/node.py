"""A node is a program without I/O: a generator that yields effects, plus declared state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import Any

from torch import Tensor

from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow
from decentralizepy.graphs.schedules import Schedule
from decentralizepy.node.effects import Answer, Effect
from decentralizepy.node.membership import Membership
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.sharing import Sharing

Program = Generator[Effect, Answer, None]


class Node(ABC):
    """One node: who it is, how it shares, and its program.

    ``x`` [P] float32 is its row; only the runtime replaces it. ``spare`` is a free row that the
    runtime lends for merging. Generators are never saved: what survives a round is in `state`.
    """

    def bind(
        self,
        uid: int,
        *,
        iterations: int,
        schedule: Schedule,
        sharing: Sharing,
        n_parameters: int,
        averaging_steps: int = 1,
        seed: int = 0,
    ) -> None:
        """Make it the node ``uid`` of a run; ``__init__`` is for a program's own options."""
        self.uid, self.iterations = uid, iterations
        self.schedule, self.sharing = schedule, sharing
        self.averaging_steps, self.seed = averaging_steps, seed
        self.n_parameters = n_parameters
        self.round = 0
        #: who takes part when; the runtime sets it, the same for all nodes
        self.membership = Membership(schedule.n)
        self.x: Tensor
        self.spare: Tensor | None = None
        self._mixed: tuple[Graph, MixingRow] | None = None

    @abstractmethod
    def program(self) -> Program:
        """The node's life, from ``self.round`` on."""

    def rounds(self) -> Iterator[int]:
        """The iterations still to do; ``self.round`` is the one under way."""
        while self.round < self.iterations:
            yield self.round
            self.round += 1

    def graph_at(self, t: int, k: int) -> Graph:
        """The graph among those that take part in iteration ``t``, averaging round ``k``."""
        return self.schedule.at(t, k, self.membership.at(t))

    def context(self, graph: Graph, t: int, k: int) -> Context:
        """What the sharing method may know of this round."""
        if self._mixed is None or self._mixed[0] is not graph:  # a static graph: once
            self._mixed = graph, self.sharing.mixing(graph, self.uid)
        mixing = self._mixed[1]
        return Context(self.uid, t, k, graph, mixing, self.n_parameters, self.seed)

    def state(self) -> dict[str, Any]:
        """All that survives an iteration, beside the row, optimizer and integer buffers.

        Tensors, JSON values, and dictionaries of these; taken at a `Checkpoint`.
        """
        return {"sharing": self.sharing.state()}

    def load(self, state: dict[str, Any], t: int) -> None:
        """Go on with iteration ``t`` from what `state` gave after the one before."""
        self.round = t
        self.sharing.load(state.get("sharing", {}))
