"""What a virtual clock is driven by: links and compute costs, from a JSON file; free of torch.

A message of b bytes that node i gives away at time s waits until what i's port sent before has
left, then occupies the port for b / bandwidth seconds, and arrives latency seconds later::

    start   = max(s, free[port])
    free[port] = start + b / bandwidth
    arrival = free[port] + latency

``queue`` says what a port is: all that leaves a node ("node"), each edge by itself ("edge"), or
all that leaves a virtual machine ("machine"). Receivers are never the bottleneck. The file and
the limits of the model are described in docs/simulated_time.md.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError
from decentralizepy.graphs.graph import Graph
from decentralizepy.jsonfile import (
    check_integer,
    check_list,
    check_number,
    check_object,
    read_json_file,
)
from decentralizepy.runfolder import MachineFolder, RunFolder, machine_records

FLAG: Final = "--simulate"
QUEUES: Final = ("node", "edge", "machine")
_LARGEST: Final = 2**53
_LINK: Final = ("latency_s", "bandwidth_Bps")
_LINKS: Final = (*_LINK, "queue", "within_machine", "machine_pairs", "edges")

Overrides = Mapping[str, float]
Pair = tuple[int, int]
#: a port of its owner, and until when it is busy: by receiver where edges queue, else the only one
PortsUntil = dict[int | None, float]
Busy = tuple[int | None, float]


@dataclass(frozen=True)
class Link:
    """One direction of a connection: seconds, and bytes per second."""

    latency: float = 0.0
    bandwidth: float = math.inf


@dataclass(frozen=True)
class Links:
    """Links between all nodes: a default, and what differs from it, key by key.

    Weakest first: the default; ``within`` a virtual machine or its ``pairs`` of machines; an edge
    both ways; an edge one way. Pairs are directed here.
    """

    default: Overrides = field(default_factory=dict)
    queue: str = "node"
    within: Overrides = field(default_factory=dict)
    pairs: Mapping[Pair, Overrides] = field(default_factory=dict)
    edges: Mapping[Pair, Overrides] = field(default_factory=dict)

    def between(self, nodes: Pair, machines: Pair) -> Link:
        """The link from the first node to the second, which are on these machines."""
        same = machines[0] == machines[1]
        values = {
            **self.default,
            **(self.within if same else self.pairs.get(machines, {})),
            **self.edges.get(nodes, {}),
        }
        return Link(values.get("latency_s", 0.0), values.get("bandwidth_Bps", math.inf))


@dataclass(frozen=True)
class Pace:
    """What an iteration of one node costs, in seconds: piecewise constant.

    Iterations up to the 1-based ``ends[p]`` cost ``seconds[p]``, later ones ``after``.
    """

    after: float = 0.0
    ends: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()

    def cost(self, t: int) -> float:
        """Seconds of the (0-based) iteration ``t``."""
        piece = bisect_right(self.ends, t)
        return self.seconds[piece] if piece < len(self.ends) else self.after


@dataclass(frozen=True)
class Simulation:
    """A checked simulation: links, the cost of local training per node, virtual machines."""

    text: Mapping[str, Any]
    links: Links
    paces: tuple[Pace, ...]
    machines: tuple[int, ...]

    def pace(self, uid: int) -> Pace:
        """What an iteration of a node costs; a server's (-1, -2, ...) costs nothing."""
        return self.paces[uid] if uid >= 0 else Pace()

    def machine_of(self, uid: int) -> int:
        """The virtual machine of a node; machine 0 has all of them unless told, and the servers."""
        return bisect_right(list(accumulate(self.machines)), uid)


class Network:
    """When messages arrive: the links of a simulation, and until when each port is busy."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._links: dict[Pair, tuple[Link, PortsUntil, int | None]] = {}
        #: by owner: a node, or a machine that its nodes share one with
        self._free: dict[int | str, PortsUntil] = {}

    def arrival(
        self, sender: int, receiver: int, nbytes: int, now: float,
        factor: float = 1.0, delay: float = 0.0,
    ) -> float:  # fmt: skip
        """When a message that is given away ``now`` arrives; it takes its port meanwhile.

        A slow link takes ``factor`` times as long, and ``delay`` seconds more. What a node says to
        itself uses no link.
        """
        if sender == receiver:
            return now
        link, free, port = self._link((sender, receiver))
        start = max(now, free.get(port, 0.0))
        left = start + factor * (nbytes / link.bandwidth)
        free[port] = left
        return left + factor * link.latency + delay

    @property
    def shared(self) -> bool:
        """Whether nodes share ports, and messages take time there."""
        links = self._simulation.links
        overrides = (links.default, *links.pairs.values(), *links.edges.values())
        return links.queue == "machine" and any("bandwidth_Bps" in one for one in overrides)

    def busy(self, uid: int, now: float) -> list[Busy]:
        """The ports of a node alone that are busy, and until when."""
        free = self._free.get(uid, {})
        return [(port, until) for port, until in free.items() if until > now]

    def occupy(self, uid: int, ports: Iterable[Busy]) -> None:
        """A resumed node's ports are as busy as they were when it was saved."""
        self._free.setdefault(uid, {}).update(ports)

    def _link(self, nodes: Pair) -> tuple[Link, PortsUntil, int | None]:
        found = self._links.get(nodes)
        if found is None:
            sender, receiver = (self._simulation.machine_of(uid) for uid in nodes)
            links = self._simulation.links
            shared = links.queue == "machine" and sender != receiver
            free = self._free.setdefault(f"machine {sender}" if shared else nodes[0], {})
            port = nodes[1] if links.queue == "edge" else None
            found = self._links[nodes] = links.between(nodes, (sender, receiver)), free, port
        return found


