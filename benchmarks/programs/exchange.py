"""Nodes of two workers that send each other messages, and a model of a million parameters."""

import torch
from torch import nn

from decentralizepy import Checkpoint, Message, Node, Receive, Report, Send


class Exchange(Node):
    """Node i and node i + n/2 send each other the same message in every iteration.

    ``what`` is a row, a row with meta, or values and int32 indices of a ``share`` of it.
    """

    needs_graph = False

    def __init__(self, *, what: str = "row", share: float = 0.01) -> None:
        self.what, self.share = what, share

    def setup(self):
        count = round(self.share * self.n_parameters)
        drawn = torch.from_numpy(self.generator(0).choice(self.n_parameters, count, replace=False))
        self.indices = drawn.sort().values.int()
        self.values = self.x[drawn].clone()

    def message(self):
        if self.what == "sparse":
            return Message({"values": self.values, "indices": self.indices})
        return Message({"params": self.x}, {"samples": 17} if self.what == "row and meta" else None)

    def program(self):
        mate = (self.uid + self.n // 2) % self.n
        for t in self.rounds():
            yield Send([([mate], self.message())], (t, 0))
            yield Receive([mate], (t, 0))
            yield Report(t)
            yield Checkpoint(t)


class Million(nn.Module):
    """999,985 parameters, for the digits."""

    eval_batch = 512

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 13_333), nn.ReLU(), nn.Linear(13_333, 10)
        )

    def forward(self, x):
        """Logits [B, 10]."""
        return self.layers(x)
