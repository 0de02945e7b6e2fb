"""Signals that end a run: the first one does, and nothing that ends cleanly is cut short by more.

While processes are ended and machines given back, further signals do nothing; what may take for
ever, as collecting files does on a network, is given up at the next one. They are caught, never
ignored: a command that is started meanwhile would ignore them too.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP; the text names it."""


class Interrupts:
    """Raises `Interrupted` in the main thread, once, and again where that is `allowed`."""

    def __init__(self) -> None:
        self._armed = True

    def install(self) -> None:
        """Catch the signals from now on; SIGHUP only where it is not ignored, as under nohup."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self.take)

    def take(self, number: int, frame: FrameType | None = None) -> None:
        """A signal has arrived."""
        if self._armed:
            self._armed = False
            raise Interrupted(signal.Signals(number).name)

    def check(self) -> None:
        """Called now and then where a run goes on: signals come to the main thread by themselves,
        elsewhere somebody has to ask."""

    def rearm(self) -> None:
        """Somebody has decided that the run goes on: the next signal counts as the first."""
        self._armed = True

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """What is done in here ends at a signal, also after one that has ended the run."""
        before, self._armed = self._armed, True
        try:
            yield
        finally:
            self._armed = self._armed and before
