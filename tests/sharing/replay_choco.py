"""CHOCO as the paper writes it where the graph is static, and with a reference for each edge."""

from __future__ import annotations

from functools import partial

import numpy as np
from replay_partial_model import arrived, mask
from sharing_matrix import Row, Rows, Step, World

from decentralizepy.sharing.choco import Choco

STATIC = ("ring", "regular", "complete", "irregular", "star", "pair", "isolated")


def top(rows: Rows, alpha: float) -> Rows:
    """Each row [P], zero but for its largest."""
    counts = [round(alpha * rows.shape[1])] * len(rows)
    return rows * mask(np.abs(rows), counts)


def static(world: World, alpha: float, gamma: float) -> Step:
    """Algorithm 2: every node keeps its own estimate, and the weighted sum of its neighbours'."""
    estimates = sums = 0.0

    def step(rows: Rows, t: int, k: int) -> Rows:
        nonlocal estimates, sums
        said = arrived(world, top(rows - estimates, alpha), t, k)
        estimates, sums = estimates + said, sums + world.weights(t) @ said
        return rows + gamma * (sums - estimates)

    return step


def by_edge(world: World, alpha: float, gamma: float) -> Step:
    """An estimate of each node at each other one, changed while there is an edge."""
    known = np.zeros((world.n, world.n, world.length))

    def step(rows: Rows, t: int, k: int) -> Rows:
        weights, after = world.weights(t), rows.copy()
        edges = world.graph(t).edges
        for i, j in edges:
            said = top((rows[i] - known[i, j])[None], alpha)
            known[i, j] += world.heard(said[0], t, k, i)[0]
        for i, j in edges:
            after[j] += gamma * weights[j, i] * (known[i, j] - known[j, i])
        return after

    return step


ROWS = [
    Row(
        "Choco",
        partial(Choco, step_size=0.6, alpha=0.2),
        partial(static, alpha=0.2, gamma=0.6),
        graphs=STATIC,
        keeps_consensus=False,
    ),
    Row(
        "Choco by edge",
        partial(Choco, step_size=0.6, alpha=0.2),
        partial(by_edge, alpha=0.2, gamma=0.6),
        graphs=("irregular", "changing"),
        keeps_consensus=False,
    ),
    Row(
        "Choco of all",
        partial(Choco, step_size=1.0, alpha=1.0),
        partial(by_edge, alpha=1.0, gamma=1.0),
        steps=2,
        graphs=("irregular", "changing"),
    ),
]
