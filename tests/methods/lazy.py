"""Lazy Metropolis weights (Olshevsky, SIAM J. Control Optim. 2017): a share stays at home."""

from decentralizepy import MixingRow, Sharing


class LazyMetropolis(Sharing):
    """W = stay I + (1 - stay) M, where M are the Metropolis-Hastings weights."""

    needs_symmetric = True

    def __init__(self, *, stay: float = 0.5) -> None:
        self.stay = stay

    def mixing(self, graph, uid):
        row = super().mixing(graph, uid)
        others = {j: (1 - self.stay) * weight for j, weight in row.weights.items()}
        return MixingRow(self.stay + (1 - self.stay) * row.self_weight, others)
