"""A node's place on a worker: its program, its rows, its mailbox, what is counted for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from decentralizepy.engine.mailbox import Mailbox, Parcel
from decentralizepy.engine.report import Seconds
from decentralizepy.errors import RunError
from decentralizepy.memory.rows import RowPool
from decentralizepy.node.effects import Receive
from decentralizepy.node.node import Node, Program
from decentralizepy.training.trainer import Learner
from decentralizepy.transport.router import Traffic


@dataclass(eq=False)
class Seat:
    """A node on this worker, with all that the runtime keeps for it.

    ``row`` and ``spare`` are numbers of rows of the worker's pool: the node's own, and one that it
    merges into. ``heard`` is what its program was told last and may still be reading.
    """

    node: Node
    learner: Learner
    row: int
    program: Program
    mailbox: Mailbox = field(default_factory=Mailbox)
    spare: int | None = None
    waiting: Receive | None = None
    waiting_since: float = 0.0
    ended: bool = False
    heard: list[Parcel] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    seconds: Seconds = field(default_factory=Seconds)
    lost: bool = False

    @property
    def uid(self) -> int:
        return self.node.uid

    def consume(self) -> None:
        """The program has gone past what it heard: let go the rows behind it."""
        for parcel in self.heard:
            parcel.let_go()
        self.heard = []

    def drop_mail(self) -> None:
        """Let go what nobody is going to read."""
        for parcel in self.mailbox.drain():
            parcel.let_go()

    def adopt(self, pool: RowPool) -> None:
        """Make the row that the program set its own: the spare one, or a copy into it."""
        if self.heard:
            self.consume()
        x = self.node.x
        if x is pool.tensor(self.row):
            return
        if not self.lend_spare(pool) or self.spare is None:
            raise RunError(f"no free row for node {self.uid}")
        spare = pool.tensor(self.spare)
        if x is not spare:
            spare.copy_(x)
        pool.retire(self.row)
        self.row, self.spare, self.node.spare = self.spare, None, None
        self.node.x = spare

    def lend_spare(self, pool: RowPool) -> bool:
        """Lend the node a row to merge into, if it has none; False if none is free."""
        if self.spare is None:
            self.spare = pool.acquire()
            if self.spare is None:
                return False
            self.node.spare = pool.tensor(self.spare)
        return True

    def thaw(self, pool: RowPool) -> bool:
        """Give the node a row that it may write if its own is still being read; False if none is
        free."""
        if not pool.read(self.row):
            return True
        row = pool.acquire()
        if row is None:
            return False
        pool.tensor(row).copy_(self.node.x)
        pool.retire(self.row)
        self.row, self.node.x = row, pool.tensor(row)
        return True

    def give_back(self, pool: RowPool) -> None:
        """The node has left for good: its rows are free."""
        pool.retire(self.row)
        if self.spare is not None:
            pool.retire(self.spare)
