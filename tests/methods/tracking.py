"""Gradient tracking (DIGing; Nedic, Olshevsky & Shi, SIAM J. Optim. 2017)."""

import torch

from decentralizepy import Checkpoint, Gradient, Message, Node, Receive, Report, Send


class GradientTracking(Node):
    """x_i <- sum_j w_ij x_j - lr y_i;  y_i <- sum_j w_ij y_j + g_i(t + 1) - g_i(t)."""

    row_names = ("tracker", "gradient")

    def __init__(self, *, lr: float = 0.05) -> None:
        self.lr = lr

    def row(self, gradient):
        row = torch.zeros_like(self.x)
        row[: self.n_parameters] = gradient
        return row

    def program(self):
        for t in self.rounds():
            if t == 0:
                self.rows["gradient"] = self.row((yield Gradient(0)))
                self.rows["tracker"] = self.rows["gradient"]
            ctx = self.context(self.graph_at(t), t)
            said = Message({"x": self.x, "y": self.rows["tracker"]})
            yield Send([(ctx.receivers, said)], (t, 0))
            heard = yield Receive(ctx.sources, (t, 0))
            x, y = ctx.mixing.self_weight * self.x, ctx.mixing.self_weight * self.rows["tracker"]
            for message in heard:
                weight = ctx.mixing.weights[message.sender]
                x, y = x + weight * message["x"], y + weight * message["y"]
            self.x = x - self.lr * self.rows["tracker"]
            new = self.row((yield Gradient(t + 1)))
            self.rows["tracker"] = y + new - self.rows["gradient"]
            self.rows["gradient"] = new
            yield Report(t)
            yield Checkpoint(t)
