"""What asynchronous programs that push have in common: how far a node may run ahead."""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

from decentralizepy.messages.message import Message
from decentralizepy.node.effects import ANY, Answer, Effect, Receive
from decentralizepy.node.node import Node


class Bounded(Node):
    """A node that pushes to its out-neighbours in each iteration, and takes what has come.

    Nobody waits but for what was said ``staleness`` iterations ago (None: never), so what a node
    hears is at most that old (stale synchronous parallel; Ho et al., NeurIPS 2013).
    """

    asynchronous: bool = True
    shares: ClassVar[bool] = False
    kept: ClassVar[tuple[str, ...]] = ("early",)

    def __init__(self, *, staleness: int | None = 4) -> None:
        if staleness is not None and staleness < 0:
            raise ValueError(f"staleness = {staleness}: at least 0, or None for no bound")
        self.staleness = staleness
        #: iteration -> those who have been heard of it; of iterations that may still be missed
        self.early: dict[str, list[int]] = {}

    def hear(self, t: int) -> Generator[Effect, Answer, list[Message]]:
        """All that has come by iteration ``t``, at least what is due, ascending by uid."""
        heard: list[Message] = yield Receive(ANY, ANY, deadline=0)
        if self.staleness is None:
            return heard
        due = t - self.staleness
        for message in heard:
            self.early.setdefault(str(message.round[0]), []).append(message.sender)
        if due >= 0:
            said = self.early.pop(str(due), [])
            late = [uid for uid in self.graph_at(due).in_neighbors(self.uid) if uid not in said]
            more = yield Receive(late, (due, 0))
            heard += [message for message in more if isinstance(message, Message)]
        return sorted(heard, key=lambda message: (message.sender, message.round))


def oldest(heard: list[Message], t: int) -> int:
    """How many iterations the oldest of the messages is behind ``t``; 0 if none is."""
    return max((t - message.round[0] for message in heard), default=0)
