"""CHOCO-SGD (Koloskova, Stich & Jaggi, ICML 2019) with top-k, over a static graph."""

import torch

from decentralizepy import Message, Sharing


class Choco(Sharing):
    """x_i += gamma * sum_j w_ij (h_j - h_i), where all keep the estimates h and send updates."""

    kept = ("own", "others")

    def __init__(self, *, gamma: float = 0.5, alpha: float = 0.1) -> None:
        self.gamma, self.alpha = gamma, alpha
        self.own = self.others = torch.zeros(1)

    def outgoing(self, x, ctx):
        difference = x - self.own
        indices = difference.abs().topk(max(1, int(self.alpha * len(x)))).indices
        values = difference[indices]
        self.own = self.own.expand(x.shape).index_add(0, indices, values)
        yield ctx.receivers, Message({"values": values, "indices": indices.to(torch.int32)})

    def merge(self, x, heard, ctx):
        self.others = self.others.expand(x.shape).clone()
        for message in heard:
            weighted = ctx.mixing.weights[message.sender] * message["values"]
            self.others.index_add_(0, message["indices"], weighted)
        return x + self.gamma * (self.others - sum(ctx.mixing.weights.values()) * self.own)
