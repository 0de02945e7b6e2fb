"""``decentralizepy where``: which machine, worker and port a node has, asked of anybody.

The placement is a pure function of graph, flags and ip.json, so every machine knows it all and
no worker needs to be asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby

from decentralizepy.commands import arguments
from decentralizepy.communication.ports import control_port, worker_port
from decentralizepy.drivers import wiring
from decentralizepy.errors import EXIT_OK, ConfigError
from decentralizepy.mappings.mapping import Mapping
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.overrides import read_changed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that only this command has."""
    parser.add_argument(
        "-sm",
        "--server_machine",
        type=int,
        default=0,
        metavar="M",
        help="the machine that runs the servers, as that of the run (default: %(default)s)",
    )
    parser.set_defaults(server_rank=-1)
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        metavar="W",
        help="processes on each machine: one number for all, or one per machine",
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--uid", type=int, metavar="U", help="print this node only")
    one.add_argument(
        "--here", action="store_true", help="only print which machine of ip.json this one is"
    )


def main(args: argparse.Namespace) -> int:
    """Print it; raises `ConfigError`."""
    args.config_file, args.machine_id = args.ini, None
    experiment = read_changed(args.ini, args.set)
    if args.machines < 1:
        raise ConfigError(f"-ms {args.machines}: at least one machine is needed")
    addresses = arguments.read_addresses(experiment, args.machines)
    if args.here:
        print(arguments.read_machine(args, experiment, addresses))
        return EXIT_OK
    wired = wiring(experiment, args.eval_file)
    graph = arguments.graph_of(args, wired)
    mapping = arguments.with_servers(arguments.read_mapping(args, graph), wired, args)
    placement = _placement(args.workers, mapping)
    if args.uid is not None and not mapping.has(args.uid):
        servers = f", servers -1 to {-mapping.servers}" if mapping.servers else ""
        raise ConfigError(f"--uid {args.uid}: the nodes are 0 to {mapping.n - 1}{servers}")
    all_ = [*range(-mapping.servers, 0), *range(mapping.n)]
    uids = all_ if args.uid is None else [args.uid]
    for line in _lines(uids, mapping, placement, addresses, experiment.offset):
        print(line)
    return EXIT_OK


def _placement(workers: Sequence[int] | None, mapping: Mapping) -> Placement | None:
    if workers is None:
        return None
    counts = list(workers) * (mapping.machines if len(workers) == 1 else 1)
    if len(counts) != mapping.machines or min(counts) < 1:
        raise ConfigError("--workers: one number for all machines, or one for each, at least 1")
    nodes = mapping.counts
    return Placement(mapping, tuple(min(w, n) for w, n in zip(counts, nodes, strict=True)))


def _lines(
    uids: Sequence[int],
    mapping: Mapping,
    placement: Placement | None,
    addresses: Sequence[str],
    offset: int,
) -> Iterator[str]:
    """One line for each run of nodes that are together; a machine alone has no ports."""
    if len(addresses) > 1:
        yield f"machine 0 coordinates on {addresses[0]} port {control_port(offset)}"

    def owner(uid: int) -> WorkerId:
        return placement.owner(uid) if placement else WorkerId(mapping.machine_rank(uid)[0], 0)

    for who, group in groupby(uids, owner):
        first, *more = group
        nodes = f"uids {first} to {more[-1]}" if more else f"uid {first}"
        port = worker_port(addresses, offset, who.machine, who.worker)
        ports = f"port {port}" if placement else f"ports {port}, {port + 2}, ..."
        at = f", {addresses[who.machine]} {ports}" if len(addresses) > 1 else ""
        yield f"{nodes}: {who if placement else f'machine {who.machine}'}{at}"
