"""The table of sharing methods: what each line of it is, and how a line is played.

A file ``replay_<method>.py`` in this folder has the lines of one method (``ROWS``) and its
reference: the same rule once more, with NumPy and dense float64 matrices over all nodes at once.
It shares no code with the method. Tests of the table multiply its lines with graphs and with
the compressors of ``sharing_compressors.py``; a new method adds its file, and nothing else changes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sharing_compressors import COMPRESSORS, Compressor, Heard, Reference, Vector

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
    """What a reference knows: the graphs by iteration, who draws from which stream, and what
    becomes of what is said on its way."""

    graphs: tuple[Graph, ...]
    compressor: Compressor = COMPRESSORS["none"]
    n_parameters: int = PARAMETERS
    length: int = LENGTH
    seed: int = SEED
    #: that of the rows under test: torch draws other numbers in float64
    dtype: torch.dtype = torch.float64
    #: what the compressor remembers, by sender and receiver
    series: dict[tuple[int, int | None], Reference] = field(default_factory=dict, compare=False)

    @property
    def n(self) -> int:
        return self.graphs[0].n

    def graph(self, t: int) -> Graph:
        return self.graphs[t % len(self.graphs)]

    def context(self, uid: int, t: int, k: int = 0) -> Context:
        """The streams of a node; weights are for the method under test to say."""
        return Context(uid, t, k, self.graph(t), _NO_WEIGHTS, self.n_parameters, self.seed)

    def normal(self, stream: np.random.Generator, sharing_seed: int) -> Vector:
        """What a noisy method draws for one target: torch's normal numbers [n_parameters]."""
        source = torch.Generator().manual_seed(int(stream.integers(1 << 62)) ^ sharing_seed)
        drawn = torch.empty(self.n_parameters, dtype=self.dtype).normal_(generator=source)
        return drawn.double().numpy()

    def heard(self, x: Vector, t: int, k: int, sender: int, receiver: int | None = None) -> Heard:
        """What comes of ``x``, and where; a receiver is named where others hear something else."""
        reference = self.series.setdefault((sender, receiver), self.compressor.reference())
        return reference(x, self.context(sender, t, k).compression_generator(receiver))

    def gossip(self, own: Rows, t: int, k: int, said: Rows | None = None) -> Rows:
        """W X where all hear the same of a node, one's own numbers where nothing is heard."""
        said, weights = own if said is None else said, self.weights(t)
        out = np.diag(weights)[:, None] * own
        for i in range(self.n):
            receivers = self.graph(t).out_neighbors(i)
            if receivers:
                vector, mask = self.heard(said[i], t, k, i)
                for v in receivers:
                    out[v] += weights[v, i] * np.where(mask, vector, own[v])
        return out

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
    #: whether compressors may follow: the reference takes what is said through `World.heard`
    compressors: bool = False
    #: float64 is what shows best that rules are equal; some methods take float32 only
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
    "leaving": (regular(8, 4, 1), regular(8, 4, 1).restrict((0, 1, 2, 3, 5))),
    "directed": (_weighted_digraph(7),),
}
#: those on which each node has two neighbours or more at first, or none
SEVERAL = (
    "ring", "regular", "complete", "irregular", "isolated", "changing", "leaving", "directed"
)  # fmt: skip


def table() -> list[Row]:
    """All lines of the ``replay_*.py`` beside this file."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("replay_*.py"))
    return [row for name in names for row in importlib.import_module(name).ROWS]


@dataclass(frozen=True)
class Case:
    """A line of the table on a graph and with a compressor."""

    row: Row
    world: World

    @property
    def tolerance(self) -> float:
        rounding = 2e-5 if self.world.dtype == torch.float32 else 0.0
        return max(self.row.tolerance, self.world.compressor.tolerance, rounding)


def cases() -> dict[str, Case]:
    """All lines on their graphs, and with each compressor that may follow on one of them."""
    found = {}
    for row in table():
        one = ["irregular"] if "irregular" in row.graphs else row.graphs[:1]
        for name, compressor in COMPRESSORS.items():
            for graph in row.graphs if name == "none" else one:
                if _may_follow(compressor, row):
                    dtype = row.dtype if name == "none" else torch.float32
                    world = World(GRAPHS[graph], compressor, dtype=dtype)
                    found[f"{row.name}-{graph}-{name}"] = Case(row, world)
    return found


def _may_follow(compressor: Compressor, row: Row) -> bool:
    if compressor.name == "none":
        return True
    method = row.make()
    try:
        compressor.chain().check(selects=method.selects, sends_changes=method.sends_changes)
    except ValueError:
        return False
    return row.compressors


def start(world: World) -> torch.Tensor:
    """Rows [n, P] to begin with, all different."""
    drawn = np.random.default_rng(world.n).standard_normal((world.n, world.length))
    return torch.from_numpy(drawn).to(world.dtype)


def trained(rows: torch.Tensor, t: int) -> torch.Tensor:
    """What local training would do: something else to each row, in each iteration."""
    drift = np.random.default_rng([t, 5]).standard_normal(tuple(rows.shape))
    return rows + 0.1 * torch.from_numpy(drift).to(rows.dtype)


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
    said: list[tuple[int, tuple[int, ...], Message]] = field(default_factory=list)
    nbytes: int = 0
    nodes: list[Sharing] = field(default_factory=list)

    def begin(self, rows: torch.Tensor) -> None:
        """Nodes that start from ``rows``; done in the first round if it is not asked for."""
        self.first = rows
        self.nodes = [self._new(uid) for uid in range(self.world.n)]

    def _new(self, uid: int) -> Sharing:
        made = self.make()
        made.compression = self.world.compressor.chain()
        made.begin(self.first[uid])
        made.mixing(self.world.graph(0), uid)  # the engine asks first: a method may refuse a graph
        return made

    def round(self, rows: torch.Tensor, t: int, k: int = 0) -> torch.Tensor:
        """Everybody speaks, then everybody merges; nobody may write what belongs to others."""
        if not self.nodes:
            self.begin(rows)
        graph, before = self.world.graph(t), rows.clone()
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
        self.begin(rows)
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
        self.nodes = [self._new(uid) for uid in range(len(states))]
        for node, state in zip(self.nodes, states, strict=True):
            node.load(state)


def _same(one: Message, other: Message) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.like)


def replayed(row: Row, world: World, rows: torch.Tensor, iterations: int = ITERATIONS) -> Rows:
    """The reference's rows at the end of the same run."""
    step = row.replay(replace(world, series={}))
    for t in range(iterations):
        rows = trained(rows, t)
        for k in range(row.steps):
            rows = torch.from_numpy(step(rows.double().numpy(), t, k)).to(rows.dtype)
    return rows.double().numpy()
