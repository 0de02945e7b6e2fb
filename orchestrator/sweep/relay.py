"""Ctrl-C for runs that go on beside the main thread, which alone gets signals."""

from __future__ import annotations

from decentralizepy.interrupts import Interrupted, Interrupts


class Relay(Interrupts):
    """Raises in the thread of its run what the main thread has been told."""

    def __init__(self) -> None:
        super().__init__()
        self._told: str | None = None

    def tell(self, signal: str) -> None:
        """The run shall end, as at this signal; called by the main thread."""
        self._told = signal

    def check(self) -> None:
        """Raises `Interrupted`, once."""
        if self._armed and self._told is not None:
            self._armed = False
            raise Interrupted(self._told)
