"""Free TCP ports, so that two runs on one computer do not meet."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import chain
from threading import Lock
from typing import Final

from decentralizepy.communication.ports import can_bind, is_free
from decentralizepy.errors import RunError

__all__ = ["Claims", "can_bind", "free_offset", "taken", "width"]

#: Ports of a machine beside two per worker: one to coordinate, and some to spare.
SPARE: Final = 8
#: Below the ports that Linux hands out by itself (32768 and up).
LOWEST, HIGHEST = 10_000, 32_000


def width(workers: int) -> int:
    """Ports that one machine may use from its offset on."""
    return 2 * workers + SPARE


class Claims:
    """Ranges of ports that runs of this process were given; to the others they are not free.

    Nobody listens there until a run's machines have started, so asking the hosts is not enough
    where runs go on beside one another.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._ranges: dict[str, range] = {}

    def take(self, run: str, first: int, count: int) -> bool:
        """Give a run these ports, in place of those it had; False where another run has some."""
        wanted = range(first, first + count)
        with self._lock:
            others = [had for name, had in self._ranges.items() if name != run]
            if any(had.start < wanted.stop and wanted.start < had.stop for had in others):
                return False
            self._ranges[run] = wanted
        return True

    def drop(self, run: str) -> None:
        """The run has ended."""
        with self._lock:
            self._ranges.pop(run, None)


def free_offset(
    addresses: Iterable[str],
    count: int,
    draws: int = 50,
    former: int | None = None,
    claimed: Callable[[int], bool] = lambda first: True,
) -> int:
    """First of ``count`` ports in a row that are free on all addresses: ``former``, or at random.

    They stay free only until somebody takes them, so this is asked again right before a start.
    ``claimed`` says whether a range that is free may be had.
    """
    addresses = list(addresses)
    draw = random.SystemRandom()
    drawn = (draw.randrange(LOWEST, HIGHEST - count) for _ in range(draws))
    for offset in chain(() if former is None else (former,), drawn):
        if taken(addresses, offset, count) is None and claimed(offset):
            return offset
    raise RunError(f"no {count} free ports in a row between {LOWEST} and {HIGHEST}; give OFFSET")


def taken(addresses: Iterable[str], offset: int, count: int) -> tuple[str, int] | None:
    """The first (address, port) of a range that cannot be had, or None if all are free."""
    pairs = ((a, port) for a in addresses for port in range(offset, offset + count))
    return next((pair for pair in pairs if not is_free(*pair)), None)
