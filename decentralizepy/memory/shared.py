"""Layout of the memory that the workers of one machine share, and its counters; free of torch.

It is an anonymous file: no name, so nothing is left behind however the processes end, and pages
that no node has touched cost nothing.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

#: rows start on cache lines
_ALIGN = 16
_HUGE_PAGE = 1 << 21
#: rows a worker may use for each row of a node: two or three suffice for a static graph, readers
#: that lag and messages that are no rows take more; rows that nobody uses cost nothing
_ROWS_PER_NODE = 6
_SPARE_ROWS = 8
_WORKER_WORDS = 8
#: added to the node that a worker is busy with: 0 is nobody
_SOMEBODY = 1 << 40
_BUSY, _ROUND, _IDLE, _BEAT, _ORDERS = range(5)
#: words of the ring between two workers, at least; it holds hundreds of notices
_RING_WORDS = 4096


@dataclass(frozen=True)
class ArenaPlan:
    """Sizes: nodes of each worker of the machine, elements of a row, rows that a node has."""

    nodes: tuple[int, ...]
    length: int
    named: int = 1

    @property
    def workers(self) -> int:
        return len(self.nodes)

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each worker."""
        return tuple(_ROWS_PER_NODE * self.named * nodes + _SPARE_ROWS for nodes in self.nodes)

    @property
    def stride(self) -> int:
        return -(-max(self.length, 1) // _ALIGN) * _ALIGN

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, padding included."""
        return 4 * self.stride

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
    def ring_words(self) -> int:
        """Words of one ring; a notice to all nodes of a worker takes a small part of it."""
        return max(_RING_WORDS, 1 << (8 * max(self.nodes)).bit_length())

    @property
    def rows_start(self) -> int:
        """Where the rows begin, behind counters and rings, in bytes: on a huge page."""
        before = self.control_bytes + 8 * self.ring_words * self.workers**2
        return -(-before // _HUGE_PAGE) * _HUGE_PAGE

    @property
    def nbytes(self) -> int:
        return self.rows_start + self.row_bytes * sum(self.rows)


def create() -> int:
    """A new anonymous shared file, empty until `resize`; returns its descriptor."""
    return os.memfd_create("decentralizepy-rows")


def resize(memory: int, plan: ArenaPlan) -> None:
    """Give the file the plan's size, zeroed."""
    os.ftruncate(memory, plan.nbytes)


class Counters:
    """The counters of an arena; a cell is written by one process (``idle`` is a hint), read by any.

    ``rounds[i]`` is how many iterations the machine's i-th node has done; a worker notes the node
    it is busy with, so that its end can be explained; ``released`` counts consumed rows.
    """

    def __init__(self, memory: mmap.mmap, plan: ArenaPlan) -> None:
        words = memoryview(memory)[: 8 * plan.control_words].cast("q")
        nodes, workers = sum(plan.nodes), plan.workers
        self.rounds = words[:nodes]
        self._states = words[nodes : nodes + _WORKER_WORDS * workers]
        self._released = words[nodes + _WORKER_WORDS * workers :]
        self._workers = workers

    def busy(self, worker: int, uid: int, t: int) -> None:
        """Note that a worker starts to work for a node in iteration ``t`` (0-based)."""
        self._states[_WORKER_WORDS * worker + _BUSY] = uid + _SOMEBODY
        self._states[_WORKER_WORDS * worker + _ROUND] = t

    def busy_with(self, worker: int) -> tuple[int, int] | None:
        """The node and iteration a worker was busy with; None before its first."""
        uid = self._states[_WORKER_WORDS * worker + _BUSY]
        return (uid - _SOMEBODY, self._states[_WORKER_WORDS * worker + _ROUND]) if uid else None

    def set_idle(self, worker: int, idle: bool) -> None:
        """A worker goes to sleep until its bell is rung; or it is awake again."""
        self._states[_WORKER_WORDS * worker + _IDLE] = idle

    def idle(self, worker: int) -> bool:
        """Whether a worker sleeps."""
        return bool(self._states[_WORKER_WORDS * worker + _IDLE])

    def beat(self, worker: int) -> None:
        """A worker shows that its main loop goes round."""
        self._states[_WORKER_WORDS * worker + _BEAT] += 1

    def beats(self, worker: int) -> int:
        """How often a worker's loop went round."""
        return self._states[_WORKER_WORDS * worker + _BEAT]

    def call(self, worker: int) -> None:
        """The supervisor has orders for a worker, which looks before its next piece of work."""
        self._states[_WORKER_WORDS * worker + _ORDERS] += 1

    def calls(self, worker: int) -> int:
        """How often the supervisor called a worker."""
        return self._states[_WORKER_WORDS * worker + _ORDERS]

    def release(self, worker: int, row: int) -> None:
        """Worker ``worker`` has consumed one reference to a row."""
        self._released[row * self._workers + worker] += 1

    def release_all(self, worker: int, rows: Iterable[int]) -> None:
        """`release` for many rows."""
        released, workers = self._released, self._workers
        for row in rows:
            released[row * workers + worker] += 1

    def released_by(self, worker: int, row: int) -> int:
        """References to a row that one worker has consumed."""
        return self._released[row * self._workers + worker]

    def released(self, row: int) -> int:
        """References to a row that were consumed so far, by all workers."""
        if self._workers == 1:
            return self._released[row]
        if self._workers == 2:  # a slice costs more than the sum
            return self._released[2 * row] + self._released[2 * row + 1]
        return sum(self._released[row * self._workers : (row + 1) * self._workers])
