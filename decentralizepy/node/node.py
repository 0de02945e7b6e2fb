"""A node is a program without I/O: a generator that yields effects, plus declared state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from decentralizepy.compression.base import Sparse
from decentralizepy.given import check_is
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.mixing import MixingRow
from decentralizepy.graphs.schedules import Schedule
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import Answer, Effect
from decentralizepy.node.mail import Mail
from decentralizepy.node.membership import Membership
from decentralizepy.sharing.context import Context, Neighbours
from decentralizepy.sharing.sharing import Sharing
from decentralizepy.streams import generator

Program = Generator[Effect, Answer, None]


@dataclass
class Binding:
    """What a run tells a node: who it is, and what it works with."""

    uid: int
    n: int
    iterations: int
    schedule: Schedule
    sharing: Sharing
    n_parameters: int
    membership: Membership
    averaging_steps: int = 1
    seed: int = 0
    #: training samples of the node, and how many of them have each label (empty without labels)
    n_samples: int = 0
    label_counts: Sequence[int] = ()
    rows: MutableMapping[str, Tensor] = field(default_factory=dict)
    #: lends a free row to merge into
    lend: Callable[[], Tensor | None] = lambda: None


class Node(ABC):
    """One node: who it is, how it shares, and its program.

    A program of one's own subclasses this. Options are the annotated keyword parameters of
    ``__init__``, which is called before the node knows who it is; `setup` is called after.

    ``x`` [P] float32 is the node's row: the parameters (the first ``n_parameters``), then the
    floating-point buffers. Assign to it, never write into it. More rows (momentum, a tracker) are
    in ``rows`` by name: they travel as cheaply as ``x`` and are part of checkpoints; a class
    names them in ``row_names``. Generators are never saved: what else survives a round is in
    `state`.
    """

    #: how many servers a run has: nodes -1, -2, ... beside the n nodes of the graph
    servers: ClassVar[int] = 0
    #: rows beside ``x``, which start as zeros
    row_names: ClassVar[tuple[str, ...]] = ()
    #: attributes that a checkpoint keeps: tensors, JSON values, dictionaries of these
    kept: ClassVar[tuple[str, ...]] = ()
    #: whether the method of [SHARING] decides what is said and how it is merged
    shares: ClassVar[bool] = True
    #: whether what is sent goes through that method's `pack`, so that compression has an effect
    packs: ClassVar[bool] = True
    #: whether all nodes of a run ask for `Average` in every round in which they gossip, so that the
    #: engine may do it; a class that overrides what decides that (`program`, `setup`, `graph_at`,
    #: ...) says it anew
    averages_together: ClassVar[bool] = False
    #: whether nodes are evaluated too where there are servers
    tests_nodes: ClassVar[bool] = True
    #: what happens to messages that are not heard at once
    mail: Mail = Mail()
    #: whether messages may be on their way at a checkpoint
    asynchronous: bool = False

    uid: int
    n: int
    round: int = 0
    #: whether a program is under way in `rounds`
    _counts: bool = False
    _binding: Binding
    _mixed: tuple[Graph, MixingRow, Neighbours] | None = None

    def bind(self, binding: Binding) -> None:
        """Become a node of a run; called by the engine before anything else."""
        self._binding = binding
        self.uid, self.n, self.seed = binding.uid, binding.n, binding.seed
        self.iterations, self.averaging_steps = binding.iterations, binding.averaging_steps
        self.schedule, self.sharing = binding.schedule, binding.sharing
        self.n_parameters, self.rows = binding.n_parameters, binding.rows
        self.n_samples, self.label_counts = binding.n_samples, binding.label_counts
        #: who takes part when; the same object for all nodes
        self.membership = binding.membership

    def setup(self) -> None:  # noqa: B027 - most programs need none
        """Prepare what the program needs; ``x`` is there. A resumed node then gets its state."""

    @abstractmethod
    def program(self) -> Program:
        """The node's life, from ``self.round`` on."""

    def programs(self) -> Sequence[Program]:
        """All programs of the node, which take turns at their yields; one unless overridden."""
        return (self.program(),)

    def answer(self, message: Message) -> Message | None:
        """The reply to a question (`Ask`), given as it arrives, also while the node trains, waits
        or has ended; None stays silent. It may assign rows: what is trained meanwhile is added."""
        return None

    @property
    def x(self) -> Tensor:
        """The node's row [P]."""
        return self.rows["x"]

    @x.setter
    def x(self, value: Tensor) -> None:
        self.rows["x"] = value

    @property
    def is_server(self) -> bool:
        """Whether this is a server (a negative number), not a node of the graph."""
        return self.uid < 0

    def rounds(self) -> Iterator[int]:
        """The iterations still to do; ``self.round`` is the one under way.

        Only one program of a node may be under way in them, for all see the same ``self.round``.
        """
        if self._counts:
            raise RuntimeError(
                "only one program of a node counts its rounds: take "
                "`for t in range(self.round, self.iterations)` in the others"
            )
        self._counts = True
        try:
            while self.round < self.iterations:
                yield self.round
                self.round += 1
        finally:
            self._counts = False

    @property
    def counts_rounds(self) -> bool:
        """Whether a program is under way in `rounds`, so that ``self.round`` says where it is."""
        return self._counts

    def members(self, t: int) -> frozenset[int] | None:
        """The nodes that take part in iteration ``t``; None as long as that is everybody."""
        return self.membership.at(t)

    def takes_part(self, t: int) -> bool:
        """Whether this node trains and exchanges anything in iteration ``t``."""
        members = self.members(t)
        return members is None or self.uid in members

    def graph_at(self, t: int, k: int = 0) -> Graph:
        """The graph among those that take part in iteration ``t``, averaging round ``k``."""
        return self.schedule.at(t, k, self.members(t))

    def context(self, graph: Graph, t: int, k: int = 0) -> Context:
        """What the sharing method may know of this round."""
        binding, (_, mixing, around) = self._binding, self.around(graph)
        return Context(
            self.uid, t, k, graph, mixing, binding.n_parameters, binding.seed, binding.lend, around
        )

    def around(self, graph: Graph) -> tuple[Graph, MixingRow, Neighbours]:
        """The node's weights in a graph, and its receivers and sources; kept for a static one."""
        mixed = self._mixed
        if mixed is None or mixed[0] is not graph:
            around = graph.out_neighbors(self.uid), graph.in_neighbors(self.uid)
            mixing = self.sharing.mixing(graph, self.uid)
            check_is(MixingRow, mixing, self.sharing, "mixing", "MixingRow(self_weight, weights)")
            mixed = self._mixed = graph, mixing, around
        return mixed

    def apart(self, t: int, k: int = 0) -> Context:
        """What the sharing method may know where the program does not speak over a graph, as to
        `Sharing.pack` something: there is nobody around."""
        binding, alone = self._binding, MixingRow(1.0, {})
        graph = _without_edges(self.n)
        return Context(
            self.uid, t, k, graph, alone, binding.n_parameters, binding.seed, binding.lend, ((), ())
        )

    def unpacked(self, message: Message) -> Tensor:
        """The row [P] that a message says, on this node's device: read it only.

        Where compression left numbers out, these are the node's own.
        """
        found = self.sharing.unpack(message, len(self.x))
        if isinstance(found, Sparse):
            found = Sparse(found.indices.to(self.x.device), found.values.to(self.x), found.length)
            return found.filled(self.x)
        return found.to(self.x.device)

    def generator(self, t: int, k: int = 0) -> np.random.Generator:
        """The node's own random stream of iteration ``t``; ``k`` tells several apart."""
        return generator(self.seed, self.uid, "node", t, k)

    def shared_generator(self, t: int, k: int = 0) -> np.random.Generator:
        """A random stream of iteration ``t`` that is the same on all nodes."""
        return generator(self.seed, 0, "shared", t, k)

    def state(self) -> dict[str, Any]:
        """All that survives an iteration, beside rows, optimizer and integer buffers: what the
        sharing method remembers, and the attributes in ``kept``.

        Tensors, JSON values, and dictionaries of these; taken at a `Checkpoint`.
        """
        own = {name: getattr(self, name) for name in self.kept}
        return {"sharing": self.sharing.state(), "kept": own}

    def load(self, state: dict[str, Any], t: int) -> None:
        """Go on with iteration ``t`` from what `state` gave after the one before."""
        self.round = t
        self.sharing.load(state.get("sharing", {}))
        for name, value in state.get("kept", {}).items():
            setattr(self, name, value)


@lru_cache(maxsize=1)
def _without_edges(n: int) -> Graph:
    return Graph(n, ())
