"""From a configuration to what will happen, on machines that need not be known yet: pure.

`plan` decides which nodes live on which machine, how many bytes the messages of a round take, and
about how long it will last. Addresses, ports and commands come with the machines
(`orchestrator.planning.placed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from decentralizepy.errors import ConfigError
from decentralizepy.mappings.mapping import Mapping as Placement
from decentralizepy.registry import fact
from decentralizepy.runfolder import RunFolder
from decentralizepy.settings import EvaluationOptions
from decentralizepy.text import plural
from orchestrator.config import Config
from orchestrator.planning.costs import Cost
from orchestrator.planning.estimate import Estimate, Load, estimate
from orchestrator.planning.scenario import TAKEN, Scenario, free_name
from orchestrator.planning.site import Site
from orchestrator.planning.task import Task
from orchestrator.planning.traffic import Traffic, count_traffic, edges_per_round

if TYPE_CHECKING:
    from decentralizepy.graphs.graph import Graph

NO_SCENARIO: Final = Scenario()


@dataclass(frozen=True)
class Machine:
    """One machine's share: nodes ``first_uid`` to ``first_uid + nodes - 1``."""

    machine: int
    first_uid: int
    nodes: int
    workers: int


@dataclass(frozen=True)
class Plan:
    """What will happen, wherever the machines are; ``files`` are those that all of them get."""

    config: Config
    config_path: Path
    site: Site
    task: Task
    machines: tuple[Machine, ...]
    graph_name: str | None
    graph: Mapping[str, Any]
    files: Mapping[str, str]
    traffic: Traffic
    load: Load
    estimate: Estimate
    notes: tuple[str, ...] = field(default=())
    scenario: Scenario = field(default=NO_SCENARIO)
    resumed: frozenset[int] = field(default=frozenset())  # machines that go on where they were

    def inputs_arguments(self, folder: RunFolder) -> list[str]:
        """Flags that ``check`` and ``run`` share: graph, placement, driver; ``folder`` is where the
        run's files are on that machine."""
        nodes = [machine.nodes for machine in self.machines]
        shares = nodes[:1] if len(set(nodes)) == 1 else nodes
        return [
            *("-ms", str(len(self.machines)), "-ps", *map(str, shares)),
            *self._graph_arguments(folder),
            *(("--eval_file", driver) if (driver := self.config.EVAL_FILE) else ()),
        ]

    def _graph_arguments(self, folder: RunFolder) -> tuple[str, ...]:
        if self.graph_name is None:
            return ()
        return "-gf", str(folder.root / self.graph_name), "-gt", self.config.graph_type


def evaluation_arguments(config: Config) -> list[str]:
    """Flags about who is evaluated on how much; what the JSON leaves open, the core knows."""
    nodes, samples = config.EVALUATED_NODES, config.TEST_SAMPLES
    listed = f"[{','.join(map(str, nodes))}]" if isinstance(nodes, tuple) else str(nodes)
    return [
        *(() if nodes == "all" else ("--evaluated_nodes", listed)),
        *(() if samples is None else ("--test_samples", str(samples))),
    ]


def resilience_arguments(config: Config) -> list[str]:
    """Flags about checkpoints and losses; what the JSON leaves open, the core knows."""
    values = {
        "--checkpoint_after": config.CHECKPOINT_AFTER or None,
        "--on_loss": None if config.ON_LOSS == "fail" else config.ON_LOSS,
        "--wait_limit": config.WAIT_LIMIT,
        "--progress_limit": config.PROGRESS_LIMIT,
        "--start_timeout": config.START_TIMEOUT,
        "--usage_after": config.USAGE_AFTER or None,
    }
    given = ((flag, value) for flag, value in values.items() if value is not None)
    return [word for flag, value in given for word in (flag, _word(value))]


def _word(value: float | str) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def plan(
    config: Config,
    task: Task,
    graph: Graph,
    site: Site,
    cost: Cost,
    files: Mapping[str, str],
    config_path: Path,
    scenario: Scenario = NO_SCENARIO,
) -> Plan:
    """Lay out an experiment; raises `ConfigError` for what cannot work."""
    wired = task.wiring
    if config.GRAPH_FILE is None and wired.needs_graph:
        who = f"{wired.program.target.name} over {wired.schedule.target.name}"
        raise ConfigError(f"{config_path}: needs the key 'GRAPH_FILE', for {who} needs a graph")
    if wired.is_ours:
        wired.build(graph, task.experiment.seed)
    names = (f"{config_path}: EVALUATED_NODES", f"{config_path}: TEST_SAMPLES")
    evaluation = EvaluationOptions(config.EVALUATED_NODES, config.TEST_SAMPLES)
    evaluation.check(config.NB_AGENTS, wired.servers, names)
    edges = edges_per_round(wired, graph)
    machines = place(config, site)
    traffic = count_traffic(config, task, edges)
    load = _load(config, task, site, machines, traffic)
    return Plan(
        config=config,
        config_path=config_path,
        site=site,
        task=task,
        machines=machines,
        graph_name=graph_name(config),
        graph=_facts(graph, machines) | {"dynamic": not wired.fixed},
        files=files,
        traffic=traffic,
        load=load,
        estimate=estimate(load, cost),
        notes=_notes(config, task, graph, site),
        scenario=scenario,
    )


