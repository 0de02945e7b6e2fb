"""Plain gossip: what all other methods are measured against."""

from __future__ import annotations

import numpy as np
from sharing_matrix import GRAPHS, Row, Rows, Step, World

from decentralizepy.sharing.plain_average import PlainAverageSharing
from decentralizepy.sharing.sharing import Sharing


def weighted(world: World) -> Step:
    """X <- W X."""
    return lambda rows, t, k: world.gossip(rows, t, k)


def plain(world: World) -> Step:
    """The mean of the neighbourhood, the node included."""

    def step(rows: Rows, t: int, k: int) -> Rows:
        closed = world.graph(t).adjacency() + np.eye(world.n)
        return closed @ rows / closed.sum(axis=1, keepdims=True)

    return step


ROWS = [
    Row("Sharing", Sharing, weighted, graphs=tuple(GRAPHS), compressors=True),
    Row("Sharing twice", Sharing, weighted, steps=2, graphs=("irregular", "changing")),
    Row(
        "PlainAverageSharing",
        PlainAverageSharing,
        plain,
        graphs=tuple(GRAPHS),
        keeps_mean=False,
    ),
]
