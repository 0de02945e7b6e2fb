"""Numbers as people read them, and a screen that a closed pipe does not break."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, field
from typing import TextIO


def bytes_text(count: float) -> str:
    """1,234,567 -> ``1.23 MB`` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB"


def seconds_text(seconds: float) -> str:
    """7.2 -> ``7.2 s``, 75 -> ``1 min 15 s``, 4000 -> ``1 h 07 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(count: int, noun: str) -> str:
    """(1, "node") -> ``1 node``, (2, "node") -> ``2 nodes``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


@dataclass
class Screen:
    """Where people read along. Once it is gone, nothing more is printed and the run goes on."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    gone: bool = False

    def say(self, text: str) -> None:
        """Print a line, or several."""
        if self.gone:
            return
        try:
            print(text, file=self.stream, flush=True)
        except (OSError, ValueError):
            self.gone = True
            self._drain()

    def _drain(self) -> None:
        """What is still in the buffer must not fail the command as it ends."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
