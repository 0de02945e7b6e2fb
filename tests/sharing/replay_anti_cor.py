"""AntiCor over all nodes at once: W (X + z_t - z_{t-1})."""

from __future__ import annotations

from functools import partial

from replay_muffliato import noised
from sharing_matrix import GRAPHS, Row, Rows, Step, World

from decentralizepy.sharing.anti_cor import AntiCorSharing


def anti_cor(world: World, std: float) -> Step:
    def step(rows: Rows, t: int, k: int) -> Rows:
        if k == 0:
            rows = noised(world, rows, t, std)
            rows = noised(world, rows, t - 1, -std) if t else rows
        return world.gossip(rows, t, k)

    return step


NOISY = {"keeps_mean": False, "keeps_consensus": False, "compressors": True}
ROWS = [
    Row("AntiCor", partial(AntiCorSharing, noise_std=0.5), partial(anti_cor, std=0.5),
        graphs=tuple(GRAPHS), **NOISY),
    Row("AntiCor two rounds", partial(AntiCorSharing, noise_std=0.5), partial(anti_cor, std=0.5),
        steps=2, graphs=("irregular",), **NOISY),
]  # fmt: skip
