"""Exclusive locks on open files and folders, held until the descriptor is closed.

A lock goes with its process, however that ends. Every function raises OSError where the file
system has no locks.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from typing import Final

_POLL_S: Final = 0.05


def try_lock(handle: int) -> bool:
    """Lock an open file or folder, unless another process holds it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(handle: int, waiting: Callable[[], None] = lambda: None) -> None:
    """Lock an open file or folder; ``waiting`` is called once if another process holds it."""
    if not try_lock(handle):
        waiting()
        fcntl.flock(handle, fcntl.LOCK_EX)


def lock_within(handle: int, seconds: float) -> bool:
    """Lock an open file or folder, unless another process holds it for that long."""
    until = time.monotonic() + seconds
    while not try_lock(handle):
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_S)
    return True
