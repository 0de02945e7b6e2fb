"""The flags of ``decentralizepy run``: the reference's, long and short, and a few of our own."""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import json
import os
from pathlib import Path
from typing import Any, Final

from decentralizepy.config import Experiment, read_experiment
from decentralizepy.cpus import allotted
from decentralizepy.errors import ConfigError, nearest
from decentralizepy.graphs.files import read_graph
from decentralizepy.graphs.generators import check_regular
from decentralizepy.graphs.graph import Graph
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.registry import DRIVERS, Driver, driver
from decentralizepy.runtime.faultplan import FaultPlan, Kill, describe, read_fault_plan
from decentralizepy.runtime.settings import LEVELS, Intervals, Settings
from decentralizepy.runtime.simulation import Simulation, read_simulation

#: the method whose weights need edges both ways
METROPOLIS_HASTINGS: Final = "decentralizepy.sharing.sharing.Sharing"
DEFAULT_GRAPH: Final = Path("36_nodes.edges")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of a run."""
    add_experiment_arguments(parser)
    add = parser.add_argument
    add(
        "-cf",
        "--config_file",
        type=Path,
        default=Path("config.ini"),
        metavar="INI",
        help="what to train (default: %(default)s)",
    )
    minute = datetime.datetime.now().isoformat(timespec="minutes")
    add(
        "-mid",
        "--machine_id",
        type=int,
        default=0,
        metavar="M",
        help="which entry of the address file this machine is (default: %(default)s)",
    )
    add(
        "-ld",
        "--log_dir",
        type=Path,
        default=Path(minute),
        metavar="DIR",
        help="where this machine's records and logs go (default: ./<date and minute>)",
    )
    add(
        "-wsd",
        "--weights_store_dir",
        type=Path,
        metavar="DIR",
        help="where final weights go (default: the log folder)",
    )
    add(
        "-is",
        "--iterations",
        type=int,
        default=1,
        metavar="T",
        help="training iterations (default: %(default)s)",
    )
    add("-ll", "--log_level", default="INFO", metavar="LEVEL", help="one of " + ", ".join(LEVELS))
    add(
        "-ta",
        "--test_after",
        type=int,
        default=5,
        metavar="T",
        help="test at iterations 1, T, 2T, ... and the last (default: %(default)s)",
    )
    add(
        "-tea",
        "--train_evaluate_after",
        type=int,
        default=1,
        metavar="T",
        help="evaluate the local training loss at 1, T, 2T, ... (default: %(default)s)",
    )
    add(
        "-ro",
        "--reset_optimizer",
        type=int,
        choices=(0, 1),
        default=1,
        help="1 forgets momentum and the like after every iteration (default: %(default)s)",
    )
    add(
        "-sm",
        "--server_machine",
        type=int,
        default=0,
        metavar="M",
        help="machine of the server (no driver of this version has one)",
    )
    add("-sr", "--server_rank", type=int, default=-1, metavar="R", help="rank of the server")
    add(
        "-wr",
        "--working_rate",
        type=float,
        default=1.0,
        metavar="F",
        help="federated learning: share of clients a round (no driver of this version has any)",
    )
    add(
        "-as",
        "--averaging_rounds",
        type=int,
        default=1,
        metavar="K",
        help="gossip rounds per training iteration (default: %(default)s)",
    )
    add(
        "--workers",
        type=int,
        metavar="W",
        help="processes on this machine (default: as many as CPUs allotted)",
    )
    add(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="threads per worker; other numbers than 1 change the last bits (default: 1)",
    )
    add("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where prepared data sets are kept (default: ~/.cache/decentralizepy)",
    )
    add(
        "--digests",
        action="store_true",
        help="write the SHA-256 of every node's parameters after every iteration",
    )
    add(
        "--simulate",
        type=Path,
        metavar="JSON",
        help="calculate time from the links and compute costs of a file "
        "(docs/simulated_time.md); all nodes run in one worker",
    )
    add(
        "--faults",
        type=Path,
        metavar="JSON",
        help="a plan of faults to inject: kills, slow links, partitions (docs/simulated_time.md)",
    )


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what experiment it is: also those of ``check``."""
    add = parser.add_argument
    add(
        "-gf",
        "--graph_file",
        type=Path,
        default=DEFAULT_GRAPH,
        metavar="GRAPH",
        help="who talks to whom (default: %(default)s)",
    )
    add(
        "-gt",
        "--graph_type",
        choices=("edges", "adjacency"),
        default="edges",
        help="format of the graph file (default: %(default)s)",
    )
    add(
        "-ps",
        "--procs_per_machine",
        type=int,
        nargs="+",
        metavar="P",
        help="nodes on each machine: one number for all, or one per machine "
        "(default: the graph's nodes, spread evenly)",
    )
    add(
        "-ms",
        "--machines",
        type=int,
        default=1,
        metavar="N",
        help="number of machines (default: %(default)s)",
    )
    add(
        "--eval_file",
        default="testing.py",
        metavar="DRIVER",
        help="what to run, by the reference's driver names: " + ", ".join(DRIVERS),
    )


