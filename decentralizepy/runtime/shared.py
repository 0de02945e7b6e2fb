"""Layout of the memory that the workers of one machine share, and its counters; free of torch.

It is an anonymous file: no name, so nothing is left behind however the processes end, and pages
that no node has touched cost nothing.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from itertools import accumulate

#: rows start on cache lines
_ALIGN = 16
#: rows a worker may use per node: two suffice for a static graph, readers that lag take more
_ROWS_PER_NODE = 4
_SPARE_ROWS = 8
_WORKER_WORDS = 4


@dataclass(frozen=True)
class ArenaPlan:
    """Sizes: nodes of each worker of the machine, and elements of a row."""

    nodes: tuple[int, ...]
    length: int

    @property
    def workers(self) -> int:
        return len(self.nodes)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each worker."""
        return tuple(_ROWS_PER_NODE * nodes + _SPARE_ROWS for nodes in self.nodes)

    @property
    def stride(self) -> int:
        return -(-max(self.length, 1) // _ALIGN) * _ALIGN

    def own_rows(self, worker: int) -> range:
        stops = list(accumulate(self.rows))
        return range(stops[worker] - self.rows[worker], stops[worker])

    @property
    def control_words(self) -> int:
        return sum(self.nodes) + _WORKER_WORDS * self.workers + sum(self.rows) * self.workers

    @property
    def control_bytes(self) -> int:
        return -(-8 * self.control_words // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def nbytes(self) -> int:
        return self.control_bytes + 4 * self.stride * sum(self.rows)


def create() -> int:
    """A new anonymous shared file, empty until `resize`; returns its descriptor."""
    return os.memfd_create("decentralizepy-rows")


def resize(memory: int, plan: ArenaPlan) -> None:
    """Give the file the plan's size, zeroed."""
    os.ftruncate(memory, plan.nbytes)


class Control:
    """The counters of an arena; each cell is written by one process alone, read by any.

    ``rounds[i]`` is how many iterations the machine's i-th node has done; a worker notes the node
    it is busy with, so that its end can be explained; ``released`` counts consumed rows.
    """

    def __init__(self, memory: mmap.mmap, plan: ArenaPlan) -> None:
        words = memoryview(memory)[: 8 * plan.control_words].cast("q")
        nodes, workers = sum(plan.nodes), plan.workers
        self.rounds = words[:nodes]
        self._busy = words[nodes : nodes + _WORKER_WORDS * workers]
        self._released = words[nodes + _WORKER_WORDS * workers :]
        self._workers = workers

    def busy(self, worker: int, uid: int, t: int) -> None:
        """Note that a worker starts to work for a node in iteration ``t`` (0-based)."""
        self._busy[_WORKER_WORDS * worker] = uid + 1
        self._busy[_WORKER_WORDS * worker + 1] = t

    def busy_with(self, worker: int) -> tuple[int, int] | None:
        """The node and iteration a worker was busy with; None before its first."""
        uid = self._busy[_WORKER_WORDS * worker]
        return (uid - 1, self._busy[_WORKER_WORDS * worker + 1]) if uid else None

    def release(self, worker: int, row: int) -> None:
        """Worker ``worker`` has consumed one reference to a row."""
        self._released[row * self._workers + worker] += 1

    def released(self, row: int) -> int:
        """References to a row that were consumed so far, by all workers."""
        return sum(self._released[row * self._workers : (row + 1) * self._workers])
