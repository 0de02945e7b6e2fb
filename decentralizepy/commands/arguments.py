"""From flags and the files that they name to checked `Settings`."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from decentralizepy.commands.flags import DEFAULT_GRAPH
from decentralizepy.communication.keys import KEY_NAME, find_key, load_key, only_loopback
from decentralizepy.communication.local import this_machine
from decentralizepy.communication.ports import check_range
from decentralizepy.config import Component, Experiment
from decentralizepy.cpus import allotted
from decentralizepy.drivers import Wiring, wiring
from decentralizepy.errors import ConfigError, nearest
from decentralizepy.files import cache_home
from decentralizepy.graphs.files import KINDS, read_graph
from decentralizepy.graphs.graph import Graph
from decentralizepy.jsonfile import read_json_file
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.overrides import read_changed
from decentralizepy.registry import Target, fact
from decentralizepy.runfolder import is_reserved
from decentralizepy.scenario.faultplan import FaultPlan, Kill, describe, read_fault_plan
from decentralizepy.scenario.simulation import Simulation, read_simulation
from decentralizepy.settings import (
    LEVELS,
    EvaluationOptions,
    Intervals,
    Resilience,
    Settings,
    transport_of,
)
from decentralizepy.supervision.provenance import began_nothing

MOST_ITERATIONS: Final = 10**9
MOST_THREADS: Final = 4096
_DEVICE: Final = re.compile(r"cpu|cuda(:\d{1,3})?")
_HOST_NAME: Final = re.compile(r"[\w.-]{1,255}")


def graph_of(args: argparse.Namespace, wired: Wiring) -> Graph:
    """The graph of a run, without edges where there is no file and nobody needs one.

    Raises `ConfigError`.
    """
    absent = args.graph_file == DEFAULT_GRAPH and not args.graph_file.exists()
    if not absent or wired.needs_graph:
        return read_graph_file(args.graph_file, args.graph_type)
    counts = args.procs_per_machine
    if counts is None:
        raise ConfigError(
            f"how many nodes? {wired.program.target.name} needs no graph: give the number of nodes "
            "on each machine (-ps), or a graph (-gf)"
        )
    return Graph(max(sum(counts) * (args.machines if len(counts) == 1 else 1), 1), ())


def read_graph_file(path: Path, kind: str) -> Graph:
    """The graph of a run; raises `ConfigError`."""
    try:
        return read_graph(path, kind)
    except OSError as error:
        raise ConfigError(f"cannot read graph {path}: {error.strerror} (-gf)") from None
    except ValueError as error:
        raise ConfigError(f"{error}{_other_kind(path, kind)}") from None


def _other_kind(path: Path, kind: str) -> str:
    """What to say of a graph file that cannot be read, and is named as one of the other kind."""
    named = KINDS.get(path.suffix, kind)
    return f"; read as {kind}, but named {path.suffix}: try -gt {named}" if named != kind else ""


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
            "these must be equal"
        )
    return mapping


def check_wiring(
    args: argparse.Namespace, experiment: Experiment, wired: Wiring, graph: Graph
) -> None:
    """Whether the graph and its nodes have what the INI asks for; raises `ConfigError`."""
    for values in experiment.per_node:
        values.check(graph.n)
    if wired.is_ours:
        wired.build(graph, experiment.seed)
    check_sharing(experiment, wired)
    if wired.follows_file and not graph.is_symmetric() and needs_symmetric(experiment, wired):
        program = wired.program.target.name
        raise ConfigError(
            f"{args.graph_file} is directed, but the Metropolis-Hastings weights of "
            f"{experiment.sharing.target.name} need edges both ways: add the reverse edges "
            "(.edges files have them), use PlainAverageSharing, or say shares = False in "
            f"{program} if it does not mix by them (-gf, -gt)"
        )


def check_sharing(experiment: Experiment, wired: Wiring) -> None:
    """Refuse a method that a program of its own rules would not use; raises `ConfigError`."""
    program, name = wired.program.target, experiment.sharing.target.name
    if experiment.compression and not fact(program, "packs", True):
        raise ConfigError(
            f"{experiment.path}: [SHARING] compression: {program.name} sends numbers that must "
            "arrive as they are; take the key out"
        )
    needs_server = fact(experiment.sharing.target, "needs_server", False, about="outgoing")
    if needs_server and fact(program, "gossips", False, about="program"):
        raise ConfigError(
            f"{experiment.path}: [SHARING] {name} is for a server and its clients, not for the "
            f"gossip of {program.name}: take the driver testingSTC.py, or another method"
        )
    plain = ("Sharing", "SharingAsymmetric", "PlainAverageSharing")
    allowed = (*plain, *fact(program, "stands_for", ()))
    if not fact(program, "shares", True) and name not in allowed:
        raise ConfigError(
            f"{experiment.path}: [SHARING] {name} would have no effect: {program.name} itself says "
            f"what is sent and how it is merged; take {allowed[0]}, or another program"
        )


def needs_symmetric(experiment: Experiment, wired: Wiring) -> bool:
    """Whether the sharing method needs edges both ways, and the program mixes by it."""
    if not fact(wired.program.target, "shares", True):
        return False
    return fact(experiment.sharing.target, "needs_symmetric", False, about="mixing")


def address_file(experiment: Experiment) -> Path:
    """The file that ``addresses_filepath`` names: beside the INI, or as it stands."""
    path = Path(experiment.addresses_filepath)
    beside = experiment.path.parent / path
    return beside if not path.is_absolute() and beside.exists() else path


def read_addresses(experiment: Experiment, machines: int) -> tuple[str, ...]:
    """Addresses of all machines, from the file that the INI names; raises `ConfigError`."""
    if machines == 1:
        return ("127.0.0.1",)
    path = address_file(experiment)
    named = f"it is named by addresses_filepath in {experiment.path}"
    value = read_json_file(path, f'{named} and holds {{"0": "address", "1": ...}}')
    wanted = [str(machine) for machine in range(machines)]
    if not isinstance(value, dict) or value.keys() != set(wanted):
        listed = ", ".join(wanted if len(wanted) < 9 else [*wanted[:2], "...", wanted[-1]])
        raise ConfigError(
            f"{path} must have exactly the keys {listed} (-ms {machines})"
            f"{_key_fault(value, wanted)}"
        )
    return tuple(_address(value[key], key, path) for key in wanted)


def _key_fault(value: Any, wanted: Sequence[str]) -> str:
    """What is wrong with the keys of ip.json."""
    if not isinstance(value, dict):
        return "; it is no object"
    over = next((key for key in value if key not in wanted), None)
    missing = next((key for key in wanted if key not in value), None)
    return f"; {over!r:.40} is none of them" if over is not None else f"; '{missing}' is missing"


def _address(value: Any, key: str, path: Path) -> str:
    try:
        found = ipaddress.ip_address(value if isinstance(value, str) else "")
        if not (found.is_unspecified or found.is_multicast):
            return str(found)
    except ValueError:
        if isinstance(value, str) and _HOST_NAME.fullmatch(value):
            return value.lower()  # a host name, resolved when it is used
    raise ConfigError(f"{path}: machine {key} has no valid address: {value!r:.60}")


def read_machine(args: argparse.Namespace, experiment: Experiment, addresses: Sequence[str]) -> int:
    """Which machine this is: ``-mid``, or by its addresses; raises `ConfigError`."""
    machine: int | None = args.machine_id
    if machine is None:
        one = len(addresses) == 1
        return 0 if one else this_machine(addresses, address_file(experiment))
    if not 0 <= machine < len(addresses):
        raise ConfigError(f"-mid {machine}: machines are 0 to {len(addresses) - 1} (-ms)")
    return machine


def read_key(
    args: argparse.Namespace, experiment: Experiment, addresses: tuple[str, ...]
) -> bytes | None:
    """The run key; None where nothing is sealed. Raises `ConfigError` where one is missing."""
    encryption = transport_of(experiment).encryption
    if len(addresses) == 1 or encryption == "none":
        return None
    path = find_key(args.log_dir, args.key)
    if path is not None:
        key = load_key(path)
        if args.key is not None and load_key(args.key) != key:
            raise ConfigError(
                f"--key {args.key} differs from the key in {path}, which takes precedence: remove "
                "one of them"
            )
        return key
    if only_loopback(addresses):
        return None
    raise ConfigError(
        f"machines on a network need a run key, and there is no {KEY_NAME} in {args.log_dir} "
        "nor in the folder above: make one with 'decentralizepy keys DIR', copy it to all machines "
        "and name it by --key DIR/run.key; or, if nobody else can reach the machines or their "
        f"network, set encryption = none in [COMMUNICATION] of {experiment.path}"
    )


def _check_numbers(args: argparse.Namespace) -> None:
    least_of = {"machines": 1, "iterations": 0, "averaging_steps": 1, "threads": 1}
    least_of |= {"checkpoint_after": 0, "wait_limit": 0, "progress_limit": 1}
    least_of |= {"start_timeout": 1, "usage_after": 0}
    least_of |= {"test_after": 0, "train_evaluate_after": 0}
    for name, least in least_of.items():
        if not getattr(args, name) >= least:  # NaN is not, either
            raise ConfigError(f"--{name} {getattr(args, name)}: at least {least}")
    for name, most in {"iterations": MOST_ITERATIONS, "threads": MOST_THREADS}.items():
        if getattr(args, name) > most:
            raise ConfigError(f"--{name} {getattr(args, name)!s:.40}: at most {most}")
    if args.simulate and args.on_loss == "wait":
        raise ConfigError(
            "--simulate does not go with --on_loss wait: nothing comes back in simulated time"
        )
    if args.on_loss == "wait" and not args.checkpoint_after:
        raise ConfigError("--on_loss wait goes back to checkpoints: set --checkpoint_after")
    if args.averaging_steps >= 1 << 16:  # more would run into the next iteration's streams
        raise ConfigError(f"--averaging_steps {args.averaging_steps}: at most {(1 << 16) - 1}")
    if args.log_level not in LEVELS:
        near = nearest(args.log_level, LEVELS)
        raise ConfigError(f"-ll {args.log_level}{near}: one of {', '.join(LEVELS)}")
    if not _DEVICE.fullmatch(args.device):
        raise ConfigError(f"--device {args.device}: cpu or cuda (cuda:1 is the second GPU)")
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers {args.workers}: at least 1")


def default_cache() -> Path:
    """Where prepared data sets are kept unless ``--cache-dir`` says otherwise."""
    return cache_home()


def settings_of(args: argparse.Namespace, program: Target | None = None) -> Settings:
    """Check all that can be checked without torch; raises `ConfigError`.

    ``program`` is the class of the nodes, if neither the INI nor a driver says.
    """
    _check_numbers(args)
    experiment = read_changed(args.config_file, args.set)
    wired = wiring(experiment, args.eval_file)
    if program is not None:
        wired = replace(wired, program=Component(program, {}))
    if args.working_rate is not None:
        wired = wired.with_option("working_rate", args.working_rate, "-wr")
    graph = graph_of(args, wired)
    mapping = with_servers(read_mapping(args, graph), wired, args)
    addresses = read_addresses(experiment, args.machines)
    machine = read_machine(args, experiment, addresses)
    check_wiring(args, experiment, wired, graph)
    evaluation = EvaluationOptions(args.evaluated_nodes, args.test_samples)
    evaluation.check(graph.n, wired.servers)
    fixed = graph if wired.follows_file else None
    simulation = _simulation(args, graph.n, wired.servers, fixed)
    alone = args.device != "cpu" or simulation is not None
    wanted = args.workers or (1 if alone else allotted())
    workers = max(1, min(wanted, len(mapping.uids(machine))))
    check_range(addresses, experiment.offset, machine, workers)
    settings = Settings(
        experiment=experiment,
        wiring=wired,
        graph=graph,
        mapping=mapping,
        machine=machine,
        addresses=addresses,
        intervals=Intervals(
            args.iterations, args.test_after, args.train_evaluate_after, args.checkpoint_after
        ),
        averaging_steps=args.averaging_steps,
        reset_optimizer=bool(args.reset_optimizer),
        log_dir=args.log_dir,
        weights_dir=args.weights_store_dir or args.log_dir,
        cache_dir=args.cache_dir or default_cache(),
        workers=workers,
        threads=args.threads,
        device=args.device,
        log_level=args.log_level,
        digests=args.digests,
        resume=args.resume,
        resilience=Resilience(
            args.on_loss,
            args.wait_limit,
            args.progress_limit,
            experiment.peer_timeout,
            args.start_timeout,
        ),
        simulation=simulation,
        faults=_faults(args, mapping, simulation, (machine, workers), fixed),
        evaluation=evaluation,
        further=_further(args.modules, experiment.path.parent),
        usage_after=args.usage_after,
        key=read_key(args, experiment, addresses),
    )
    _check_writable(settings.log_dir, "-ld")
    _check_writable(settings.weights_dir, "-wsd")
    if settings.resume and not settings.folder.holds_a_run():
        raise ConfigError(f"{args.log_dir} contains no run to resume (-ld)")
    if not settings.resume and settings.folder.holds_a_run() and not began_nothing(settings):
        raise ConfigError(
            f"{args.log_dir} already contains a run: choose another folder (-ld), or resume it "
            "(--resume)"
        )
    return settings


def _further(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Files beside the INI by name; raises `ConfigError`."""
    for name in names:
        relative = Path(name)
        if relative.is_absolute() or ".." in relative.parts or not (folder / name).is_file():
            raise ConfigError(f"--modules {name:.200}: there is no such file in {folder}")
        if is_reserved(relative.parts[0]):
            raise ConfigError(f"--modules {name}: this name means something else in a run folder")
    return {name: folder / name for name in names}


