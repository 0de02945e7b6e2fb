"""Epidemic learning, local (de Vos et al., NeurIPS 2023): random peers, and a time-out."""

from decentralizepy import ANY, Checkpoint, Forget, Message, Node, Receive, Report, Send, Train


class EpidemicLocal(Node):
    needs_graph = False

    def __init__(self, *, fanout: int = 3, patience: float = 0.5) -> None:
        self.fanout, self.patience = fanout, patience

    def program(self):
        for t in self.rounds():
            yield Train(t)
            others = [uid for uid in range(self.n) if uid != self.uid]
            peers = self.generator(t).choice(others, self.fanout, replace=False)
            yield Send([([int(uid) for uid in peers], Message({"params": self.x}))], (t, 0))
            heard = yield Receive(ANY, (t, 0), count=self.n, deadline=self.patience)
            total = self.x
            for message in heard:
                total = total + message["params"]
            self.x = total / (len(heard) + 1)
            yield Forget((t + 1, 0))
            yield Report(t, {"heard": len(heard)})
            yield Checkpoint(t)
