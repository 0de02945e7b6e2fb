"""Faults to be injected into a run, from a JSON file: the same for the real and virtual clock.

Pure data. Rounds of the file count from 1, as in records and logs; iterations ``t`` count from 0,
as in the code. What each fault means under each clock is described in docs/simulated_time.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
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
from decentralizepy.mappings.mapping import Mapping as Places

FLAG: Final = "--faults"
KINDS: Final = ("kill", "slow_link", "partition")
MOST_FAULTS: Final = 1000
_TARGETS: Final = ("node", "worker", "machine")


@dataclass(frozen=True)
class Window:
    """When a fault is in force: sender's iterations [first, last], 0-based, or seconds."""

    first: float
    last: float
    seconds: bool = False

    def holds(self, t: int, now: float) -> bool:
        """Whether it covers what is sent in iteration ``t``, ``now`` seconds after the start."""
        return self.first <= now < self.last if self.seconds else self.first <= t <= self.last

    def meets(self, other: Window) -> bool:
        """Whether two windows overlap, as far as can be told: rounds and seconds may always."""
        if self.seconds != other.seconds:
            return True
        first, last = max(self.first, other.first), min(self.last, other.last)
        return first < last if self.seconds else first <= last


@dataclass(frozen=True)
class Fault:
    """One entry of a plan; ``number`` is its place there and ``text`` its JSON."""

    number: int
    text: Mapping[str, Any]


@dataclass(frozen=True)
class Kill(Fault):
    """A node, worker or machine ends when it starts iteration ``t``.

    ``machine`` and ``worker`` are those of a killed worker or machine; ``uids`` are the nodes that
    go, as far as the plan can tell (a worker's nodes depend on how many workers there are).
    """

    kind: str
    t: int
    uids: frozenset[int]
    machine: int = -1
    worker: int = -1

    def hits(self, uid: int, home: tuple[int, int]) -> bool:
        """Whether a node on the worker ``home`` (machine, number) goes with it."""
        if self.kind == "worker":
            return home == (self.machine, self.worker)
        return uid in self.uids


@dataclass(frozen=True)
class SlowLink(Fault):
    """Messages from one node to another take longer: ``factor`` times (virtual), ``delay`` more."""

    sender: int
    receiver: int
    factor: float
    delay: float
    window: Window


@dataclass(frozen=True)
class Partition(Fault):
    """Messages between groups of nodes are held back; nodes of no group are one group."""

    groups: tuple[frozenset[int], ...]
    window: Window

    def cuts(self, sender: int, receiver: int) -> bool:
        """Whether two nodes are in different groups."""
        return self._group(sender) != self._group(receiver)

    def _group(self, uid: int) -> int:
        found = (number for number, group in enumerate(self.groups) if uid in group)
        return next(found, len(self.groups))


@dataclass(frozen=True)
class FaultPlan:
    """A checked plan."""

    faults: tuple[Fault, ...]

    def events_at(
        self, uid: int, t: int, *, home: tuple[int, int] = (0, 0), now: float = math.nan
    ) -> list[Fault]:
        """What happens to a node in iteration ``t``, in the order of the plan.

        That is: kills that fall on its start, slow links out of it, and partitions. Windows in
        seconds count only if ``now`` is given; ``home`` is the node's machine and worker.
        """
        return [fault for fault in self.faults if _concerns(fault, uid, t, home, now)]

    @property
    def text(self) -> list[Mapping[str, Any]]:
        """The plan as JSON."""
        return [fault.text for fault in self.faults]


def _concerns(fault: Fault, uid: int, t: int, home: tuple[int, int], now: float) -> bool:
    if isinstance(fault, Kill):
        return fault.t == t and fault.hits(uid, home)
    if isinstance(fault, SlowLink):
        return fault.sender == uid and fault.window.holds(t, now)
    assert isinstance(fault, Partition)
    return fault.window.holds(t, now)


def read_fault_plan(
    path: Path, places: Places, iterations: int, virtual: bool, graph: Graph | None = None
) -> FaultPlan:
    """Read and check a plan; raises `ConfigError`.

    ``places`` says which nodes are on which machine: the real ones, or those of a simulation if
    the clock is ``virtual``. A fault after the last of ``iterations`` could never fire, and
    neither could a slow link that is no edge of the ``graph`` of all iterations, if there is one.
    Servers may be named by their uids, as nodes are.
    """
    reader = _Reader(places, max(1, iterations), virtual, graph)
    entries = check_list(read_json_file(path, FLAG), str(path))
    if len(entries) > MOST_FAULTS:  # they are compared pair by pair
        raise ConfigError(f"{path}: {len(entries)} faults, at most {MOST_FAULTS} ({FLAG})")
    faults = tuple(
        reader.fault(number, entry, f"{path}: fault {number + 1}")
        for number, entry in enumerate(entries)
    )
    for one, other in combinations(faults, 2):
        if why := _clash(one, other):
            raise ConfigError(f"{path}: faults {one.number + 1} and {other.number + 1}: {why}")
    return FaultPlan(faults)


