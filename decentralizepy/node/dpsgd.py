"""Decentralized parallel SGD (Lian et al., NeurIPS 2017), synchronous with the neighbours."""

from __future__ import annotations

from typing import ClassVar

from decentralizepy.node.effects import Average, Checkpoint, Receive, Report, Send, Train
from decentralizepy.node.node import Node, Program


class DPSGD(Node):
    """Train, then ``averaging_steps`` times: tell the neighbours, hear them, average."""

    #: every node sends once over each edge in each averaging round
    gossips: ClassVar[bool] = True
    averages_together: ClassVar[bool] = True
    #: seconds after which a round goes on without those that are late; None: it waits for all
    timeout: float | None = None

    def program(self) -> Program:
        for t in self.rounds():
            if self.takes_part(t):
                yield Train(t)
                for k in range(self.averaging_steps):
                    graph = self.graph_at(t, k)
                    if self.timeout is None and (yield Average(graph, (t, k))):
                        continue  # the engine did it for many nodes at once
                    ctx = self.context(graph, t, k)
                    yield Send(self.sharing.outgoing(self.x, ctx), (t, k))
                    heard = yield Receive(ctx.sources, (t, k), deadline=self.timeout)
                    self.x = self.sharing.merge(self.x, heard, ctx)
                    del heard  # whatever it holds is not needed until the next round
            yield Report(t)
            yield Checkpoint(t)
