"""Federated averaging (McMahan et al., AISTATS 2017): server -1 and sampled clients."""

from functools import lru_cache

from decentralizepy import Checkpoint, Message, Node, Receive, Report, Send, Train
from decentralizepy.streams import generator


@lru_cache(maxsize=1024)  # clients run ahead to their next turns
def drawn(seed, n, t, count):
    """The clients of an iteration; one draw for all nodes of a worker, each of which asks."""
    return frozenset(generator(seed, 0, "shared", t).choice(n, count, replace=False).tolist())


class FedAvg(Node):
    servers = 1
    needs_graph = False

    def __init__(self, *, fraction: float = 0.5) -> None:
        self.fraction = fraction

    def program(self):
        for t in self.rounds():
            clients = drawn(self.seed, self.n, t, max(1, round(self.fraction * self.n)))
            if self.is_server:
                clients = sorted(clients)
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
