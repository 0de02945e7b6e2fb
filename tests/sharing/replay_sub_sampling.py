"""Random parts: the mask is what was sent, and the rest is dense."""

from __future__ import annotations

from functools import partial

import numpy as np
from replay_partial_model import arrived, drawn_to
from sharing_matrix import GRAPHS, Row, Rows, Step, World

from decentralizepy.sharing.sub_sampling import SubSampling


def geometric(rng: np.random.Generator, alpha: float) -> int:
    """How many trials until the first success: the least m with 1 - (1 - alpha)^m > u."""
    return int(np.floor(np.log(np.exp(-rng.standard_exponential())) / np.log(1 - alpha))) + 1


def gaps(world: World, alpha: float, t: int, k: int) -> Rows:
    """Ones [n, P] where the nodes' streams say so: gap after gap is drawn."""
    said = np.zeros((world.n, world.length))
    for uid in range(world.n):
        seed = int(world.context(uid, t, k).generator.integers(1 << 62))
        rng, at = np.random.Generator(np.random.PCG64(seed)), -1
        while (at := at + geometric(rng, alpha)) < world.length:
            said[uid, at] = 1
    return said


def sub_sampling(world: World, alpha: float) -> Step:
    """A part of each model, by the node's stream."""

    def step(rows: Rows, t: int, k: int) -> Rows:
        heard, said = arrived(world, rows, t, k), gaps(world, alpha, t, k)
        return rows + drawn_to(world.weights(t), rows, heard, said)

    return step


def everything(world: World) -> Step:
    """All of each model."""
    return lambda rows, t, k: world.gossip(rows, t, k)


ROWS = [
    Row(
        "SubSampling",
        partial(SubSampling, alpha=0.3),
        partial(sub_sampling, alpha=0.3),
        graphs=tuple(GRAPHS),
        keeps_mean=False,
    ),
    Row(
        "SubSampling above its cap",
        partial(SubSampling, alpha=0.3, metadata_cap=0.2),
        everything,
        graphs=("irregular",),
    ),
    Row("SubSampling of all", SubSampling, everything, steps=2, graphs=("irregular",)),
]
