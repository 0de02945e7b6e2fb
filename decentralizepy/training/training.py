"""How much a node trains between two exchanges, and on which of its samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from decentralizepy.errors import ConfigError
from decentralizepy.streams import generator


@dataclass(frozen=True)
class Draw:
    """The samples of one iteration: ``order`` [sum of sizes] int64, cut into batches of ``sizes``.

    Entries of ``order`` number the node's own samples, 0 to n - 1.
    """

    order: np.ndarray
    sizes: list[int]


class Training:
    """Local training of one iteration, as the reference's ``Training``.

    ``rounds`` mini-batches of ``batch_size`` samples, or ``rounds`` whole epochs with
    ``full_epochs``. With ``shuffle`` every iteration (every epoch) is a fresh permutation; without,
    batches follow each other through the node's samples, going on where the last iteration ended.

    ``stacked``: ``auto`` trains small fully connected models of many nodes at once, ``no`` one
    after the other, ``yes`` refuses a model that can't be stacked.
    """

    def __init__(
        self,
        *,
        rounds: int = 1,
        full_epochs: bool = False,
        batch_size: int = 1,
        shuffle: bool = False,
        stacked: str = "auto",
    ) -> None:
        if rounds < 0 or batch_size < 1:
            raise ConfigError("[TRAIN_PARAMS] rounds must be >= 0 and batch_size >= 1")
        if stacked not in {"auto", "yes", "no"}:
            raise ConfigError(f"[TRAIN_PARAMS] stacked = {stacked}: auto, yes or no")
        self.rounds, self.full_epochs = rounds, full_epochs
        self.batch_size, self.shuffle, self.stacked = batch_size, shuffle, stacked

    def draw(self, n: int, seed: int, uid: int, t: int) -> Draw:
        """The samples that node ``uid`` with ``n`` samples trains on in iteration ``t``."""
        per_epoch = -(-n // self.batch_size)
        steps = self.rounds * (per_epoch if self.full_epochs else 1)
        if not self.shuffle:
            first = 0 if self.full_epochs else t * steps
            return self._in_order(n, first, steps, per_epoch)
        rng = generator(seed, uid, "batches", t)
        if steps * self.batch_size <= n:  # a part of one epoch: no need to permute all
            order = rng.choice(n, steps * self.batch_size, replace=False)
            return Draw(order, [self.batch_size] * steps)
        epochs = -(-steps // per_epoch)
        sizes = self._sizes(n, per_epoch, 0, steps)
        order = np.concatenate([rng.permutation(n) for _ in range(epochs)])
        return Draw(order[: sum(sizes)], sizes)

    def _in_order(self, n: int, first: int, steps: int, per_epoch: int) -> Draw:
        sizes = self._sizes(n, per_epoch, first, steps)
        start = first % per_epoch * self.batch_size
        return Draw((start + np.arange(sum(sizes))) % n, sizes)

    def _sizes(self, n: int, per_epoch: int, first: int, steps: int) -> list[int]:
        """Sizes of the batches numbered from ``first``; an epoch's last one may be smaller."""
        last = n - (per_epoch - 1) * self.batch_size
        return [
            last if (first + i) % per_epoch == per_epoch - 1 else self.batch_size
            for i in range(steps)
        ]
