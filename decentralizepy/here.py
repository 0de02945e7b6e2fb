"""Runs an experiment in this process: for notebooks, tests and the first steps of a method."""

from __future__ import annotations

import gc
import operator
import os
import sys
import tempfile
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decentralizepy.codec import Word
from decentralizepy.commands import arguments, keywords
from decentralizepy.engine.assemble import Assembly
from decentralizepy.engine.checkpoints import CheckpointSets
from decentralizepy.engine.clock import RealClock
from decentralizepy.engine.process import collector_threshold
from decentralizepy.engine.worker import Worker
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.graphs.files import write_graph
from decentralizepy.graphs.generators import regular
from decentralizepy.graphs.graph import Graph
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory import shared
from decentralizepy.memory.arena import Arena
from decentralizepy.node.membership import describe, epochs_of, resumed
from decentralizepy.node.node import Node
from decentralizepy.registry import Target, forget_sources
from decentralizepy.scenario import faultplan
from decentralizepy.settings import Settings
from decentralizepy.sharing.sharing import Sharing
from decentralizepy.words import (
    Leave,
    Leaving,
    NodeEnded,
    NodeSaved,
    NodesLeft,
    NodesLost,
    Note,
    Pause,
    Record,
    WorkerPaused,
)

_DEGREE = 4
#: held by the thread that runs an experiment: what `_alone` changes belongs to all threads
_TURN = threading.RLock()


@dataclass
class Outcome:
    """What a run in this process came to.

    ``rows`` are the nodes' rows [P] at the end, by uid, servers (-1, ...) included; ``nodes`` the
    node objects themselves; ``records`` what was evaluated, a dictionary per node and evaluation
    (see `decentralizepy.runfolder.RECORD_COLUMNS`).
    """

    rows: dict[int, Tensor] = field(default_factory=dict)
    nodes: dict[int, Node] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run_here(
    ini: str | Path,
    graph: Graph | str | Path | int = 16,
    iterations: int = 10,
    *,
    node: Callable[[], Node] | None = None,
    sharing: Callable[[], Sharing] | None = None,
    log_dir: str | Path | None = None,
    **options: Any,
) -> Outcome:
    """Run all nodes of an experiment in this process, on one worker; returns what came of it.

    Args:
        ini: path of an INI file, or its text. Modules of one's own are looked for beside the file
            and in the working directory.
        graph: a graph, a graph file, or a number of nodes for a random regular graph.
        iterations: training iterations.
        node: makes the program of a node, in place of the class that the INI or driver names;
            ``sharing`` likewise. For classes that are in no file, as in a notebook. Servers and
            other facts are those of the class that it makes.
        log_dir: where records, logs and checkpoints go; by default nothing is kept.
        options: flags of ``decentralizepy run``, as ``test_after=5`` or ``simulate="links.json"``;
            several values of a flag as a list: ``set=["DATASET.shards=1", "SHARING.stay=0.3"]``,
            ``evaluated_nodes=[0, 7]``.

    Raises:
        ConfigError: for what is wrong with the input, as the command would.
        RunError: for a run that failed.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="decentralizepy-")))
        stack.enter_context(_TURN)
        stack.enter_context(_alone(_folder_of(ini)))
        logs = Path(log_dir or folder / "log")
        program = None if node is None else _class_of(node)
        if sharing is not None and not callable(sharing):
            what = "a subclass of Sharing, or a function that makes one"
            raise ConfigError(f"sharing = {sharing!r:.80}: {what}")
        settings = _settings(ini, graph, iterations, logs, folder, options, program)
        _check_losses(settings)
        run = _Run(settings, node, sharing)
        stack.enter_context(_seldom_collected(len(settings.uids)))
        try:
            run.worker.run()
        finally:
            run.worker.finish()
            run.worker.reporter.close()
        return run.outcome()


@contextmanager
def _seldom_collected(nodes: int) -> Iterator[None]:
    """The garbage collector looks as seldom as in a worker's own process."""
    former = gc.get_threshold()
    gc.set_threshold(*collector_threshold(nodes))
    try:
        yield
    finally:
        gc.set_threshold(*former)


