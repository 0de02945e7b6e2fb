"""What happens to messages that wait for a node to hear them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mail:
    """Every message waits until it is heard; with ``newest``, only so many of each sender.

    A node that hears its neighbours seldom wants ``Mail(newest=1)``: what they said last.
    """

    newest: int | None = None

    def __post_init__(self) -> None:
        if self.newest is not None and self.newest < 1:
            raise ValueError(f"newest = {self.newest}: keep at least one message of each sender")
