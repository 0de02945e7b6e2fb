"""Notices between the workers of one machine through shared memory: no system call, no thread.

Each pair (from, to) of workers has a ring of words that one writes and the other reads. Sockets
carry the rest; a notice says how many socket messages went before it, so that both stay in order.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from os import sched_yield
from time import perf_counter
from typing import Final

from decentralizepy.memory.shared import ArenaPlan

#: head and tail lie on cache lines of their own
_LINE: Final = 8
_HEAD, _TAIL, _FIRST = 0, _LINE, 2 * _LINE
_WRAP: Final = -1
_WORD: Final = 8

_lock = threading.Lock()


def fence() -> None:
    """Order what is written and read before against what comes after, also on ARM.

    A release followed by an acquire of the same lock is a full barrier.
    """
    with _lock:
        pass
    with _lock:
        pass


class Ring:
    """One writer, one reader; an entry is its length and as many words."""

    def __init__(self, memory: mmap.mmap, start: int, words: int) -> None:
        self._memory = memory
        self._control = memoryview(memory)[start : start + _WORD * _FIRST].cast("q")
        self._start = start + _WORD * _FIRST
        self._size = words - _FIRST

    @property
    def longest(self) -> int:
        """Words of the longest entry that finds room at last, wherever the ring's end lies."""
        return self._size // 2 - 1

    def put(self, entry: Sequence[int]) -> bool:
        """Append an entry; False if there is no room now."""
        head, need = self._control[_HEAD], len(entry) + 1
        at = head % self._size
        skip = self._size - at if at + need > self._size else 0
        if head + skip + need - self._control[_TAIL] > self._size:
            if len(entry) > self.longest:
                raise ValueError(f"a notice of {len(entry)} words, more than {self.longest}")
            return False
        if skip:
            struct.pack_into("<q", self._memory, self._start + _WORD * at, _WRAP)
            at = 0
        struct.pack_into(f"<{need}q", self._memory, self._start + _WORD * at, need - 1, *entry)
        fence()  # the row and the entry are seen before the head that announces them
        self._control[_HEAD] = head + skip + need
        return True

    def take(self, fit: Callable[[int], bool]) -> tuple[int, ...] | None:
        """The oldest entry if its first word is ``fit``; None without one."""
        tail = self._control[_TAIL]
        if tail == self._control[_HEAD]:
            return None
        fence()
        at = tail % self._size
        (length,) = struct.unpack_from("<q", self._memory, self._start + _WORD * at)
        if length == _WRAP:
            self._control[_TAIL] = tail + self._size - at
            return self.take(fit)
        place = self._start + _WORD * (at + 1)
        entry = struct.unpack_from(f"<{length}q", self._memory, place)
        if not fit(entry[0]):
            return None
        self._control[_TAIL] = tail + length + 1
        return entry

    @property
    def empty(self) -> bool:
        return self._control[_TAIL] == self._control[_HEAD]


class Rings:
    """All rings of one worker: to and from each of the others."""

    def __init__(self, memory: mmap.mmap, plan: ArenaPlan, me: int) -> None:
        self._me, self._plan, self._memory = me, plan, memory
        others = [worker for worker in range(plan.workers) if worker != me]
        self._to = {worker: self._ring(me, worker) for worker in others}
        self._from = {worker: self._ring(worker, me) for worker in others}
        #: words of the longest notice that can be sent
        self.longest = min((ring.longest for ring in self._to.values()), default=0)
        self._late: dict[int, deque[Sequence[int]]] = {worker: deque() for worker in others}
        self._held: set[int] = set()

    def _ring(self, writer: int, reader: int) -> Ring:
        number = writer * self._plan.workers + reader
        start = self._plan.control_bytes + number * _WORD * self._plan.ring_words
        return Ring(self._memory, start, self._plan.ring_words)

    def send(self, worker: int, entry: Sequence[int]) -> None:
        """Give a notice to a worker; one that finds no room is kept and goes first next time."""
        late = self._late[worker]
        if late or not self._to[worker].put(entry):
            late.append(entry)

    def catch_up(self) -> list[int]:
        """Send what found no room before; returns the workers that got something."""
        found = []
        for worker, late in self._late.items():
            before = len(late)
            while late and self._to[worker].put(late[0]):
                late.popleft()
            if len(late) < before:
                found.append(worker)
        return found

    @property
    def behind(self) -> bool:
        """Whether something still waits for room."""
        return any(self._late.values())

    def take(self, worker: int, socket_messages: int) -> tuple[int, ...] | None:
        """The next notice of a worker that no socket message has to be delivered before."""
        ring = self._from[worker]
        entry = ring.take(lambda before: before <= socket_messages)
        if entry is None:
            (self._held.discard if ring.empty else self._held.add)(worker)
            return None
        return entry[1:]

    @property
    def workers(self) -> Sequence[int]:
        """The other workers."""
        return tuple(self._from)

    def watch(self, seconds: float) -> bool:
        """Look for something new for so long, without sleeping; whether there is anything."""
        until = perf_counter() + seconds
        while self.quiet:
            if perf_counter() >= until:
                return False
            sched_yield()  # whoever else wants this processor goes first
        return True

    @property
    def quiet(self) -> bool:
        """Whether there is nothing new, but for notices that wait for a socket message."""
        return all(ring.empty or worker in self._held for worker, ring in self._from.items())