def read_simulation(
    path: Path, nodes: int, graph: Graph | None = None, servers: int = 0
) -> Simulation:
    """Read and check the file of a simulation of some nodes and servers; raises `ConfigError`.

    If all iterations have the same ``graph``, what ``links.edges`` names must be edges of it.
    """
    value = read_json_file(path, FLAG)
    found = check_object(value, str(path), ("links", "compute", "machines"))
    if not found.keys() & {"links", "compute"}:
        raise ConfigError(f"{path}: say what takes time: 'links', 'compute' or both")
    machines = _machines(found.get("machines"), f"{path}: machines", nodes)
    uids = range(-servers, nodes)
    links = _links(found.get("links", {}), f"{path}: links", uids, len(machines))
    if graph is not None:
        _check_edges(found.get("links", {}).get("edges", {}), f"{path}: links: edges", graph)
    compute = found.get("compute", {"seconds_per_iteration": 0})
    return Simulation(value, links, _paces(compute, path, nodes), machines)


def _machines(value: Any, where: str, nodes: int) -> tuple[int, ...]:
    if value is None:
        return (nodes,)
    counts = [check_integer(count, where, 1) for count in check_list(value, where)]
    if sum(counts) != nodes:
        raise ConfigError(f"{where}: {sum(counts)} nodes, but the graph has {nodes}")
    return tuple(counts)


def _links(value: Any, where: str, uids: range, machines: int) -> Links:
    found = check_object(value, where, _LINKS)
    queue = found.get("queue", "node")
    if queue not in QUEUES:
        raise ConfigError(f"{where}: queue: {queue!r:.40} is none of {', '.join(QUEUES)}")
    if machines == 1 and (queue == "machine" or found.keys() & {"within_machine", "machine_pairs"}):
        raise ConfigError(
            f"{where}: there is one machine only: give the nodes of each in 'machines', "
            "beside 'links', as [8, 8]"
        )
    return Links(
        _overrides({key: found[key] for key in _LINK if key in found}, where),
        queue,
        _overrides(found.get("within_machine", {}), f"{where}: within_machine"),
        _pairs(found.get("machine_pairs", {}), f"{where}: machine_pairs", range(machines)),
        _pairs(found.get("edges", {}), f"{where}: edges", uids),
    )


def _overrides(value: Any, where: str) -> Overrides:
    found = check_object(value, where, _LINK)
    return {
        key: check_number(number, f"{where}: {key}", positive=key == "bandwidth_Bps")
        for key, number in found.items()
    }


def _pairs(value: Any, where: str, ends: range) -> dict[Pair, Overrides]:
    """Overrides by directed pair: ``3-7`` is both ways, ``3>7`` one, and the stronger.

    Of servers too: ``3>-1`` is what node 3 says to server -1.
    """
    if not isinstance(value, dict):
        raise ConfigError(
            f'{where}: {value!r:.60} is not an object like {{"3-7": ..., "3>7": ...}}'
        )
    found: dict[Pair, dict[str, float]] = {}
    parsed = [(_pair(key, where, ends), entry) for key, entry in value.items()]
    seen: set[tuple[Pair, bool]] = set()
    for (pair, both), entry in sorted(parsed, key=lambda item: not item[0][1]):  # both ways first
        name = f"{pair[0]}{'-' if both else '>'}{pair[1]}"
        overrides = _overrides(entry, f"{where}: {name}")
        for one in (pair, pair[::-1]) if both else (pair,):
            if (one, both) in seen:
                raise ConfigError(f"{where}: {name} appears twice")
            seen.add((one, both))
            found.setdefault(one, {}).update(overrides)
    return dict(found)