def read_graph_file(path: Path, kind: str) -> Graph:
    """The graph of a run; raises `ConfigError`."""
    try:
        return read_graph(path, kind)
    except OSError as error:
        raise ConfigError(f"cannot read graph {path}: {error.strerror} (-gf)") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def read_mapping(args: argparse.Namespace, graph: Graph) -> Mapping:
    """Nodes per machine; raises `ConfigError` unless they are the graph's."""
    counts = args.procs_per_machine
    if args.machines < 1:
        raise ConfigError(f"-ms {args.machines}: at least one machine is needed")
    if args.machines > graph.n:
        raise ConfigError(
            f"-ms {args.machines}: {args.graph_file} has {graph.n} nodes, each machine needs one"
        )
    try:
        if counts is None:
            mapping = Mapping.spread(graph.n, args.machines)
        elif len(counts) == 1:
            mapping = Mapping.linear(args.machines, counts[0])
        else:
            mapping = Mapping(tuple(counts))
    except ValueError as error:
        raise ConfigError(f"-ps: {error}") from None
    if mapping.machines != args.machines:
        raise ConfigError(
            f"-ps gives {mapping.machines} machines, -ms {args.machines}: "
            "give one number for all machines, or one for each"
        )
    if mapping.n != graph.n:
        raise ConfigError(
            f"{args.graph_file} has {graph.n} nodes, but -ps and -ms make {mapping.n}: "
            "the graph must have one node per agent"
        )
    return mapping


def check_driver(args: argparse.Namespace, experiment: Experiment, graph: Graph) -> Driver:
    """The driver, with what it needs of the INI; raises `ConfigError`."""
    found = driver(args.eval_file)
    if found.schedule == "dynamic":
        degree = experiment.node.graph_degree
        where = f"{experiment.path}: [NODE]"
        if degree is None:
            raise ConfigError(f"{where} needs 'graph_degree': {args.eval_file} draws graphs")
        try:
            check_regular(graph.n, degree)
        except ValueError as error:
            raise ConfigError(f"{where} graph_degree = {degree}: {error}") from None
    elif experiment.sharing.target.dotted == METROPOLIS_HASTINGS and not graph.is_symmetric():
        raise ConfigError(
            f"{args.graph_file} is directed; Metropolis-Hastings weights need both ways: add the "
            "edges back (as .edges they are), or take PlainAverageSharing (-gf, -gt)"
        )
    return found


def read_addresses(experiment: Experiment, machines: int) -> tuple[str, ...]:
    """Addresses of all machines, from the file that the INI names; raises `ConfigError`."""
    if machines == 1:
        return ("127.0.0.1",)
    path = Path(experiment.addresses_filepath)
    beside = experiment.path.parent / path
    path = beside if not path.is_absolute() and beside.exists() else path
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; it is named by addresses_filepath in "
            f'{experiment.path} and holds {{"0": "address", "1": ...}}'
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    wanted = [str(machine) for machine in range(machines)]
    if not isinstance(value, dict) or sorted(value) != sorted(wanted):
        raise ConfigError(f"{path} must have exactly the keys {', '.join(wanted)} (-ms {machines})")
    addresses = tuple(_address(value[key], key, path) for key in wanted)
    for machine, address in enumerate(addresses):
        if addresses.index(address) < machine:
            raise ConfigError(
                f"{path}: machines {addresses.index(address)} and {machine} have the same address "
                f"{address}, so their ports would collide: give each its own "
                "(on one host: 127.0.0.1, 127.0.0.2, ...)"
            )
    return addresses


def _address(value: Any, key: str, path: Path) -> str:
    if not isinstance(value, str) or not value.strip() or any(c in value for c in " /:\n\0"):
        raise ConfigError(f"{path}: machine {key} has no proper address: {value!r:.60}")
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return value.lower()  # a host name, resolved when it is used


