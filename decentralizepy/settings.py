"""All that a run needs to know, checked: what every process of a machine starts from."""

from __future__ import annotations

import inspect
from collections import abc
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from decentralizepy.communication.tcp import TCP
from decentralizepy.config import Component, Experiment
from decentralizepy.drivers import Wiring
from decentralizepy.errors import ConfigError
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.schedules import Schedule
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.runfolder import MachineFolder
from decentralizepy.scenario.faultplan import FaultPlan
from decentralizepy.scenario.simulation import Simulation

#: log levels, from the chattiest
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True)
class Intervals:
    """Evaluation at iterations 1, T, 2T, ... and the last one (1-based)."""

    iterations: int
    test_after: int
    train_evaluate_after: int
    checkpoint_after: int = 0

    def test(self, iteration: int) -> bool:
        return self._due(iteration, self.test_after)

    def train(self, iteration: int) -> bool:
        return self._due(iteration, self.train_evaluate_after)

    def due(self, iteration: int) -> bool:
        return self.test(iteration) or self.train(iteration)

    def save(self, iteration: int) -> bool:
        """Whether a checkpoint is taken: every so many iterations, and never after the last."""
        every = self.checkpoint_after
        return every > 0 and iteration % every == 0 and iteration < self.iterations

    def next_save(self, done: int) -> int:
        """The first checkpoint after more than ``done`` iterations; 0 if there is none."""
        every = self.checkpoint_after
        following = (done // every + 1) * every if every > 0 else 0
        return following if following < self.iterations else 0

    def _due(self, iteration: int, every: int) -> bool:
        if every <= 0:
            return False
        return iteration in (1, self.iterations) or iteration % every == 0


@dataclass(frozen=True)
class EvaluationOptions:
    """Who is evaluated when an evaluation is due, and on how much.

    ``nodes``: ``all``, how many (drawn at random), or the uids of some. ``test_samples``: how many
    samples of the test set, None for all.
    """

    nodes: Literal["all"] | int | tuple[int, ...] = "all"
    test_samples: int | None = None

    def check(
        self,
        n: int,
        servers: int = 0,
        names: tuple[str, str] = ("--evaluated_nodes", "--test_samples"),
    ) -> None:
        """Raise `ConfigError` unless ``n`` nodes and some servers have these uids.

        ``names`` are those of both options where they were given.
        """
        nodes, samples = names
        if self.test_samples is not None and self.test_samples < 1:
            raise ConfigError(f"{samples} {self.test_samples}: at least 1")
        if isinstance(self.nodes, int) and not 1 <= self.nodes <= n:
            raise ConfigError(f"{nodes} {self.nodes}: there are {n} nodes")
        for uid in self.nodes if isinstance(self.nodes, tuple) else ():
            if not -servers <= uid < n:
                raise ConfigError(
                    f"{nodes}: there is no node {uid}; nodes are {-servers} to {n - 1}"
                )


#: what happens when nodes are lost
ON_LOSS: Final = ("fail", "drop", "wait")


@dataclass(frozen=True)
class Resilience:
    """What to do about losses.

    ``on_loss``: ``fail`` ends the run, ``drop`` goes on without the nodes that were lost, ``wait``
    goes back to the newest checkpoint with all, and waits ``wait_limit`` seconds for a machine that
    was lost. A worker whose main loop stands still for ``progress_limit`` seconds counts as lost.
    At the start, machines wait ``start_timeout`` seconds for one another.
    """

    on_loss: str = "fail"
    wait_limit: float = 600.0
    progress_limit: float = 1800.0
    peer_timeout: float = 60.0
    start_timeout: float = 300.0


def transport_of(experiment: Experiment) -> TCP:
    """The options of [COMMUNICATION], checked; raises `ConfigError`.

    A class of one's own that has no such options gets the defaults.
    """
    known = inspect.signature(TCP).parameters
    options = experiment.communication.options
    try:
        return TCP(**{key: value for key, value in options.items() if key in known})
    except ConfigError as error:
        raise ConfigError(f"{experiment.path}: [COMMUNICATION] {error}") from None


@dataclass(frozen=True)
class Settings:
    """One machine's view of a run; equal on all machines but for ``machine`` and the folders."""

    experiment: Experiment
    wiring: Wiring
    graph: Graph
    mapping: Mapping
    machine: int
    addresses: tuple[str, ...]
    intervals: Intervals
    averaging_steps: int
    reset_optimizer: bool
    log_dir: Path
    weights_dir: Path
    cache_dir: Path
    workers: int
    threads: int
    device: str
    log_level: str = "INFO"
    digests: bool = False
    resume: bool = False
    attempt: int = 0
    resilience: Resilience = Resilience()
    simulation: Simulation | None = None
    faults: FaultPlan | None = None
    evaluation: EvaluationOptions = EvaluationOptions()
    #: further files that own modules need, by their names beside the INI
    further: abc.Mapping[str, Path] = field(default_factory=dict)
    usage_after: float = 0.0  # seconds; 0: never
    #: 32 bytes that all machines of the run share; None leaves the wire in the clear
    key: bytes | None = field(default=None, repr=False)

    @cached_property
    def transport(self) -> TCP:
        """The options of the transport between machines."""
        return transport_of(self.experiment)

    @property
    def folder(self) -> MachineFolder:
        return MachineFolder(self.log_dir)

    @property
    def uids(self) -> range:
        """The nodes of this machine."""
        return self.mapping.uids(self.machine)

    @property
    def hosted(self) -> tuple[int, ...]:
        """The nodes and servers of this machine."""
        return self.mapping.hosted(self.machine)

    @property
    def program(self) -> Component:
        """The class of the nodes with its options: the INI's, else the driver's."""
        return self.wiring.program

    @property
    def servers(self) -> int:
        """Number of server nodes, whose ids are -1, -2, ..."""
        return self.wiring.servers

    def schedule(self) -> Schedule:
        """The graphs of the run, by iteration and averaging round; raises `ConfigError`."""
        return self.wiring.build(self.graph, self.experiment.seed)