def place(config: Config, site: Site) -> tuple[Machine, ...]:
    """Spread the nodes: uids run through the machines in order."""
    spread = Placement.spread(config.NB_AGENTS, config.NB_MACHINE)
    return tuple(
        Machine(m, spread.uids(m)[0], nodes, min(site.workers, nodes))
        for m, nodes in enumerate(spread.counts)
    )


def graph_name(config: Config) -> str | None:
    """The graph's name in the run folder; never one of the names that mean something there."""
    if config.GRAPH_FILE is None:
        return None
    taken = {*TAKEN, Path(config.CONFIG_NAME).name}
    return free_name(Path(config.GRAPH_FILE).name, "graph", taken)


def _facts(graph: Graph, machines: tuple[Machine, ...]) -> dict[str, Any]:
    owner = [machine.machine for machine in machines for _ in range(machine.nodes)]
    degrees = list(graph.degrees())
    return {
        "nodes": graph.n,
        "edges": len(graph.edges),
        "edges_between_machines": sum(owner[i] != owner[j] for i, j in graph.edges),
        "degree_min": min(degrees, default=0),
        "degree_max": max(degrees, default=0),
        "connected": bool(graph.is_connected()),
        "digest": graph.digest(),
    }


def _load(
    config: Config, task: Task, site: Site, machines: tuple[Machine, ...], traffic: Traffic
) -> Load:
    rounds, batch_size = _work(task.experiment.training.options, config.NB_AGENTS)
    return Load(
        nodes=tuple(machine.nodes for machine in machines),
        workers=tuple(machine.workers for machine in machines),
        cores=site.cores,
        computers=site.computers,
        iterations=config.NB_ITERATION,
        averaging_steps=config.AVERAGING_STEPS,
        test_after=config.TEST_AFTER,
        train_evaluate_after=config.train_evaluate_after,
        rounds=rounds,
        batch_size=batch_size,
        full_epochs=bool(task.experiment.training.options.get("full_epochs", False)),
        samples=fact(task.experiment.dataset.target, "samples", (0, 0)),
        test_samples=config.TEST_SAMPLES,
        evaluated=_evaluated(config),
        row_bytes=4 * (task.row_length or 0),
        bytes_per_round=traffic.bytes_per_round or 0,
    )


def _evaluated(config: Config) -> int:
    """How many nodes are evaluated."""
    nodes = config.EVALUATED_NODES
    if nodes == "all":
        return config.NB_AGENTS
    return len(nodes) if isinstance(nodes, tuple) else nodes


def _work(options: Mapping[str, Any], nodes: int) -> tuple[float, float]:
    """Rounds and batch size, as `Load` has them, where each node may have its own."""
    rounds, batches = (
        [value if isinstance(value, int) else value.of(uid) for uid in range(nodes)]
        for value in (options.get("rounds", 1), options.get("batch_size", 1))
    )
    if options.get("full_epochs", False):
        return sum(rounds) / nodes, sum(batches) / nodes
    samples = sum(r * b for r, b in zip(rounds, batches, strict=True))
    return samples / sum(batches), sum(batches) / nodes


def _notes(config: Config, task: Task, graph: Graph, site: Site) -> tuple[str, ...]:
    """What is allowed but may surprise."""
    notes, fixed = list(task.wiring.notes), task.wiring.follows_file
    if config.records_nothing:
        why = "NB_ITERATION" if not config.NB_ITERATION else "TEST_AFTER"
        notes.append(f"{why} is 0: nothing is evaluated, so there will be nothing to draw")
    degree = task.experiment.node.graph_degree
    if config.GRAPH_FILE is not None and fixed and not graph.is_connected() and graph.n > 1:
        notes.append("the graph is not connected: nodes of different parts never agree")
    if task.wiring.fixed and degree is not None:
        schedule = task.wiring.driver or task.wiring.schedule.target.name
        notes.append(f"graph_degree = {degree} is not used: {schedule} is static")
    offset = task.experiment.offset
    if config.OFFSET is not None and offset != config.OFFSET:
        notes.append(f"OFFSET = {config.OFFSET} is not used: the INI's own offset is {offset}")
    if config.WAIT_LIMIT is not None and config.ON_LOSS != "wait":
        notes.append(f"WAIT_LIMIT is not used: ON_LOSS is {config.ON_LOSS}, not wait")
    if config.DATASETS_DIR is not None and task.data is None:
        notes.append("DATASETS_DIR is not used: no path of the INI begins with /datasets")
    if site.assumed:
        notes.append(f"CPUs are counted on the machines; {site.workers} each are assumed here")
    elif site.workers * config.NB_MACHINE > site.cores:
        machines = f"{plural(config.NB_MACHINE, 'machine')} of {plural(site.workers, 'worker')}"
        notes.append(f"{machines} share {plural(site.cores, 'CPU')}")
    return tuple(notes)
