"""The run's clock: real seconds, or virtual ones that pass only when nothing can happen now."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator
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


@dataclass(eq=False, slots=True)
class Timer:
    """Something to do at a given time, unless it is cancelled."""

    what: Event | None

    def cancel(self) -> None:
        """It is not to happen any more, and nobody waits for its time."""
        self.what = None


@dataclass
class Timers:
    """Things to do at given times, in the order of (time, uid, setting).

    ``uid`` is the node that something happens to. So the order in which nodes took their turns
    before does not decide who comes first at the same time.
    """

    _heap: list[tuple[float, int, int, Timer]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    #: timers set before cancelled ones are purged (one far in the future would keep all behind it)
    _most: int = 1024

    def set(self, when: float, what: Event, uid: int = 0) -> Timer:
        """Have ``what`` happen to node ``uid`` at a time."""
        if len(self._heap) >= self._most:
            self._sort_out()
        timer = Timer(what)
        heapq.heappush(self._heap, (when, uid, next(self._order), timer))
        return timer

    def _sort_out(self) -> None:
        """Forget those that are cancelled."""
        self._heap = [entry for entry in self._heap if entry[3].what is not None]
        heapq.heapify(self._heap)
        self._most = 2 * len(self._heap) + 1024

    @property
    def next(self) -> float | None:
        """When the next one is due; None without any."""
        while self._heap and self._heap[0][3].what is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Event]:
        """Take out all that are due, one by one: what happens may cancel what would come next."""
        while self._heap and self._heap[0][0] <= now:
            what = heapq.heappop(self._heap)[3].what
            if what is not None:
                yield what
