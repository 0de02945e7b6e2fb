"""A worker's own rows: which are free, and which somebody still reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from torch import Tensor

from decentralizepy.memory.arena import Arena

_LOOK_AT = 8


class RowPool:
    """Hands out the rows of one worker; a row that was sent comes back when all have read it.

    Every message that carries a row by reference holds one reference per worker that receives it.
    The receiving side counts what it has consumed in the arena; this side compares.
    """

    def __init__(self, arena: Arena, worker: int) -> None:
        self._arena = arena
        own = arena.plan.own_rows(worker)
        self._free = list(reversed(own))
        self._first = own.start
        self._sent = [0] * len(own)
        self._sent_to = [[0] * len(own) for _ in range(arena.plan.workers)]
        self._retired: deque[int] = deque()

    def acquire(self) -> int | None:
        """A row that may be written; None while all are being read."""
        for _ in range(min(_LOOK_AT, len(self._retired))):
            row = self._retired.popleft()
            if not self.read(row):
                return row
            self._retired.append(row)
        return self._free.pop() if self._free else None

    def publish(self, row: int, readers: Iterable[int]) -> None:
        """Note that a message with a reference to the row is on its way to each worker."""
        for worker in readers:
            self._sent[row - self._first] += 1
            self._sent_to[worker][row - self._first] += 1

    def forgive(self, worker: int) -> None:
        """A worker is dead: what it still held is free."""
        for i, sent in enumerate(self._sent_to[worker]):
            held = sent - self._arena.control.released_by(worker, self._first + i)
            self._sent[i] -= held
            self._sent_to[worker][i] -= held

    def read(self, row: int) -> bool:
        """Whether somebody may still read the row."""
        sent = self._sent[row - self._first]
        return sent != self._arena.control.released(row)

    def retire(self, row: int) -> None:
        """Give a row back; it is handed out again once nobody reads it."""
        self._retired.append(row)

    def tensor(self, row: int) -> Tensor:
        return self._arena.row(row)
