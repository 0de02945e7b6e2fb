"""Free TCP ports, so that two runs on one computer do not meet."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from decentralizepy.communication.ports import can_bind, is_free
from decentralizepy.errors import RunError

__all__ = ["can_bind", "free_offset", "taken", "width"]

#: Ports of a machine beside two per worker: one to coordinate, and some to spare.
SPARE: Final = 8
#: Below the ports that Linux hands out by itself (32768 and up).
LOWEST, HIGHEST = 10_000, 32_000


def width(workers: int) -> int:
    """Ports that one machine may use from its offset on."""
    return 2 * workers + SPARE


def free_offset(
    addresses: Iterable[str], count: int, draws: int = 50, former: int | None = None
) -> int:
    """First of ``count`` ports in a row that are free on all addresses: ``former``, or at random.

    They stay free only until somebody takes them, so this is asked again right before a start.
    """
    addresses = list(addresses)
    if former is not None and taken(addresses, former, count) is None:
        return former
    draw = random.SystemRandom()
    for _ in range(draws):
        offset = draw.randrange(LOWEST, HIGHEST - count)
        if taken(addresses, offset, count) is None:
            return offset
    raise RunError(f"no {count} free ports in a row between {LOWEST} and {HIGHEST}; give OFFSET")


def taken(addresses: Iterable[str], offset: int, count: int) -> tuple[str, int] | None:
    """The first (address, port) of a range that cannot be had, or None if all are free."""
    pairs = ((a, port) for a in addresses for port in range(offset, offset + count))
    return next((pair for pair in pairs if not is_free(*pair)), None)
