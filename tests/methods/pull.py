"""Asynchronous gossip by pulling: ask a random neighbour, who answers also while it trains."""

from decentralizepy import Ask, Checkpoint, Message, Node, Receive, Report, Train


class Pull(Node):
    asynchronous = True

    def answer(self, message):
        return Message({"params": self.x}, {"round": self.round})

    def program(self):
        for t in self.rounds():
            yield Train(t)
            peers = self.graph_at(t).in_neighbors(self.uid)
            peer = int(self.generator(t).choice(peers))
            yield Ask([peer], Message({}), (t, 0))
            (heard,) = yield Receive([peer], (t, 0))
            self.x = (self.x + heard["params"]) / 2
            yield Report(t, {"staleness": t - heard.meta["round"]})
            yield Checkpoint(t)
