"""A server with many clients that train nothing, and a model of few parameters."""

from torch import nn

from decentralizepy import Checkpoint, Message, Node, Receive, Report, Send


class Averaging(Node):
    """Federated averaging of all clients, without training: what is left is bookkeeping."""

    servers = 1
    needs_graph = False

    def program(self):
        clients = range(self.n)
        for t in self.rounds():
            if self.is_server:
                yield Send([(clients, Message({"params": self.x}))], (t, 0))
                heard = yield Receive(clients, (t, 1))
                total = sum(message.meta["samples"] for message in heard)
                self.x = sum(m["params"] * (m.meta["samples"] / total) for m in heard)
            else:
                (said,) = yield Receive([-1], (t, 0))
                self.x = said["params"]
                reply = Message({"params": self.x}, {"samples": self.n_samples})
                yield Send([([-1], reply)], (t, 1))
            yield Report(t)
            yield Checkpoint(t)


class Gathering(Node):
    """The server hears all clients, and says one word to all of them."""

    servers = 1
    needs_graph = False

    def program(self):
        clients = range(self.n)
        for t in self.rounds():
            if self.is_server:
                yield Receive(clients, (t, 0))
                yield Send([(clients, Message({}))], (t, 1))
            else:
                yield Send([([-1], Message({"params": self.x}))], (t, 0))
                yield Receive([-1], (t, 1))
            yield Report(t)
            yield Checkpoint(t)


class Tiny(nn.Module):
    """20 parameters, for the digits."""

    eval_batch = 512

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(1, 10)

    def forward(self, x):
        """Logits [B, 10]."""
        return self.last(x.flatten(1).mean(1, keepdim=True))
