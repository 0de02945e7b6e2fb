"""How much a node trains between two exchanges, and on which of its samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from decentralizepy.errors import ConfigError
from decentralizepy.pernode import PerNode, smallest, value_of
from decentralizepy.streams import generator

if TYPE_CHECKING:  # torch is not loaded to check an INI
    from decentralizepy.training.step import LocalStep

#: samples that a node may train on in one iteration
MOST_SAMPLES: Final = 1 << 25


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

    ``rounds`` and ``batch_size`` are one number for all nodes or one for each. A node with fewer
    samples than a batch trains on all that it has in every batch.

    ``stacked``: ``auto`` trains small fully connected models of many nodes at once, and on a GPU
    most others; ``no`` trains one after the other; ``yes`` refuses a model that is no chain of
    linear layers, ``vmap`` one that ``torch.func`` can't map over nodes.

    ``clipping_norm``: each mini-batch's gradient is scaled down to at most this l2 norm. That
    bounds no single sample's share, so it promises no differential privacy.

    ``on_nan``: ``stop`` ends the run when a node's parameters are not finite after its local
    training, ``continue`` records the iteration and goes on.

    A subclass may take local steps of its own by `gradient`, and samples of its own by `draw`.
    """

    reference_name: ClassVar[str] = "decentralizepy.training.Training"

    def __init__(
        self,
        *,
        rounds: int | PerNode = 1,
        full_epochs: bool = False,
        batch_size: int | PerNode = 1,
        shuffle: bool = False,
        stacked: str = "auto",
        clipping_norm: float | None = None,
        on_nan: str = "stop",
    ) -> None:
        if smallest(rounds) < 0 or smallest(batch_size) < 1:
            raise ConfigError("[TRAIN_PARAMS] rounds must be >= 0 and batch_size >= 1")
        if stacked not in {"auto", "yes", "no", "vmap"}:
            raise ConfigError(f"[TRAIN_PARAMS] stacked = {stacked}: auto, yes, no or vmap")
        if clipping_norm is not None and not clipping_norm > 0:
            raise ConfigError(f"[TRAIN_PARAMS] clipping_norm = {clipping_norm} must be above 0")
        if on_nan not in {"stop", "continue"}:
            raise ConfigError(f"[TRAIN_PARAMS] on_nan = {on_nan}: stop or continue")
        self.clipping_norm, self.on_nan = clipping_norm, on_nan
        self.rounds, self.full_epochs = rounds, full_epochs
        self.batch_size, self.shuffle, self.stacked = batch_size, shuffle, stacked

    def gradient(self, step: LocalStep) -> None:
        """Leave the gradient of one local step in ``step.grad``, which is zero at first."""
        step.backward()
        if self.clipping_norm is not None:
            step.clip(self.clipping_norm)

    def draw(self, n: int, seed: int, uid: int, t: int, steps: int | None = None) -> Draw:
        """The samples that node ``uid`` with ``n`` samples trains on in iteration ``t``.

        ``steps`` is a number of mini-batches other than that of `steps`; 0 samples give none.
        """
        if not n:
            return Draw(np.zeros(0, dtype=np.int64), [])
        batch = value_of(self.batch_size, uid)
        per_epoch, steps = -(-n // batch), self.steps(n, uid) if steps is None else steps
        if not self.shuffle:
            first = 0 if self.full_epochs else t * steps
            return self._in_order(n, batch, first, steps)
        rng = generator(seed, uid, "batches", t)
        if steps * batch <= n:  # a part of one epoch: no need to permute all; see also `ahead`
            order = rng.choice(n, steps * batch, replace=False)
            return Draw(order, [batch] * steps)
        epochs = -(-steps // per_epoch)
        sizes = self._sizes(n, batch, 0, steps)
        order = np.concatenate([rng.permutation(n) for _ in range(epochs)])
        return Draw(order[: sum(sizes)], sizes)

    def steps(self, n: int, uid: int) -> int:
        """Local steps of an iteration of node ``uid`` with ``n`` samples."""
        if not n:
            return 0
        per_epoch = -(-n // value_of(self.batch_size, uid)) if self.full_epochs else 1
        return value_of(self.rounds, uid) * per_epoch

    def sizes(self, n: int, uid: int, steps: int) -> list[int]:
        """Sizes of ``steps`` batches from the beginning of an epoch, as shuffled ones are."""
        return self._sizes(n, value_of(self.batch_size, uid), 0, steps)

    def weight(self, size: int, total: int, steps: int) -> float:
        """The share of one of ``steps`` mini-batches in a mean gradient over ``total`` samples."""
        return size / total

    def columns(self, n: int, uid: int, gradients: int) -> dict[str, float]:
        """Columns of node ``uid``'s records, after ``gradients`` mini-batches of ``n`` samples."""
        return {}

    def check(self, n: int, uid: int) -> None:
        """Raise `ConfigError` for more samples an iteration than can have been meant.

        The order of an iteration's samples is drawn at once, so that they bound its memory too.
        """
        wanted = self.steps(n, uid) * min(value_of(self.batch_size, uid), n)
        if wanted > MOST_SAMPLES:
            raise ConfigError(
                f"[TRAIN_PARAMS] rounds = {value_of(self.rounds, uid)!s:.40}: node {uid} would "
                f"train on {wanted!s:.40} samples between two exchanges, more than "
                f"{MOST_SAMPLES}: lower rounds, and take more iterations"
            )

    def remark(self, n: int, uid: int) -> str:
        """What the log of node ``uid`` with ``n`` samples should say at the start, or nothing."""
        batch = value_of(self.batch_size, uid)
        if n >= batch or not n:
            return ""
        return f"{n} samples are fewer than batch_size = {batch}: every batch holds all of them"

    def _in_order(self, n: int, batch: int, first: int, steps: int) -> Draw:
        sizes = self._sizes(n, batch, first, steps)
        start = first % -(-n // batch) * batch
        return Draw((start + np.arange(sum(sizes))) % n, sizes)

    def _sizes(self, n: int, batch: int, first: int, steps: int) -> list[int]:
        """Sizes of the batches numbered from ``first``; an epoch's last one may be smaller."""
        per_epoch = -(-n // batch)
        last = n - (per_epoch - 1) * batch
        return [last if (first + i) % per_epoch == per_epoch - 1 else batch for i in range(steps)]


def is_own(training: Training, *methods: str) -> bool:
    """Whether the class, or the object itself, does one of these otherwise than `Training`."""
    kind = type(training)
    return any(
        name in vars(training) or getattr(kind, name) is not getattr(Training, name)
        for name in methods
    )
