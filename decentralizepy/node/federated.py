"""What federated programs have in common: server -1, and some clients in each iteration."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterable, Sequence
from functools import lru_cache
from math import ceil
from typing import ClassVar

import numpy as np

from decentralizepy.errors import RunError
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import (
    ANY,
    Answer,
    Checkpoint,
    Effect,
    Now,
    Receive,
    Report,
    Send,
    Train,
)
from decentralizepy.node.mail import Mail
from decentralizepy.node.node import Node, Program
from decentralizepy.streams import generator


class Federated(Node):
    """In each iteration the server speaks to ceil(``working_rate`` n) clients drawn at random,
    they train, and it folds their replies into its row one after the other, in ascending uid.

    A client that is lost is left out, and with ``patience`` so is one that takes more seconds than
    that: it goes on with the newest that the server has told it. With ``weighted`` a reply weighs
    as much as its client has samples, else all weigh the same.
    """

    servers: ClassVar[int] = 1
    needs_graph: ClassVar[bool] = False
    shares: ClassVar[bool] = False
    tests_nodes: ClassVar[bool] = False

    def __init__(
        self, *, working_rate: float = 1.0, weighted: bool = False, patience: float | None = None
    ) -> None:
        if not 0 < working_rate <= 1:
            raise ValueError(f"working_rate = {working_rate}: above 0 and at most 1 is needed")
        if patience is not None and not patience > 0:
            raise ValueError(f"patience = {patience}: seconds above 0 are needed")
        self.working_rate, self.weighted, self.patience = working_rate, weighted, patience
        self.asynchronous = patience is not None

    def setup(self) -> None:
        """A client that may be late keeps only the newest that the server says."""
        if self.patience is not None and not self.is_server:
            self.mail = Mail(newest=1)

    @abstractmethod
    def tell(self, clients: Sequence[int], t: int) -> Iterable[tuple[Sequence[int], Message]]:
        """What the server says to the clients of an iteration."""

    @abstractmethod
    def take(self, said: Message) -> None:
        """A client hears the server, before it trains."""

    @abstractmethod
    def reply(self) -> Message:
        """What a client answers after it has trained."""

    @abstractmethod
    def fold(self, said: Message, weight: float) -> None:
        """The server hears a client."""

    @abstractmethod
    def close(self, total: float) -> None:
        """The server has heard all whom it hears in an iteration; ``total`` is their weight."""

    def clients(self, t: int) -> list[int]:
        """Who is drawn in iteration ``t``, lost ones too: no loss changes whose turn it is."""
        return [uid for uid in range(self.n) if self.is_drawn(uid, t)]

    def is_drawn(self, uid: int, t: int) -> bool:
        """Whether a client is."""
        bits = _drawn(self.seed, self.n, t, ceil(self.working_rate * self.n))
        return bool(bits[uid >> 3] >> (uid & 7) & 1)

    def program(self) -> Program:
        return self._serve() if self.is_server else self._work()

    def _serve(self) -> Program:
        for t in self.rounds():
            members = self.members(t)
            clients = [uid for uid in self.clients(t) if members is None or uid in members]
            yield Send(self.tell(clients, t), (t, 0))
            heard = yield from self._gather(clients, t)
            yield Report(t, {"heard": heard})
            yield Checkpoint(t)

    def _gather(self, clients: Sequence[int], t: int) -> Generator[Effect, Answer, int]:
        """Fold replies as they come, but in ascending uid; gives how many came."""
        heard, total = 0, 0.0
        end = None if self.patience is None else (yield Now()) + self.patience
        for uid in clients:
            left = None if end is None else max(end - (yield Now()), 0.0)
            (said,) = yield Receive([uid], (t, 1), deadline=left)
            if isinstance(said, Message):
                weight = float(said.meta["samples"]) if self.weighted else 1.0
                self.fold(said, weight)
                heard, total = heard + 1, total + weight
        if heard:
            self.close(total)
        return heard

    def _work(self) -> Program:
        said = None
        for t in self.rounds():
            if self.is_drawn(self.uid, t):
                said = said or (yield Receive([-1], ANY))[0]
                if not isinstance(said, Message):
                    raise RunError(f"node {self.uid}: the server was lost")
                if said.round[0] == t:  # else it was too late for this one
                    self.take(said)
                    said = None
                    yield Train(t)
                    yield Send([([-1], self.reply())], (t, 1))
            yield Report(t)
            yield Checkpoint(t)


@lru_cache(maxsize=1024)
def _drawn(seed: int, n: int, t: int, count: int) -> bytes:
    """A bit for each client, drawn once for all nodes of a worker.

    Clients run ahead to their next turns, each to another iteration, so many draws are kept.
    """
    bits = np.zeros(n, bool)
    bits[generator(seed, 0, "shared", t).choice(n, count, replace=False)] = True
    return np.packbits(bits, bitorder="little").tobytes()
