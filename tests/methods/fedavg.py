"""Federated averaging (McMahan et al., AISTATS 2017): server -1 and sampled clients."""

from decentralizepy import Checkpoint, Message, Node, Receive, Report, Send, Train


class FedAvg(Node):
    servers = 1
    needs_graph = False

    def __init__(self, *, fraction: float = 0.5) -> None:
        self.fraction = fraction

    def clients(self, t):
        rng = self.shared_generator(t)  # the same on all nodes
        return sorted(rng.choice(self.n, max(1, round(self.fraction * self.n)), replace=False))

    def program(self):
        for t in self.rounds():
            clients = [int(uid) for uid in self.clients(t)]
            if self.is_server:
                yield Send([(clients, Message({"params": self.x}))], (t, 0))
                heard = yield Receive(clients, (t, 1))
                total = sum(message.meta["samples"] for message in heard)
                self.x = sum(m["params"] * (m.meta["samples"] / total) for m in heard)
            elif self.uid in clients:
                (said,) = yield Receive([-1], (t, 0))
                self.x = said["params"]
                yield Train(t)
                reply = Message({"params": self.x}, {"samples": self.n_samples})
                yield Send([([-1], reply)], (t, 1))
            yield Report(t)
            yield Checkpoint(t)
