"""Which worker of which machine runs which node."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from decentralizepy.mappings.mapping import Mapping


class WorkerId(NamedTuple):
    """A worker process: its machine and its number there."""

    machine: int
    worker: int

    def __str__(self) -> str:
        return f"machine {self.machine}, worker {self.worker}"


def spread(hosted: int, servers: int, workers: int) -> tuple[int, ...]:
    """How many of a machine's ``hosted`` nodes and servers each of its workers runs."""
    counts = list(Mapping.spread(hosted - servers, workers).counts)
    for server in range(servers):
        counts[server % workers] += 1
    return tuple(counts)


@dataclass(frozen=True)
class Placement:
    """Nodes in contiguous blocks: first over machines, then over each machine's workers.

    Servers are dealt to the workers of their machine, one after the other. The numbers of a run do
    not depend on it; only who talks to whom by memory or by network does.
    """

    mapping: Mapping
    workers: tuple[int, ...]

    @cached_property
    def _starts(self) -> list[tuple[int, WorkerId]]:
        starts = []
        for machine, count in enumerate(self.workers):
            uids = self.mapping.uids(machine)
            start = uids.start
            for worker, nodes in enumerate(Mapping.spread(len(uids), count).counts):
                starts.append((start, WorkerId(machine, worker)))
                start += nodes
        return starts

    @cached_property
    def _firsts(self) -> list[int]:
        return [start for start, _ in self._starts]

    def has(self, uid: int) -> bool:
        """Whether there is such a node or server."""
        return self.mapping.has(uid)

    def check(self, uids: Set[int]) -> None:
        """Raise `ValueError` unless there are all of these nodes and servers."""
        if not self._everybody.issuperset(uids):
            self.owner(min(uids - self._everybody))

    @cached_property
    def _everybody(self) -> frozenset[int]:
        return frozenset(range(-self.mapping.servers, self.mapping.n))

    def owner(self, uid: int) -> WorkerId:
        """The worker that runs a node or server; raises `ValueError` if there is none such."""
        if not self.has(uid):
            servers = f", servers -1 to {-self.mapping.servers}" if self.mapping.servers else ""
            raise ValueError(f"no node {uid}: the nodes are 0 to {self.mapping.n - 1}{servers}")
        if uid < 0:
            machine = self.mapping.server_machine
            return WorkerId(machine, (-uid - 1) % self.workers[machine])
        return self._starts[bisect_right(self._firsts, uid) - 1][1]

    def uids(self, who: WorkerId) -> tuple[int, ...]:
        """The nodes of a worker, ascending, then its servers."""
        return self._hosted[who]

    @cached_property
    def _hosted(self) -> dict[WorkerId, tuple[int, ...]]:
        stops = [*self._firsts[1:], self.mapping.n]
        found = {
            who: tuple(range(start, stop))
            for (start, who), stop in zip(self._starts, stops, strict=True)
        }
        for server in range(-1, -self.mapping.servers - 1, -1):
            found[self.owner(server)] += (server,)
        return found

    def all(self) -> Iterator[WorkerId]:
        """Every worker, by machine and number."""
        return (worker for _, worker in self._starts)

    @property
    def root(self) -> WorkerId:
        """The worker that adds up what needs all nodes."""
        return WorkerId(0, 0)
