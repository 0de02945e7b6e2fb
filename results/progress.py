"""Progress of long work on one line of a terminal; nothing where stderr is none."""

from __future__ import annotations

import sys
from collections.abc import Callable


def shown_progress(what: str) -> Callable[[int, int], None]:
    """A function of (done, total) that keeps a line like ``models 12/360`` up to date."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done >= total else ""
            print(f"\r{what} {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show
