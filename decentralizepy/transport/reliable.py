"""Exactly once across reconnects: what is numbered, kept, acknowledged and sent again; no I/O.

A sender numbers its batches to a peer from 1 and keeps each until the peer has acknowledged it.
After a reconnect the peer says the last number that it took, and all later ones are sent again,
sealed anew. The receiver takes a number once, in order, so that each message of a (sender, round)
is delivered exactly once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from decentralizepy.transport.secure import Buffer, RefusedError


@dataclass(frozen=True)
class Batch:
    """Frames under one number, and what to call once nobody needs their memory any more."""

    number: int
    frames: Sequence[Buffer]
    done: Sequence[Callable[[], None]] = ()


class Outgoing:
    """What was sent to one peer and is not acknowledged yet."""

    def __init__(self) -> None:
        self._kept: deque[Batch] = deque()
        self._last = 0

    def keep(self, frames: Sequence[Buffer], done: Sequence[Callable[[], None]] = ()) -> Batch:
        """Give the next number to ``frames`` and hold on to them."""
        self._last += 1
        batch = Batch(self._last, frames, done)
        self._kept.append(batch)
        return batch

    def acknowledged(self, number: int) -> bool:
        """The peer has taken all batches up to ``number``; True if that was news.

        Raises `RefusedError` for a number that was never given.
        """
        if number > self._last:
            raise RefusedError("malformed", f"batch {number} was never sent")
        news = False
        while self._kept and self._kept[0].number <= number:
            for call in self._kept.popleft().done:
                call()
            news = True
        return news

    def waiting(self) -> Iterable[Batch]:
        """What has to be sent again after a reconnect, in order."""
        return tuple(self._kept)

    def drop(self) -> None:
        """Nobody will ever take what is kept."""
        self.acknowledged(self._last)

    def __len__(self) -> int:
        return len(self._kept)


class Received:
    """What one peer sent, in the life that it is in."""

    def __init__(self) -> None:
        self.life = b""
        self.last = 0
        self.duplicates = 0

    def born(self, life: bytes) -> None:
        """The peer says which life it is in: a new one counts from 1 again."""
        if life != self.life:
            self.life, self.last = life, 0

    def is_new(self, number: int) -> bool:
        """Whether to take a batch; raises `RefusedError` if one before it is missing."""
        if number <= self.last:
            self.duplicates += 1
            return False
        if number > self.last + 1:
            raise RefusedError("malformed", f"batch {number} after {self.last}")
        return True

    def took(self, number: int) -> None:
        """A batch was delivered."""
        assert number == self.last + 1
        self.last = number
