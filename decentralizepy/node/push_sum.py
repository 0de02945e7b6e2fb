"""Asynchronous stochastic gradient push (Assran et al., ICML 2019; Kempe et al., FOCS 2003)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from decentralizepy.messages.message import Message
from decentralizepy.node.bounded import Bounded, oldest
from decentralizepy.node.effects import ANY, Checkpoint, Drain, Receive, Report, Send, Train
from decentralizepy.node.node import Program


class PushSum(Bounded):
    """A node has a mass and a weight, keeps a share of both and sends the others equal shares;
    its model is x = mass / weight.

    Any directed graph that is connected over time will do, however late messages are: the sum of
    all weights, under way or not, is n, and the sum of all masses changes by local steps only. A
    local step s of x adds weight * s to the mass, so that x moves by s (the paper adds s, which is
    the same while weights are 1, and a large step of x where a weight is small).
    """

    packs: ClassVar[bool] = False
    row_names: ClassVar[tuple[str, ...]] = ("mass",)
    kept: ClassVar[tuple[str, ...]] = ("early", "weight")

    def setup(self) -> None:
        """Everybody begins with weight 1."""
        self.rows["mass"], self.weight = self.x, 1.0

    def program(self) -> Program:
        for t in self.rounds():
            before = self.x
            yield Train(t)
            peers = self.graph_at(t).out_neighbors(self.uid)
            share = 1 / (len(peers) + 1)
            mass = self.rows["mass"] + self.weight * (self.x - before)
            self.rows["mass"], self.weight = mass * share, self.weight * share
            said = Message({"mass": self.rows["mass"]}, {"weight": self.weight})
            yield Send([(peers, said)], (t, 0))
            heard = yield from self.hear(t)
            stale = oldest(heard, t)
            if t + 1 == self.iterations:
                yield Drain()  # what is under way arrives
                heard += yield Receive(ANY, ANY, deadline=0)
            self._take(heard)
            yield Report(t, {"weight": self.weight, "stale": stale})
            yield Checkpoint(t)

    def _take(self, heard: Sequence[Message]) -> None:
        mass = self.rows["mass"].clone()
        for message in heard:
            mass += message["mass"].to(mass.device)
            self.weight += message.meta["weight"]
        self.rows["mass"] = mass
        self.x = mass / self.weight
