"""One-peer exponential graphs (Assran et al., ICML 2019): one receiver a round, in turn."""

from decentralizepy import Graph, Schedule


class OnePeer(Schedule):
    """In iteration t node i sends to node i + 2^(t mod p), with p = ceil(log2 n)."""

    out_degree = 1

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.period = max(1, (n - 1).bit_length())

    def key(self, t, k):
        return t % self.period, 0  # the averaging rounds of an iteration share a graph

    def draw(self, t, k):
        return Graph(self.n, [(i, (i + 2**t) % self.n) for i in range(self.n)])