class _Reader:
    """Turns entries of a plan into faults."""

    def __init__(self, places: Places, iterations: int, virtual: bool, graph: Graph | None) -> None:
        self.places, self.iterations, self.virtual = places, iterations, virtual
        self.graph = graph

    def fault(self, number: int, entry: Any, where: str) -> Fault:
        kinds = [kind for kind in KINDS if isinstance(entry, dict) and kind in entry]
        if len(kinds) != 1:
            raise ConfigError(f"{where}: give exactly one of {', '.join(KINDS)}: {entry!r:.60}")
        read: dict[str, Callable[[int, Any, str], Fault]] = {
            "kill": self._kill, "slow_link": self._slow_link, "partition": self._partition,
        }  # fmt: skip
        return read[kinds[0]](number, entry, where)

    def _kill(self, number: int, entry: Any, where: str) -> Kill:
        check_object(entry, where, ("kill", "round"), ("round",))
        t = check_integer(entry["round"], f"{where}: round", 1, self.iterations) - 1
        target = check_object(entry["kill"], f"{where}: kill", _TARGETS)
        if len(target) != 1:
            raise ConfigError(f"{where}: kill: give exactly one of {', '.join(_TARGETS)}")
        ((kind, value),) = target.items()
        where = f"{where}: kill: {kind}"
        if kind == "node":
            return Kill(number, entry, kind, t, frozenset({self._uid(value, where)}))
        if kind == "machine":
            machine = self._machine(value, where)
            uids = frozenset(self.places.hosted(machine))
            return Kill(number, entry, kind, t, uids, machine)
        if self.virtual:
            raise ConfigError(f"{where}: a simulated run has one worker: kill a node or a machine")
        pair = check_list(value, f"{where} (machine, worker)", 2)
        machine = self._machine(pair[0], where)
        worker = check_integer(pair[1], where, 0, len(self.places.uids(machine)) - 1)
        return Kill(number, entry, kind, t, frozenset(), machine, worker)

    def _slow_link(self, number: int, entry: Any, where: str) -> SlowLink:
        check_object(entry, where, ("slow_link", "rounds", "seconds"))
        window = _window(entry, where, self.iterations)
        where = f"{where}: slow_link"
        known = ("from", "to", "factor", "delay_s")
        link = check_object(entry["slow_link"], where, known, ("from", "to"))
        if self.virtual and not link.keys() & {"factor", "delay_s"}:
            raise ConfigError(f"{where}: give 'factor', 'delay_s' or both")
        if not self.virtual and "delay_s" not in link:
            raise ConfigError(f"{where}: give 'delay_s': 'factor' is for simulated runs")
        sender, receiver = (self._uid(link[end], f"{where}: {end}") for end in ("from", "to"))
        if sender == receiver:
            raise ConfigError(f"{where}: from and to are the same node")
        if (
            self.graph is not None
            and min(sender, receiver) >= 0
            and not self.graph.has_edge(sender, receiver)
        ):
            raise ConfigError(
                f"{where}: {sender}>{receiver} is not an edge of the graph: "
                f"node {sender} never sends to node {receiver}"
            )
        factor = check_number(link.get("factor", 1.0), f"{where}: factor", positive=True)
        delay = check_number(link.get("delay_s", 0.0), f"{where}: delay_s")
        return SlowLink(number, entry, sender, receiver, factor, delay, window)

    def _partition(self, number: int, entry: Any, where: str) -> Partition:
        check_object(entry, where, ("partition", "rounds", "seconds"))
        window = _window(entry, where, self.iterations)
        where = f"{where}: partition"
        groups = []
        named: set[int] = set()
        for value in check_list(entry["partition"], where):
            group = [self._uid(uid, where) for uid in check_list(value, where)]
            twice = [uid for uid in group if uid in named or group.count(uid) > 1]
            if twice or not group:
                why = f"node {twice[0]} appears twice" if twice else "a group is empty"
                raise ConfigError(f"{where}: {why}")
            named.update(group)
            groups.append(frozenset(group))
        if len(groups) + (len(named) < self.places.n + self.places.servers) < 2:
            raise ConfigError(f"{where}: all nodes are in one group: nothing is cut")
        return Partition(number, entry, tuple(groups), window)

    def _uid(self, value: Any, where: str) -> int:
        return check_integer(value, where, -self.places.servers, self.places.n - 1)

    def _machine(self, value: Any, where: str) -> int:
        return check_integer(value, where, 0, self.places.machines - 1)


def _window(entry: Mapping[str, Any], where: str, iterations: int) -> Window:
    given = [key for key in ("rounds", "seconds") if key in entry]
    if len(given) != 1:
        raise ConfigError(f"{where}: give either 'rounds' or 'seconds', as [from, to]")
    where = f"{where}: {given[0]}"
    ends = check_list(entry[given[0]], where, 2)
    if given[0] == "rounds":
        first = check_integer(ends[0], where, 1, iterations) - 1
        last = check_integer(ends[1], where, 1) - 1
        if last < first:
            raise ConfigError(f"{where}: [{first + 1}, {last + 1}] ends before it begins")
        return Window(first, last)
    start, stop = (check_number(end, where) for end in ends)
    if stop <= start:
        raise ConfigError(f"{where}: [{start:g}, {stop:g}] ends before it begins")
    return Window(start, stop, seconds=True)


def _clash(one: Fault, other: Fault) -> str | None:
    """Why two faults cannot both be meant; None if they can."""
    if isinstance(one, Kill) and isinstance(other, Kill):
        both = sorted(one.uids & other.uids)
        if both:
            return f"node {both[0]} is killed twice"
        same = (one.kind, one.machine, one.worker) == (other.kind, other.machine, other.worker)
        if one.kind == "worker" and same:
            return f"worker {[one.machine, one.worker]} is killed twice"
    if isinstance(one, SlowLink) and isinstance(other, SlowLink):
        same = (one.sender, one.receiver) == (other.sender, other.receiver)
        if same and one.window.meets(other.window):
            return f"the link {one.sender}>{one.receiver} is slowed down twice at the same time"
    if (
        isinstance(one, Partition)
        and isinstance(other, Partition)
        and one.window.meets(other.window)
    ):
        return "two partitions at the same time: write them as one"
    return None


def describe(fault: Fault) -> str:
    """A fault in a few words: ``fault 2 (partition)``."""
    kind: Sequence[str] = [kind for kind in KINDS if kind in fault.text]
    return f"fault {fault.number + 1} ({kind[0]})"
