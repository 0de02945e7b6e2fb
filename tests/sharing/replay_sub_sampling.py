"""Random parts: the mask is what was sent, and the rest is dense."""

from __future__ import annotations

from functools import partial

import numpy as np
from replay_partial_model import filled
from sharing_matrix import GRAPHS, Row, Rows, Step, World

from decentralizepy.sharing.sub_sampling import SubSampling


def gaps(world: World, alpha: float, t: int, k: int) -> Rows:
    """Ones [n, P] where the nodes' streams say so: gap after gap is drawn."""
    said = np.zeros((world.n, world.length))
    for uid in range(world.n):
        seed = int(world.context(uid, t, k).generator.integers(1 << 62))
        rng, at = np.random.Generator(np.random.PCG64(seed)), -1
        while (at := at + int(rng.geometric(alpha))) < world.length:
            said[uid, at] = 1
    return said


def sub_sampling(world: World, alpha: float) -> Step:
    """A part of each model, by the node's stream."""
    return lambda rows, t, k: filled(world.weights(t), rows, gaps(world, alpha, t, k))


def everything(world: World) -> Step:
    """All of each model."""
    return lambda rows, t, k: world.weights(t) @ rows


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
