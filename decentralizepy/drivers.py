"""What the nodes of a run do, and over which graphs: named by the INI, else by a driver.

A driver is a name of the reference system for a pair: a node program and a schedule of graphs.
Each part that the INI names itself (``node_class`` in [NODE], ``graph_class`` in [GRAPH]) comes
from there; the driver gives the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from decentralizepy.config import Component, Experiment, NodeOptions
from decentralizepy.errors import ConfigError, nearest
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.schedules import Schedule
from decentralizepy.registry import Target, fact, options

#: D-PSGD over the graph of the file: what runs where neither a driver nor the INI says otherwise
DEFAULT: Final = "testing.py"


@dataclass(frozen=True)
class Driver:
    """A node program and a schedule, and which options of theirs [NODE] gives under which key."""

    node: Target
    schedule: Target
    node_options: Mapping[str, str] = field(default_factory=dict)
    schedule_options: Mapping[str, str] = field(default_factory=dict)


def _program(module: str, name: str) -> Target:
    return Target(f"decentralizepy.node.{module}", name)


_DPSGD: Final = _program("dpsgd", "DPSGD")
_SCHEDULES: Final = "decentralizepy.graphs.schedules"
_STATIC: Final = Driver(_DPSGD, Target(_SCHEDULES, "StaticSchedule"))
_DYNAMIC: Final = Driver(
    _DPSGD,
    Target(_SCHEDULES, "RandomRegularSchedule"),
    schedule_options={"degree": "graph_degree", "per_averaging_round": "dynamic_avgrounds"},
)
_EPIDEMIC: Final = Driver(
    _program("epidemic", "EpidemicLearning"),
    Target(_SCHEDULES, "EpidemicSchedule"),
    {"timeout": "timeout"},
    {"degree": "graph_degree", "per_averaging_round": "dynamic_avgrounds"},
)
_RATE: Final = {"working_rate": "working_rate"}
_DROPOUT: Final = Driver(
    _program("dropout", "Dropout"),
    _STATIC.schedule,
    {"dropout_rate": "dropout_rate", "dropout_correlation": "dropout_correlation"},
)
DRIVERS: Final[dict[str, Driver]] = {
    "testing.py": _STATIC,
    "testingManual.py": _STATIC,
    "testingPeerSampler.py": _STATIC,
    "testingPeerSamplerDynamic.py": _DYNAMIC,
    "testingPeerSamplerDynamicManual.py": _DYNAMIC,
    "testingPeerSamplerMultipleAvgRounds.py": _STATIC,
    "testingPeerSamplerDynamicMultipleAvgRounds.py": _DYNAMIC,
    "testingPeerSamplerMultipleAvgRoundsDropout.py": _DROPOUT,
    "testingEL_Oracle.py": _DYNAMIC,
    "testingEL_Local.py": _EPIDEMIC,
    "testingKNN.py": Driver(_program("knn", "KNN"), _STATIC.schedule),
    "testingKFN.py": Driver(_program("kfn", "KFN"), _STATIC.schedule),
    "testingFederated.py": Driver(_program("fedavg", "FedAvg"), _STATIC.schedule, _RATE),
    "testingSTC.py": Driver(_program("stc", "STCFederated"), _STATIC.schedule, _RATE),
}


def driver(name: str) -> Driver:
    """The driver by the file name that the reference system gave it."""
    base = Path(name).name
    base = base if base.endswith(".py") else f"{base}.py"
    if base not in DRIVERS:
        known = ", ".join(DRIVERS)
        raise ConfigError(f"unknown driver {name!r}{nearest(base, DRIVERS)}; known: {known}")
    return DRIVERS[base]


@dataclass(frozen=True)
class Wiring:
    """The node program and the schedule of a run, with their options.

    ``origin`` says where the schedule and its options come from, for errors. ``driver`` names the
    driver that gave a part, if one did. ``notes`` tell what was named twice.
    """

    program: Component
    schedule: Component
    origin: str
    driver: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def fixed(self) -> bool:
        """Whether the graph is the same at all times."""
        return fact(self.schedule.target, "fixed", False)

    @property
    def follows_file(self) -> bool:
        """Whether nodes speak over the edges of the graph file, and over no others, at all times.

        Not so where there is a server, or where the program needs no graph.
        """
        return self.fixed and self.needs_graph and not self.servers

    def with_option(self, name: str, value: Any, flag: str) -> Wiring:
        """The same with an option of the program's that a flag gives; a note if it has none such.

        Raises `ConfigError`.
        """
        program = self.program
        if name not in (options(program.target) or {}):
            note = f"{flag} {value} has no effect: {program.target.name} has no option {name}"
            return dataclasses.replace(self, notes=(*self.notes, note))
        given = dataclasses.replace(program, options={**program.options, name: value})
        return dataclasses.replace(self, program=given)

    @property
    def is_ours(self) -> bool:
        """Whether the schedule is one of the package's, which loads no torch and runs no file."""
        return self.schedule.target.module.split(".")[0] == "decentralizepy"

    @property
    def needs_graph(self) -> bool:
        """Whether a graph file is needed for more than the number of nodes."""
        needed = fact(self.program.target, "needs_graph", True)
        return needed and "graph" in (options(self.schedule.target) or {})

    @property
    def servers(self) -> int:
        """Number of server nodes, whose ids are -1, -2, ...; raises `ConfigError`."""
        found = fact(self.program.target, "servers", 0)
        if found < 0:
            raise ConfigError(f"{self.program.target.dotted}.servers = {found}: at least 0")
        return found

    @property
    def out_degree(self) -> int | None:
        """To how many nodes each one sends in a round, if that is always the same and known."""
        found = fact(self.schedule.target, "out_degree", None)
        if isinstance(found, str):
            found = self.schedule.options.get(found)
        return found if isinstance(found, int) else None

    def build(self, graph: Graph, seed: int) -> Schedule:
        """Construct the schedule for the nodes of ``graph``; raises `ConfigError`."""
        given = {"n": graph.n, "graph": graph, "seed": seed}
        named = options(self.schedule.target) or {}
        dotted = self.schedule.target.dotted
        try:
            found = self.schedule.build(**{key: given[key] for key in given if key in named})
        except ConfigError as error:
            raise ConfigError(f"{self.origin}: {error.__cause__ or error}") from None
        if not isinstance(found, Schedule):
            raise ConfigError(f"{self.origin}: {dotted} is not a subclass of Schedule")
        n = getattr(found, "_n", None)
        if n != graph.n:
            raise ConfigError(
                f"{self.origin}: {dotted} is made for {n} nodes, not {graph.n}: its __init__ "
                "must call super().__init__(n)"
            )
        return found


