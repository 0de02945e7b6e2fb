"""The table of sharing methods: what each line of it is, and how a line is played.

A file ``replay_<method>.py`` in this folder has the lines of one method (``ROWS``) and its
reference: the same rule once more, with NumPy and dense float64 matrices over all nodes at once.
It shares no code with the method. Tests of the table multiply its lines with graphs and
compressors; a new method adds its file, and nothing else here changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from decentralizepy.graphs.generators import erdos_renyi, regular, ring, star
from decentralizepy.graphs.graph import Graph
from decentralizepy.messages.header import decode
from decentralizepy.messages.message import Message, Missing
from decentralizepy.sharing.context import Context
from decentralizepy.sharing.sharing import Sharing
from decentralizepy.transport.frames import to_frames

#: rows of all nodes [n, P]
Rows = NDArray[np.float64]
#: (rows, t, k) -> the rows after that round
Step = Callable[[Rows, int, int], Rows]

SEED = 11
#: a few numbers, of which the last are buffers
PARAMETERS, LENGTH = 19, 22
ITERATIONS = 3


@dataclass(frozen=True)
class World:
    """What a reference knows: the graphs by iteration, and who draws from which stream."""

    graphs: tuple[Graph, ...]
    n_parameters: int = PARAMETERS
    length: int = LENGTH
    seed: int = SEED

    @property
    def n(self) -> int:
        return self.graphs[0].n

    def graph(self, t: int) -> Graph:
        return self.graphs[t % len(self.graphs)]

    def context(self, uid: int, t: int, k: int = 0) -> Context:
        """The streams of a node; weights are for the method under test to say."""
        return Context(uid, t, k, self.graph(t), _NO_WEIGHTS, self.n_parameters, self.seed)

    def weights(self, t: int) -> Rows:
        """W[dst, src]: the graph's own, else 1 / (1 + max(d_i, d_j)) and the rest for oneself."""
        graph = self.graph(t)
        matrix = np.zeros((graph.n, graph.n))
        if graph.weights is not None:
            for (src, dst), weight in graph.weights.items():
                matrix[dst, src] = weight
        else:
            degrees = graph.adjacency().sum(axis=1)
            larger = np.maximum(degrees[:, None], degrees[None, :])
            matrix = graph.adjacency() / (1 + larger)
        own = np.diag(matrix) == 0
        matrix[own, own] = 1 - matrix.sum(axis=1)[own]
        return matrix


_NO_WEIGHTS = Sharing().mixing(Graph(1, []), 0)


@dataclass(frozen=True)
class Row:
    """A method with options, its reference, and what it promises."""

    name: str
    make: Callable[..., Sharing]
    #: the reference: a function of the world that makes one step after the other
    replay: Callable[[World], Step]
    #: averaging rounds of an iteration
    steps: int = 1
    #: graphs it is tried on, by name in `GRAPHS`
    graphs: Sequence[str] = ()
    #: whether the mean of all nodes stays what it was in a round, to the last digits of float64,
    #: where the weights are doubly stochastic
    keeps_mean: bool = True
    #: whether nodes that are all alike stay as they are
    keeps_consensus: bool = True
    #: whether a compressor may follow
    compressors: bool = True
    #: float64 is what shows best that rules are equal; some methods send float32 whatever they have
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-11


def _weighted_digraph(n: int) -> Graph:
    """One-way edges i -> i+1 and i -> i+3 with unequal weights; doubly stochastic."""
    weights = {(i, (i + 1) % n): 0.4 for i in range(n)} | {(i, (i + 3) % n): 0.1 for i in range(n)}
    return Graph(n, list(weights), weights)


#: what nodes may be connected by; several graphs are taken in turn, an iteration each
GRAPHS: Mapping[str, tuple[Graph, ...]] = {
    "ring": (ring(4),),
    "regular": (regular(8, 4, 1),),
    "complete": (regular(5, 4, 0),),
    "irregular": (erdos_renyi(9, 0.5, 3),),
    "star": (star(6),),
    "pair": (Graph.undirected(2, [(0, 1)]),),
    "isolated": (Graph.undirected(5, [(0, 1), (1, 2), (0, 2)]),),
    "changing": (regular(8, 3, 1), erdos_renyi(8, 0.6, 3), regular(8, 4, 2)),
    "directed": (_weighted_digraph(7),),
}
#: those on which each node has two neighbours or more, or none
SEVERAL = ("ring", "regular", "complete", "irregular", "isolated", "changing", "directed")


def table() -> list[Row]:
    """All lines of the ``replay_*.py`` beside this file."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("replay_*.py"))
    return [row for name in names for row in importlib.import_module(name).ROWS]


def start(world: World, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Rows [n, P] to begin with, all different."""
    drawn = np.random.default_rng(world.n).standard_normal((world.n, world.length))
    return torch.from_numpy(drawn).to(dtype)


