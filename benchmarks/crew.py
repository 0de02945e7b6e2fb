"""Processes that do the work of a bare loop: they begin together, share rows, and can meet."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from time import perf_counter
from typing import Any, Final

#: how long processes wait for one another to be ready
_READY_S: Final = 600
#: how long one that waits for others looks for them before it sleeps, like a worker of the engine
_WATCH_S: Final = 1e-3


class Crew:
    """What ``size`` processes have in common. It is given to each at its start, which then joins.

    ``numbers`` is how many float32 numbers they share.
    """

    def __init__(self, context: SpawnContext, size: int, numbers: int = 0) -> None:
        self.size, self.number = size, -1
        self.gate = context.Barrier(size, timeout=_READY_S)
        self._lines: list[list[Connection]] = [[] for _ in range(size)]
        for one, other in combinations(range(size), 2):
            for member, line in zip((one, other), context.Pipe(), strict=True):
                self._lines[member].append(line)
        self._memory = context.RawArray("f", max(1, numbers))
        self._numbers = context.SimpleQueue()
        for number in range(size):
            self._numbers.put(number)

    def join(self) -> None:
        """This process is one of the crew, from now on with a ``number`` from 0 on."""
        self.number = self._numbers.get()
        self._close(member for member in range(self.size) if member != self.number)

    def leave(self) -> None:
        """Whoever waits for this process, or will, gets an `EOFError`; for the one that made the
        crew: once all have been started, so that each of them is heard of when it dies."""
        self._close(range(self.size) if self.number < 0 else [self.number])

    def _close(self, members: Iterable[int]) -> None:
        for member in members:
            for line in self._lines[member]:
                line.close()

    def meet(self) -> None:
        """Wait until all others have come here as often."""
        lines = self._lines[self.number]
        for line in lines:
            line.send_bytes(b".")
        for line in lines:
            until = perf_counter() + _WATCH_S
            while not line.poll() and perf_counter() < until:
                pass
            line.recv_bytes()

    def memory(self) -> Any:
        """The shared numbers, a tensor [numbers]."""
        import torch

        return torch.frombuffer(self._memory, dtype=torch.float32)