def _check_numbers(args: argparse.Namespace) -> None:
    least_of = {"machines": 1, "iterations": 0, "averaging_rounds": 1, "threads": 1}
    for name, least in least_of.items():
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} {getattr(args, name)}: at least {least}")
    if args.averaging_rounds >= 1 << 16:  # more would run into the next iteration's streams
        raise ConfigError(f"--averaging_rounds {args.averaging_rounds}: at most {(1 << 16) - 1}")
    if not 0 <= args.machine_id < args.machines:
        raise ConfigError(f"-mid {args.machine_id}: machines are 0 to {args.machines - 1} (-ms)")
    if args.log_level not in LEVELS:
        near = nearest(args.log_level, LEVELS)
        raise ConfigError(f"-ll {args.log_level}{near}: one of {', '.join(LEVELS)}")
    if args.device.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"--device {args.device}: cpu or cuda")
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers {args.workers}: at least 1")


def default_cache() -> Path:
    """Where prepared data sets are kept unless ``--cache-dir`` says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "decentralizepy"


def settings_of(args: argparse.Namespace) -> Settings:
    """Check all that can be checked without torch; raises `ConfigError`."""
    _check_numbers(args)
    experiment = read_experiment(args.config_file)
    graph = read_graph_file(args.graph_file, args.graph_type)
    mapping = read_mapping(args, graph)
    simulation = _simulation(args, graph)
    nodes = len(mapping.uids(args.machine_id))
    alone = args.device != "cpu" or simulation is not None
    workers = max(1, min(args.workers or (1 if alone else allotted()), nodes))
    settings = Settings(
        experiment=experiment,
        driver=check_driver(args, experiment, graph),
        graph=graph,
        mapping=mapping,
        machine=args.machine_id,
        addresses=read_addresses(experiment, args.machines),
        intervals=Intervals(args.iterations, args.test_after, args.train_evaluate_after),
        averaging_steps=args.averaging_rounds,
        reset_optimizer=bool(args.reset_optimizer),
        log_dir=args.log_dir,
        weights_dir=args.weights_store_dir or args.log_dir,
        cache_dir=args.cache_dir or default_cache(),
        workers=workers,
        threads=args.threads,
        device=args.device,
        log_level=args.log_level,
        digests=args.digests,
        simulation=simulation,
        faults=_faults(args, mapping, simulation, workers),
    )
    _check_writable(settings.log_dir, "-ld")
    _check_writable(settings.weights_dir, "-wsd")
    if settings.folder.holds_a_run():
        raise ConfigError(f"{args.log_dir} holds a run already: choose another folder (-ld)")
    return settings


def _simulation(args: argparse.Namespace, graph: Graph) -> Simulation | None:
    """What ``--simulate`` names; raises `ConfigError`."""
    if args.simulate is None:
        return None
    if args.machines != 1:
        raise ConfigError(
            f"--simulate runs all nodes in one process, but -ms is {args.machines}: leave it out, "
            f"and give virtual machines in {args.simulate}"
        )
    if args.workers not in (None, 1):
        raise ConfigError(f"--simulate runs all nodes in one worker, not --workers {args.workers}")
    return read_simulation(args.simulate, graph.n)


def _faults(
    args: argparse.Namespace, mapping: Mapping, simulation: Simulation | None, workers: int
) -> FaultPlan | None:
    """What ``--faults`` names; raises `ConfigError`."""
    if args.faults is None:
        return None
    places = mapping if simulation is None else Mapping(simulation.machines)
    plan = read_fault_plan(args.faults, places, args.iterations, virtual=simulation is not None)
    kills = (fault for fault in plan.faults if isinstance(fault, Kill))
    for fault in kills:
        if fault.machine == args.machine_id and fault.worker >= workers:
            raise ConfigError(
                f"{args.faults}: {describe(fault)}: machine {args.machine_id} has {workers} "
                f"worker(s), no worker {fault.worker} (--workers)"
            )
    return plan


def _check_writable(folder: Path, flag: str) -> None:
    """Whether a folder is there to be written in, or can be made; nothing is made yet."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        fit = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}: choose another folder ({flag})") from None
    if not fit:
        raise ConfigError(f"{there} is no folder to write in: choose another one ({flag})")


def flags_of(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """The flags as ``args.json`` has them, under the reference's names and then ours."""
    flags = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(args).items()
        if key not in {"command", "function"}
    }
    counts = settings.mapping.counts
    flags["procs_per_machine"] = list(counts)
    flags["workers"] = settings.workers
    flags["weights_store_dir"] = str(settings.weights_dir)
    flags["cache_dir"] = str(settings.cache_dir)
    return flags