def trained(rows: torch.Tensor, t: int) -> torch.Tensor:
    """What local training would do: something else to each row, in each iteration."""
    drift = np.random.default_rng([t, 5]).standard_normal(tuple(rows.shape))
    return rows + 0.1 * torch.from_numpy(drift).to(rows.dtype)


def normal(stream: np.random.Generator, sharing_seed: int, n: int) -> Rows:
    """What a noisy method draws for one target: torch's normal numbers [n], in float64."""
    source = torch.Generator().manual_seed(int(stream.integers(1 << 62)) ^ sharing_seed)
    return torch.empty(n, dtype=torch.float64).normal_(generator=source).numpy()


def travelled(message: Message) -> tuple[Message, int]:
    """The message as it is once it was bytes, and how many these were."""
    header, payload = to_frames(message)
    rest, tensors = bytearray().join(payload), {}
    found = decode(header)
    at = 0
    for info in found.tensors:
        part = torch.frombuffer(bytearray(rest[at : at + info.nbytes]), dtype=torch.uint8)
        like = message.like[info.name]
        tensors[info.name] = part.view(like.dtype).view(info.shape) if info.nbytes else like.clone()
        at += info.nbytes
    assert at == len(rest) == found.payload_bytes
    made = Message(tensors, found.meta, found.sender, found.round)
    return made, len(header) + len(rest)


@dataclass
class Play:
    """A run of one method over some graphs, node by node, every message through its bytes."""

    make: Callable[[], Sharing]
    world: World
    #: whether all that nodes remember goes through a checkpoint after each iteration
    forgetful: bool = False
    absent: frozenset[tuple[int, int]] = frozenset()
    dtype: torch.dtype = torch.float64
    said: list[tuple[int, tuple[int, ...], Message]] = field(default_factory=list)
    nbytes: int = 0

    @cached_property
    def nodes(self) -> list[Sharing]:
        return self._begun()

    def _begun(self) -> list[Sharing]:
        """New nodes, told the rows that all runs start from."""
        nodes = [self.make() for _ in range(self.world.n)]
        for node, row in zip(nodes, start(self.world, self.dtype), strict=True):
            node.begin(row)
        return nodes

    def round(self, rows: torch.Tensor, t: int, k: int = 0) -> torch.Tensor:
        """Everybody speaks, then everybody merges; nobody may write what belongs to others."""
        graph, before, self.dtype = self.world.graph(t), rows.clone(), rows.dtype
        views = [
            Context(uid, t, k, graph, self.nodes[uid].mixing(graph, uid), self.world.n_parameters,
                    self.world.seed)
            for uid in range(graph.n)
        ]  # fmt: skip
        heard = self._speak(rows, views)
        merged = []
        for uid, ctx in enumerate(views):
            came: list[Message | Missing] = []
            for peer in ctx.sources:
                gone = (peer, uid) in self.absent
                came += [Missing(peer, "gone")] if gone else heard[uid][peer]
            copies = [m.copied() if isinstance(m, Message) else m for m in came]
            merged.append(self.nodes[uid].merge(rows[uid], came, ctx).clone())
            for message, copy in zip(came, copies, strict=True):
                assert isinstance(message, Missing) or _same(message, copy)
        assert torch.equal(rows, before), "rows are values"
        return torch.stack(merged)

    def _speak(
        self, rows: torch.Tensor, views: Sequence[Context]
    ) -> list[dict[int, list[Message]]]:
        heard: list[dict[int, list[Message]]] = [{} for _ in views]
        self.said, self.nbytes = [], 0
        for uid, ctx in enumerate(views):
            for receivers, message in self.nodes[uid].outgoing(rows[uid], ctx):
                assert set(receivers) <= set(ctx.receivers)
                arrived, nbytes = travelled(message.stamped(uid, ctx.round))
                self.said.append((uid, tuple(receivers), arrived))
                self.nbytes += nbytes * len(receivers)
                for receiver in receivers:
                    heard[receiver].setdefault(uid, []).append(arrived)
        return heard

    def run(self, rows: torch.Tensor, steps: int = 1, iterations: int = ITERATIONS) -> torch.Tensor:
        """Train and share, so often."""
        for t in range(iterations):
            rows = trained(rows, t)
            for k in range(steps):
                rows = self.round(rows, t, k)
            if self.forgetful:
                self.pass_on()
        return rows

    def pass_on(self) -> None:
        """Nodes end here and others go on from what they have saved."""
        states = [node.state() for node in self.nodes]
        self.nodes[:] = self._begun()
        for node, state in zip(self.nodes, states, strict=True):
            node.load(state)


def _same(one: Message, other: Message) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.like)


def replayed(row: Row, world: World, rows: torch.Tensor, iterations: int = ITERATIONS) -> Rows:
    """The reference's rows at the end of the same run."""
    step = row.replay(world)
    for t in range(iterations):
        rows = trained(rows, t)
        for k in range(row.steps):
            rows = torch.from_numpy(step(rows.double().numpy(), t, k)).to(rows.dtype)
    return rows.double().numpy()
