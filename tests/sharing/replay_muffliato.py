"""Muffliato over all nodes at once: noise, then W, or W by the authors' recursion."""

from __future__ import annotations

from functools import partial

import numpy as np
from sharing_matrix import GRAPHS, Row, Rows, Step, World

from decentralizepy.sharing.muffliato import Muffliato


def noised(world: World, rows: Rows, t: int, std: float) -> Rows:
    z = [world.normal(world.context(i, t).generator, 421) for i in range(world.n)]
    out = rows.copy()
    out[:, : world.n_parameters] += std * np.stack(z)
    return out


def gamma(weights: Rows) -> float:
    """As the authors write it, with the second smallest eigenvalue of I - W."""
    gap = np.sort(np.linalg.eigvals(np.eye(len(weights)) - weights).real)[1]
    return 2 * (1 - np.sqrt(gap * (1 - gap / 4))) / (1 - gap / 2) ** 2


def muffliato(world: World, std: float) -> Step:
    def step(rows: Rows, t: int, k: int) -> Rows:
        return world.gossip(noised(world, rows, t, std) if k == 0 else rows, t, k)

    return step


def accelerated(world: World, std: float) -> Step:
    history: list[Rows] = []

    def step(rows: Rows, t: int, k: int) -> Rows:
        if k == 0:
            history[:] = [noised(world, rows, t, std)]
            history.append(world.gossip(history[0], t, k))
        else:
            g = gamma(world.weights(t))
            mixed = world.gossip(history[-1], t, k)
            history.append(g * mixed + (1 - g) * history[-2])
        return history[-1]

    return step


NOISY = {"keeps_mean": False, "keeps_consensus": False, "compressors": True}
ROWS = [
    Row("Muffliato", partial(Muffliato, noise_std=0.5), partial(muffliato, std=0.5),
        graphs=tuple(GRAPHS), **NOISY),
    Row("Muffliato four rounds", partial(Muffliato, noise_std=0.5), partial(muffliato, std=0.5),
        steps=4, graphs=("ring", "irregular", "changing"), **NOISY),
    Row("Muffliato without noise", Muffliato, partial(muffliato, std=0.0), steps=2,
        graphs=("irregular", "directed")),
    Row("Muffliato accelerated", partial(Muffliato, noise_std=0.5, accelerated=True),
        partial(accelerated, std=0.5), steps=5, **NOISY,
        graphs=("ring", "regular", "complete", "irregular", "star", "pair", "changing"),
        tolerance=1e-7),
    Row("Muffliato accelerated without noise", partial(Muffliato, accelerated=True),
        partial(accelerated, std=0.0), steps=5, graphs=("ring", "irregular"), tolerance=1e-7),
]  # fmt: skip