def wiring(experiment: Experiment, name: str | None = None) -> Wiring:
    """Who runs over which graphs, by the INI and by the driver ``name``; raises `ConfigError`."""
    found = driver(name or DEFAULT)
    program, schedule = experiment.node_program, experiment.graph_schedule
    where, said = f"{experiment.path}: [NODE]", name or DEFAULT
    origin = f"{experiment.path}: [GRAPH]"
    notes = tuple(_notes(experiment, found, name))
    used = said if program is None or schedule is None else None
    if program is None:
        program = _component(found.node, found.node_options, experiment.node, where, said)
    if schedule is None:
        keys = found.schedule_options
        schedule = _component(found.schedule, keys, experiment.node, where, said)
        values = [f" {key} = {schedule.options[name]}" for name, key in keys.items()
                  if schedule.options.get(name, False) is not False]  # fmt: skip
        origin = f"{where}{','.join(values)}"
    return Wiring(program, schedule, origin, used, notes)


def _component(
    found: Target, keys: Mapping[str, str], node: NodeOptions, where: str, said: str
) -> Component:
    """A class of a driver's, with the options that [NODE] gives."""
    values: dict[str, Any] = {}
    known = options(found) or {}
    given = dataclasses.asdict(node)
    for name, key in keys.items():
        if given[key] is not None:
            values[name] = given[key]
        elif known[name].required:
            raise ConfigError(f"{where} needs '{key}': {said} needs it for {found.name}")
    return Component(found, values)


def _notes(experiment: Experiment, found: Driver, name: str | None) -> Iterator[str]:
    """What the INI names otherwise than the driver that was asked for."""
    pairs = (
        ("node program", experiment.node_program, found.node),
        ("schedule of graphs", experiment.graph_schedule, found.schedule),
    )
    for what, ours, theirs in pairs:
        if name is not None and ours is not None and ours.target.dotted != theirs.dotted:
            yield (
                f"the {what} is {ours.target.dotted}, as {experiment.path.name} says, "
                f"not {theirs.name} of {Path(name).name}"
            )
