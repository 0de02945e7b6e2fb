"""The run's clock: real seconds, or virtual ones that pass only when nothing can happen now."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

#: what happens at a given time
Event = Callable[[], object]


class Clock(Protocol):
    """Seconds since the run's start."""

    def now(self) -> float:
        """The present time."""

    def advance(self, until: float) -> bool:
        """Pass time up to ``until`` if that is this clock's to do; True when it was."""


class RealClock:
    """Time passes by itself; waiting is the caller's business. A resumed run has a past."""

    def __init__(self, past: float = 0.0) -> None:
        self._start = time.monotonic() - past

    def now(self) -> float:
        return time.monotonic() - self._start

    def advance(self, until: float) -> bool:
        return False


class VirtualClock:
    """Stands still while any node can go on, then jumps to the next event."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def advance(self, until: float) -> bool:
        self._now = max(self._now, until)
        return True


@dataclass
class Timers:
    """Things to do at given times, in the order of (time, uid, setting).

    ``uid`` is the node that something happens to. So the order in which nodes took their turns
    before does not decide who comes first at the same time.
    """

    _heap: list[tuple[float, int, int, Event]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)

    def set(self, when: float, what: Event, uid: int = 0) -> None:
        heapq.heappush(self._heap, (when, uid, next(self._order), what))

    @property
    def next(self) -> float | None:
        """When the next one is due; None without any."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[Event]:
        """Take out all that are due."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            found.append(heapq.heappop(self._heap)[3])
        return found