def with_servers(mapping: Mapping, wired: Wiring, args: argparse.Namespace) -> Mapping:
    """The same with the program's servers on ``-sm``; raises `ConfigError`."""
    if not wired.servers:
        return mapping
    if args.server_rank != -1:
        raise ConfigError(f"-sr {args.server_rank}: servers are numbered -1, -2, ...: leave it out")
    try:
        return replace(mapping, servers=wired.servers, server_machine=args.server_machine)
    except ValueError as error:
        raise ConfigError(f"-sm: {error}") from None


def _simulation(
    args: argparse.Namespace, nodes: int, servers: int, fixed: Graph | None
) -> Simulation | None:
    """What ``--simulate`` names; raises `ConfigError`. ``fixed``: the graph of all iterations."""
    if args.simulate is None:
        return None
    if args.machines != 1:
        raise ConfigError(
            f"--simulate runs all nodes in one process, but -ms is {args.machines}: leave it out, "
            f"and give virtual machines in {args.simulate}"
        )
    if args.workers not in (None, 1):
        raise ConfigError(f"--simulate runs all nodes in one worker, not --workers {args.workers}")
    return read_simulation(args.simulate, nodes, fixed, servers)


def _faults(
    args: argparse.Namespace,
    mapping: Mapping,
    simulation: Simulation | None,
    here: tuple[int, int],
    fixed: Graph | None,
) -> FaultPlan | None:
    """What ``--faults`` names; raises `ConfigError`. ``here``: this machine, and its workers."""
    if args.faults is None:
        return None
    machine, workers = here
    virtual = simulation is not None
    servers = mapping.servers
    places = mapping if simulation is None else Mapping(simulation.machines, servers=servers)
    plan = read_fault_plan(args.faults, places, args.iterations, virtual, fixed)
    kills = (fault for fault in plan.faults if isinstance(fault, Kill))
    for fault in kills:
        if fault.machine == machine and fault.worker >= workers:
            raise ConfigError(
                f"{args.faults}: {describe(fault)}: machine {machine} has {workers} "
                f"worker(s), no worker {fault.worker} (--workers)"
            )
    return plan


def _check_writable(folder: Path, flag: str) -> None:
    """Whether a folder is there to be written in, or can be made; nothing is made yet."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        fit = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{folder}: {reason}: choose another folder ({flag})") from None
    if not fit:
        raise ConfigError(f"{there} is not a writable folder: choose another one ({flag})")


def flags_of(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """The flags as ``args.json`` has them, under the reference's names and then ours."""
    flags = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(args).items()
        if key not in {"command", "function"}
    }
    flags["machine_id"] = settings.machine
    counts = settings.mapping.counts
    flags["procs_per_machine"] = list(counts)
    flags["workers"] = settings.workers
    flags["graph_file"] = str(args.graph_file) if args.graph_file.exists() else None
    flags["eval_file"] = args.eval_file or settings.wiring.driver
    flags["working_rate"] = settings.program.options.get("working_rate", 1.0)
    flags["weights_store_dir"] = str(settings.weights_dir)
    flags["cache_dir"] = str(settings.cache_dir)
    return flags
