"""What a run is put through: the files that SIMULATE and FAULTS name, checked and copied."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from decentralizepy.drivers import Wiring
from decentralizepy.errors import ConfigError
from decentralizepy.files import expanded
from decentralizepy.graphs.graph import Graph
from decentralizepy.mappings.mapping import Mapping as Placement
from decentralizepy.runfolder import RESERVED
from decentralizepy.scenario.faultplan import Kill, describe, read_fault_plan
from decentralizepy.scenario.simulation import Simulation, read_simulation
from orchestrator.planning.inputs import Inputs

#: names that mean something in a run folder or in a machine's
TAKEN: Final = RESERVED


@dataclass(frozen=True)
class Kept:
    """A file as it lies in the run folder."""

    name: str
    text: str


@dataclass(frozen=True)
class Scenario:
    """Simulated time and injected faults; None where there are none."""

    simulate: Kept | None = None
    faults: Kept | None = None

    @property
    def files(self) -> dict[str, str]:
        """Name in the run folder -> text."""
        return {kept.name: kept.text for kept in (self.simulate, self.faults) if kept}

    @property
    def keys(self) -> dict[str, str]:
        """The keys of the JSON that name these files in the run folder."""
        named = {"SIMULATE": self.simulate, "FAULTS": self.faults}
        return {key: kept.name for key, kept in named.items() if kept}

    def arguments(self, folder: Path) -> list[str]:
        """The flags of ``decentralizepy run``."""
        flags = {"--simulate": self.simulate, "--faults": self.faults}
        return [
            word for flag, kept in flags.items() if kept for word in (flag, str(folder / kept.name))
        ]


def read_scenario(
    inputs: Inputs, wired: Wiring, workers: int, taken: Iterable[str] = ()
) -> Scenario:
    """Read and check both files for ``workers`` per machine; raises `ConfigError`.

    ``wired`` says who runs over which graphs. ``taken`` are names in the run folder that other
    files have.
    """
    names = {*TAKEN, *taken}
    graph = inputs.graph if wired.follows_file else None
    simulation = _simulation(inputs, graph, wired.servers)
    _check_faults(inputs, graph, workers, simulation, wired.servers)
    simulate = faults = None
    if inputs.simulate_path is not None:
        name = free_name(inputs.simulate_path.name, "simulate", names)
        simulate = Kept(name, _simulation_text(inputs.simulate_path))
        names.add(name)
    if inputs.faults_path is not None:
        name = free_name(inputs.faults_path.name, "faults", names)
        faults = Kept(name, inputs.faults_path.read_text(encoding="utf-8-sig"))
    return Scenario(simulate, faults)


def free_name(name: str, prefix: str, taken: Iterable[str]) -> str:
    """``name``, or with a prefix where it would meet another file of the run folder."""
    used = set(taken)
    while name in used or re.fullmatch(r"machine\d+", name):
        name = f"{prefix}_{name}"
    return name


def _simulation(inputs: Inputs, graph: Graph | None, servers: int) -> Simulation | None:
    if inputs.simulate_path is None:
        return None
    try:
        return read_simulation(inputs.simulate_path, inputs.config.NB_AGENTS, graph, servers)
    except ConfigError as error:
        raise ConfigError(f"{inputs.path}: SIMULATE: {error}") from None


def _check_faults(
    inputs: Inputs,
    graph: Graph | None,
    workers: int,
    simulation: Simulation | None,
    servers: int,
) -> None:
    config, path = inputs.config, inputs.faults_path
    if path is None:
        return
    places = Placement.spread(config.NB_AGENTS, config.NB_MACHINE)
    if simulation is not None:
        places = Placement(simulation.machines)
    places = replace(places, servers=servers)
    try:
        virtual = simulation is not None
        plan = read_fault_plan(path, places, config.NB_ITERATION, virtual, graph)
    except ConfigError as error:
        raise ConfigError(f"{inputs.path}: FAULTS: {error}") from None
    for fault in plan.faults:
        if not isinstance(fault, Kill) or fault.machine < 0:
            continue
        there = min(workers, places.counts[fault.machine])
        if fault.worker >= there:
            raise ConfigError(
                f"{inputs.path}: FAULTS: {path}: {describe(fault)}: machine {fault.machine} has "
                f"{there} worker(s), no worker {fault.worker}; change WORKERS or the plan"
            )


def _simulation_text(path: Path) -> str:
    """The file's text; the folder of a measured run, relative to the file, is made absolute."""
    text = path.read_text(encoding="utf-8-sig")
    value: dict[str, Any] = json.loads(text)
    run = value.get("compute", {}).get("run")
    if run is None:
        return text
    compute = {"run": str(path.parent.absolute() / expanded(Path(run)))}
    return json.dumps(value | {"compute": compute}, indent=2) + "\n"
