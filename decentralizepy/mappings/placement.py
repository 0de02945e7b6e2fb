"""Which worker of which machine runs which node."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
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


@dataclass(frozen=True)
class Placement:
    """Nodes in contiguous blocks: first over machines, then over each machine's workers.

    The numbers of a run do not depend on it; only who talks to whom by memory or by network does.
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

    def owner(self, uid: int) -> WorkerId:
        """The worker that runs a node."""
        return self._starts[bisect_right(self._firsts, uid) - 1][1]

    def uids(self, who: WorkerId) -> range:
        """The nodes of a worker."""
        stops = [*self._firsts[1:], self.mapping.n]
        for (start, worker), stop in zip(self._starts, stops, strict=True):
            if worker == who:
                return range(start, stop)
        raise KeyError(who)

    def all(self) -> Iterator[WorkerId]:
        """Every worker, by machine and number."""
        return (worker for _, worker in self._starts)

    @property
    def root(self) -> WorkerId:
        """The worker that adds up what needs all nodes."""
        return WorkerId(0, 0)
