"""Asynchronous gossip by pushing (Ormandi, Hegedus & Jelasity, CCPE 2013)."""

from __future__ import annotations

from decentralizepy.node.bounded import Bounded, oldest
from decentralizepy.node.effects import Checkpoint, Report, Send, Train
from decentralizepy.node.mail import Mail
from decentralizepy.node.node import Program


class AsyncPush(Bounded):
    """x_i <- (x_i + sum_j x_j) / (m + 1) over the newest of each of the m senders who came.

    Nothing keeps the mean of all models: who speaks more often weighs more.
    """

    def setup(self) -> None:
        """Only the newest counts: without a bound nothing else is kept."""
        if self.staleness is None:
            self.mail = Mail(newest=1)

    def program(self) -> Program:
        for t in self.rounds():
            yield Train(t)
            peers = self.graph_at(t).out_neighbors(self.uid)
            yield Send([(peers, self.sharing.pack(self.x, self.apart(t)))], (t, 0))
            heard = yield from self.hear(t)
            newest = {message.sender: message for message in heard}  # of each the last one
            x = self.x.clone()
            for message in newest.values():
                x += self.unpacked(message)
            self.x = x / (len(newest) + 1)
            yield Report(t, {"heard": len(newest), "stale": oldest(heard, t)})
            yield Checkpoint(t)
