"""ZIP-DL: noise that differs per neighbour and cancels in the mean of the network."""

import torch

from decentralizepy import Message, Sharing


class ZipDL(Sharing):
    """Node i sends x_i + n_ij to j; w_ii n_ii + sum_j w_ji n_ij = 0, so that nothing is added."""

    def __init__(self, *, noise: float = 0.1) -> None:
        self.noise = noise

    def draw(self, x, ctx, peer):
        seed = int(ctx.peer_generator(peer).integers(1 << 62))
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) * self.noise

    def outgoing(self, x, ctx):
        weights, mean = ctx.mixing.weights, torch.zeros_like(x)
        for peer in ctx.receivers:  # Metropolis-Hastings weights are symmetric
            mean.add_(self.draw(x, ctx, peer), alpha=weights[peer])
        mean /= sum(weights[peer] for peer in ctx.receivers)
        for peer in ctx.receivers:

            def noisy(peer=peer):
                return {"params": x + self.draw(x, ctx, peer) - mean}

            yield [peer], Message.deferred(noisy, like={"params": x})
