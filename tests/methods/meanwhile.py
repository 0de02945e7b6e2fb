"""Gossip while training: each node averages the rows of before, and adds its own step."""

from decentralizepy import Checkpoint, Message, Node, Receive, Report, Send, Train


class Meanwhile(Node):
    """One program trains; the other gossips with the row that the first has handed to it."""

    def programs(self):
        return [self.program(), self.gossip()]

    def program(self):
        for t in self.rounds():
            before = self.x
            yield Send([([self.uid], Message({"x": before}))], (t, 1))
            yield Train(t)
            (mean,) = yield Receive([self.uid], (t, 2))
            self.x = mean["x"] + (self.x - before)
            yield Report(t)
            yield Checkpoint(t)

    def gossip(self):
        for t in range(self.round, self.iterations):
            (own,) = yield Receive([self.uid], (t, 1))
            ctx = self.context(self.graph_at(t), t)
            yield Send(self.sharing.outgoing(own["x"], ctx), (t, 0))
            heard = yield Receive(ctx.sources, (t, 0))
            mean = self.sharing.merge(own["x"], heard, ctx)
            yield Send([([self.uid], Message({"x": mean}))], (t, 2))