def _check_edges(keys: Iterable[str], where: str, graph: Graph) -> None:
    """Refuse pairs that never send: ``3-7`` is an edge if either of them sends to the other."""
    for key in keys:
        (sender, receiver), both = _pair(key, where, range(graph.n))
        if graph.has_edge(sender, receiver) or (both and graph.has_edge(receiver, sender)):
            continue
        why = f"node {sender} never sends to node {receiver}"
        why += ", nor the other way round" if both else ""
        raise ConfigError(f"{where}: {key} is not an edge of the graph: {why}")


def _pair(key: str, where: str, ends: range) -> tuple[Pair, bool]:
    match = re.fullmatch(r"(-?\d{1,9})([->])(-?\d{1,9})", key, re.ASCII)
    if match is None:
        raise ConfigError(f"{where}: '{key:.40}' is not a pair: write 3-7, or 3>7 for one way")
    first, second = int(match[1]), int(match[3])
    if first not in ends or second not in ends or first == second:
        least, last = ends.start, ends.stop - 1
        raise ConfigError(f"{where}: {key}: two different numbers of {least} to {last} are needed")
    return (first, second), match[2] == "-"


# -------------------------------------------------------------------------- compute


def _paces(value: Any, path: Path, nodes: int) -> tuple[Pace, ...]:
    where = f"{path}: compute"
    found = check_object(value, where, ("seconds_per_iteration", "run"))
    if len(found) != 1:
        raise ConfigError(f"{where}: give either 'seconds_per_iteration' or 'run'")
    if "run" in found:
        return _measured(found["run"], path, nodes)
    where = f"{where}: seconds_per_iteration"
    return tuple(Pace(s) for s in _seconds(found["seconds_per_iteration"], where, nodes))


def _seconds(value: Any, where: str, nodes: int) -> Iterator[float]:
    if isinstance(value, list):
        for uid, entry in enumerate(check_list(value, where, nodes)):
            yield check_number(entry, f"{where}: node {uid}")
    elif isinstance(value, dict):
        if "default" not in value:
            raise ConfigError(
                f"{where}: 'default' is missing: the cost of nodes that are not named"
            )
        by_name = {
            name: check_number(entry, f"{where}: {name:.40}") for name, entry in value.items()
        }
        names = [str(uid) for uid in range(nodes)]
        unknown = sorted(by_name.keys() - {"default", *names})
        if unknown:
            raise ConfigError(f"{where}: no node '{unknown[0]:.40}': they are 0 to {nodes - 1}")
        yield from (by_name.get(name, by_name["default"]) for name in names)
    else:
        yield from [check_number(value, where)] * nodes


def _measured(value: Any, path: Path, nodes: int) -> tuple[Pace, ...]:
    """Costs of a run that was measured: ``train_s`` of its records."""
    where = f"{path}: compute: run"
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigError(f"{where}: {value!r:.60} is not the folder of a run")
    try:
        folder = path.parent / Path(value).expanduser()
    except RuntimeError as error:  # nobody has that name
        raise ConfigError(f"{where}: {value:.60}: {error}") from None
    series = _train_seconds(folder)
    if not series:
        raise ConfigError(f"{where}: {folder} has no records: name the folder of a run")
    missing = [uid for uid in range(nodes) if uid not in series]
    if missing:
        raise ConfigError(
            f"{where}: {folder} has no record of node {missing[0]} (with 'train_s'): "
            f"it must have all {nodes} nodes of the graph"
        )
    return tuple(_pace(series[uid], f"{where}: {folder}: node {uid}") for uid in range(nodes))


def _train_seconds(folder: Path) -> dict[int, list[tuple[int, float]]]:
    """uid -> (iteration, seconds in training since the start), ascending."""
    series: dict[int, dict[int, float]] = {}
    try:
        for machine in RunFolder(folder).machines().values() or [MachineFolder(folder)]:
            for row in machine_records(machine).rows:
                spent = row.get("train_s")
                if not isinstance(spent, int | float) or abs(spent) > _LARGEST:
                    continue
                if row["iteration"] > 0:
                    series.setdefault(row["uid"], {})[row["iteration"]] = float(spent)
    except OSError:
        return {}
    return {uid: sorted(points.items()) for uid, points in series.items()}


def _pace(points: Sequence[tuple[int, float]], where: str) -> Pace:
    """What was spent between two evaluations is dealt evenly; later iterations take the mean."""
    ends, seconds = [], []
    before, spent = 0, 0.0
    for iteration, total in points:
        if not math.isfinite(total) or total < spent:
            raise ConfigError(f"{where}: train_s falls, or is no number, at iteration {iteration}")
        ends.append(iteration)
        seconds.append((total - spent) / (iteration - before))
        before, spent = iteration, total
    return Pace(spent / before, tuple(ends), tuple(seconds))