def _settings(
    ini: str | Path,
    graph: Graph | str | Path | int,
    iterations: int,
    log_dir: Path,
    folder: Path,
    options: dict[str, Any],
    program: Target | None,
) -> Settings:
    argv = [
        "-cf", str(_ini_file(ini, folder)), "-gf", str(_graph_file(graph, folder)),
        *(("-gt", "adjacency") if isinstance(graph, Graph) and not graph.is_symmetric() else ()),
        f"-is={iterations}", "-ld", str(log_dir), "--workers", "1",
    ]  # fmt: skip
    return arguments.settings_of(keywords.parse(argv, options), program)


def _check_losses(settings: Settings) -> None:
    """Raise `ConfigError` for losses that only processes of their own can have."""
    if settings.resilience.on_loss == "wait":
        remedy = "nothing is started again; run it anew, with resume=True"
        raise ConfigError(f"run_here: on_loss = 'wait': {remedy}")
    if settings.faults is None or settings.simulation is not None:
        return
    for fault in settings.faults.faults:
        if isinstance(fault, faultplan.Kill) and fault.kind != "node":
            what = faultplan.describe(fault)
            raise ConfigError(f"run_here: {what} would end this very process: kill its nodes")


def _class_of(node: Callable[[], Node]) -> Target:
    """The class of the nodes that ``node`` makes, which says how many servers there are."""
    made = node if isinstance(node, type) else type(node()) if callable(node) else None
    if made is None or not issubclass(made, Node):
        raise ConfigError(f"node = {node!r:.80}: a subclass of Node, or a function that makes one")
    return Target.of(made)


def _folder_of(ini: str | Path) -> Path:
    return Path.cwd() if _is_text(ini) else Path(ini).resolve().parent


def _is_text(ini: str | Path) -> bool:
    return isinstance(ini, str) and "\n" in ini


def _ini_file(ini: str | Path, folder: Path) -> Path:
    if not _is_text(ini):
        return Path(ini)
    path = folder / "experiment.ini"
    path.write_text(str(ini), encoding="utf-8")
    return path


def _graph_file(graph: Graph | str | Path | int, folder: Path) -> Path:
    if isinstance(graph, str | Path):
        return Path(graph)
    if not isinstance(graph, Graph):
        graph = _some_graph(graph)
    path = folder / ("graph.edges" if graph.is_symmetric() else "graph.adj")
    write_graph(graph, path)
    return path


def _some_graph(nodes: Any) -> Graph:
    """A random regular graph of so many nodes, whatever kind of whole number that is."""
    try:
        n = operator.index(nodes)
        degree = min(_DEGREE, n - 1)
        return regular(n, degree - (n * degree) % 2, 0)
    except (TypeError, ValueError) as error:
        told = f": {error}" if isinstance(error, ValueError) else ""
        raise ConfigError(
            f"graph = {nodes!r:.80}: a Graph, a graph file or a number of nodes is expected{told}"
        ) from None


