"""Waiting for an event of the miniature cluster, with a limit and a word on what was there."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(
    condition: Callable[[], object],
    seconds: float = 150.0,
    told: Callable[[], object] = lambda: "it did not happen",
) -> None:
    """Return when `condition` holds; fail with what `told` says if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)
