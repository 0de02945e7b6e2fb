"""A worker's own rows: which are free, and which somebody still reads."""

from __future__ import annotations

from collections import deque

from torch import Tensor

from decentralizepy.runtime.arena import Arena

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
        self._retired: deque[int] = deque()

    def acquire(self) -> int | None:
        """A row that may be written; None while all are being read."""
        for _ in range(min(_LOOK_AT, len(self._retired))):
            row = self._retired.popleft()
            if not self.read(row):
                return row
            self._retired.append(row)
        return self._free.pop() if self._free else None

    def publish(self, row: int, references: int) -> None:
        """Note that messages with ``references`` references to the row are on their way."""
        self._sent[row - self._first] += references

    def read(self, row: int) -> bool:
        """Whether somebody may still read the row."""
        sent = self._sent[row - self._first]
        return sent != self._arena.control.released(row)

    def retire(self, row: int) -> None:
        """Give a row back; it is handed out again once nobody reads it."""
        self._retired.append(row)

    def tensor(self, row: int) -> Tensor:
        return self._arena.row(row)
