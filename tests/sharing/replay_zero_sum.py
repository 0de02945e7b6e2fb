"""ZIP-DL over all nodes at once: said[v, i] = x_i + Z_iv, where the noises of i cancel by W."""

from __future__ import annotations

from functools import partial

import numpy as np
from sharing_matrix import GRAPHS, SEVERAL, Row, Rows, Step, World

from decentralizepy.sharing.zero_sum import ZeroSumSharing


def noises(world: World, i: int, t: int, std: float, own: bool, seed: int) -> Rows:
    """Z [n, P] by target: draws less their projection on the weights' column, so that w Z = 0."""
    column = world.weights(t)[:, i].copy()
    column[i] *= own or len(world.graph(t).out_neighbors(i)) == 1
    targets = np.flatnonzero(column)
    found = np.zeros((world.n, world.length))
    if not len(targets):
        return found
    ctx, w, q = world.context(i, t), column[targets], len(targets)
    draws = [world.normal(ctx.peer_generator(int(v)), seed) for v in targets]
    y = np.stack(draws) * std * np.sqrt(q / (q - 1))
    found[targets, : world.n_parameters] = y - np.outer(1 / (q * w), w @ y)
    return found


def zero_sum(world: World, std: float, own: bool = False, seed: int = 421) -> Step:
    """X_v <- sum_i W_vi (x_i + Z_iv)."""

    def step(rows: Rows, t: int, k: int) -> Rows:
        if not std or k:
            return world.gossip(rows, t, k)
        weights, graph, mine = world.weights(t), world.graph(t), rows.copy()
        out = np.zeros_like(rows)
        for i in range(world.n):
            alone = not graph.out_neighbors(i)
            z = 0 * rows if alone else noises(world, i, t, std, own, seed)
            mine[i] += z[i]
            for v in graph.out_neighbors(i):
                vector, mask = world.heard(rows[i] + z[v], t, k, i, v)
                out[v] += weights[v, i] * np.where(mask, vector, rows[v])
        return out + np.diag(weights)[:, None] * mine

    return step


NOISY = {"keeps_consensus": False, "compressors": True}
ROWS = [
    Row("ZeroSum", partial(ZeroSumSharing, noise_std=0.5), partial(zero_sum, std=0.5),
        graphs=SEVERAL, **NOISY),
    Row("ZeroSum self noise", partial(ZeroSumSharing, noise_std=0.5, self_noise=True),
        partial(zero_sum, std=0.5, own=True), graphs=tuple(GRAPHS), **NOISY),
    Row("ZeroSum other seed", partial(ZeroSumSharing, noise_std=0.5, sharing_seed=5),
        partial(zero_sum, std=0.5, seed=5), graphs=("ring",), **NOISY),
    Row("ZeroSum three rounds", partial(ZeroSumSharing, noise_std=0.5),
        partial(zero_sum, std=0.5), steps=3, graphs=("irregular",), **NOISY),
    Row("ZeroSum without noise", ZeroSumSharing, partial(zero_sum, std=0.0),
        graphs=("irregular", "star", "directed")),
]  # fmt: skip
