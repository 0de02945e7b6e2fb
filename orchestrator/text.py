"""A screen that a closed pipe does not break."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, field
from typing import TextIO


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
