"""Asynchronous gossip by pulling while training (after AD-PSGD; Lian et al., ICML 2018)."""

from __future__ import annotations

from typing import ClassVar

from decentralizepy.messages.message import Message
from decentralizepy.node.effects import Ask, Checkpoint, Receive, Report, Send, Train
from decentralizepy.node.node import Node, Program


class AsyncPull(Node):
    """A node asks a random in-neighbour for its model, trains meanwhile, and takes the mean.

    The other answers whatever it is doing, but only once it is at most ``staleness`` iterations
    behind the one who asks (None: at once); the one that is furthest behind waits for nobody.
    Unlike in AD-PSGD only the one who asks takes the mean.
    """

    asynchronous: bool = True
    shares: ClassVar[bool] = False
    kept: ClassVar[tuple[str, ...]] = ("done",)

    def __init__(self, *, staleness: int | None = 4) -> None:
        if staleness is not None and staleness < 0:
            raise ValueError(f"staleness = {staleness}: at least 0, or None for no bound")
        self.staleness = staleness
        #: iterations that are in the model
        self.done = 0
        self._asking: list[Message] = []

    def answer(self, message: Message) -> Message | None:
        """The model as it is, unless it is too old; the question then waits."""
        if self._may_answer(message):
            return self._model(message)
        self._asking.append(message)
        return None

    def program(self) -> Program:
        for t in self.rounds():
            peers = self.graph_at(t).in_neighbors(self.uid)
            asked = [int(self.generator(t).choice(peers))] if peers else []
            yield Ask(asked, Message({}), (t, 0))
            yield Train(t)
            heard = [m for m in (yield Receive(asked, (t, 0))) if isinstance(m, Message)]
            for message in heard:
                self.x = (self.x + self.unpacked(message)) / 2
            self.done = t + 1
            due = [message for message in self._asking if self._may_answer(message)]
            self._asking = [message for message in self._asking if not self._may_answer(message)]
            for message in due:
                yield Send([([message.sender], self._model(message))], message.round)
            stale = [max(t - message.meta["done"], 0) for message in heard]
            yield Report(t, {"stale": max(stale, default=0)})
            yield Checkpoint(t)

    def _may_answer(self, message: Message) -> bool:
        return self.staleness is None or self.done >= message.round[0] - self.staleness

    def _model(self, question: Message) -> Message:
        ctx, asking = self.apart(*question.round), question.sender
        return self.sharing.pack(self.x, ctx, {"done": self.done}, receiver=asking)