class _Run:
    """One worker with all nodes, and what its supervisor would have to do."""

    def __init__(
        self,
        settings: Settings,
        node: Callable[[], Node] | None,
        sharing: Callable[[], Sharing] | None,
    ) -> None:
        self.settings, self._found = settings, Outcome(notes=list(settings.wiring.notes))
        self._sets = CheckpointSets(settings.folder)
        self._saved: defaultdict[int, dict[int, int]] = defaultdict(dict)
        #: why nodes will leave that were lost
        self._leaving: dict[int, str] = {}
        self._orders: deque[Word] = deque()
        assembly = Assembly(settings, program=node, sharing=sharing)
        here = WorkerId(0, 0)
        plan = shared.ArenaPlan((len(settings.hosted),), assembly.row_length, assembly.named_rows)
        memory = shared.create()
        shared.resize(memory, plan)
        arena = Arena(memory, plan)
        os.close(memory)
        placement = Placement(settings.mapping, (1,))
        start = max(self._sets.usable(verify=True), default=0) if settings.resume else 0
        left = epochs_of((self._sets.read(start) or {"left": []})["left"])
        self.worker: Worker = assembly.worker(
            here, placement, arena, tell=self._hear, orders=self._next_orders,
            membership=resumed(settings.mapping.n, left, start),
        )  # fmt: skip
        past = assembly.restore(self.worker, start)
        if start:
            self._found.notes.append(f"resuming after iteration {start}")
        elif settings.resume:
            self._found.notes.append("no checkpoint is complete: starting from the beginning")
        if settings.simulation is None:
            self.worker.clock = RealClock(past)

    def _hear(self, word: Word) -> None:
        match word:
            case Record():
                self._found.records.append(dict(word.columns))
            case Note():
                self._found.notes.append(word.text)
            case NodeSaved():
                self._saved[word.iterations][word.uid] = word.crc32
                self._complete()
            case NodeEnded():
                self._sets.end(word.uid, word.iterations, word.crc32)
                self._complete()
            case NodesLost():
                self._lose(word)
            case WorkerPaused():
                self._leave(word.round + 1)
            case NodesLeft():
                self._found.notes.append(word.epoch.note)
                self._complete()

    def _lose(self, lost: NodesLost) -> None:
        """By policy the run ends, or goes on without those nodes."""
        why = f"{self.worker.me}: {describe(lost.uids)} was lost in iteration {lost.round}"
        if self.settings.resilience.on_loss == "fail":
            raise RunError(why)
        if not self._leaving:
            self._orders.append(Pause(0))
            self.worker.arena.counters.call(self.worker.me.worker)
        self._leaving |= dict.fromkeys(lost.uids, why)
        if (self.worker.membership.left | self._leaving.keys()).issuperset(self.settings.uids):
            raise RunError(f"{why}; no node is left")

    def _leave(self, before: int) -> None:
        """The worker rests: nobody has sent anything of iteration ``before``."""
        left, whys = sorted(self._leaving), "; ".join(dict.fromkeys(self._leaving.values()))
        leaving = Leaving(before, tuple(left), f"{whys} ({describe(left)})", ())
        self._leaving = {}
        self._orders.append(Leave(leaving))
        self._found.notes.append(leaving.epoch.note)

    def _next_orders(self) -> Iterator[Word]:
        """What the supervisor would say by now."""
        while self._orders:
            yield self._orders.popleft()
        self._complete()  # nobody waits for who has left

    def _complete(self) -> None:
        """Note the checkpoints that have all nodes by now."""
        members = self._members()
        for iteration, saved in sorted(self._saved.items()):
            if saved.keys() | self._sets.ended(iteration) >= members:
                saved |= self._sets.carry_on(iteration, members)
                self._sets.complete(iteration, saved, self.worker.membership.value())
                del self._saved[iteration]

    def _members(self) -> set[int]:
        """The nodes that take part."""
        return set(self.settings.hosted) - self.worker.membership.left

    def outcome(self) -> Outcome:
        """The run's outcome, with rows of its own."""
        self._found.notes += dict.fromkeys(self._leaving.values())  # lost when all others had ended
        intervals = self.settings.intervals
        due = 0 < intervals.checkpoint_after < intervals.iterations
        self._found.notes += self._sets.shortcomings(self._saved, self._members(), due)
        for uid, seat in self.worker.seats.items():
            self._found.rows[uid] = seat.rows["x"].detach().cpu().clone()
            self._found.nodes[uid] = seat.node
        return self._found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One thread, as in a worker, for it may decide about bits; modules of the experiment are
    forgotten again, so that one that was changed is read anew."""
    threads, path = torch.get_num_threads(), list(sys.path)
    before = set(sys.modules)
    forget_sources()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        sys.path[:] = path
        own = [name for name in set(sys.modules) - before if _place(name) in (folder, Path.cwd())]
        for name in own:
            del sys.modules[name]


def _place(name: str) -> Path | None:
    """The folder in which a module, or the package that it belongs to, was found."""
    top = sys.modules.get(name.partition(".")[0])
    at = next(iter(getattr(top, "__path__", ())), getattr(top, "__file__", None))
    ours = top is sys.modules[__package__]
    return None if ours or at is None else Path(at).resolve().parent
