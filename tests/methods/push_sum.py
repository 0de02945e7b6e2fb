"""Asynchronous push-sum SGD (Kempe et al. 2003; Assran et al., ICML 2019)."""

from decentralizepy import ANY, Checkpoint, Drain, Message, Node, Receive, Report, Send, Train


class PushSum(Node):
    """The sums of all masses and of all weights change by local steps only; x = mass / weight."""

    asynchronous = True
    shares = packs = False  # it mixes by itself, over directed graphs too
    row_names, kept = ("mass",), ("weight",)

    def setup(self):
        self.rows["mass"], self.weight = self.x, 1.0

    def program(self):
        for t in self.rounds():
            before = self.x
            yield Train(t)
            self.rows["mass"] = self.rows["mass"] + self.weight * (self.x - before)
            peers = self.graph_at(t).out_neighbors(self.uid)
            self.rows["mass"] = self.rows["mass"] / (len(peers) + 1)
            self.weight /= len(peers) + 1
            said = Message({"mass": self.rows["mass"]}, {"weight": self.weight})
            yield Send([(peers, said)], (t, 0))
            if t + 1 == self.iterations:
                yield Drain()  # what is under way arrives
            self.take((yield Receive(ANY, ANY, deadline=0)))
            yield Report(t, {"weight": self.weight})
            yield Checkpoint(t)

    def take(self, heard):
        mass = self.rows["mass"]
        for message in heard:
            mass, self.weight = mass + message["mass"], self.weight + message.meta["weight"]
        self.rows["mass"] = mass
        self.x = mass / self.weight
