"""Data sets whose samples belong to users, who are dealt to the nodes, whole."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from decentralizepy.datasets.base import Dataset
from decentralizepy.datasets.partitioners import Indices, check_sizes, equal_sizes, iid


class ByUser(Dataset):
    """The users of the training part are shuffled with `random_seed` and dealt to the nodes.

    `sizes` are fractions of the users, one per node (None: equal). With one user per file that is
    the reference's partition. `build` returns `train_starts` too, int64 [users + 1]: where each
    user's samples begin, and the end.
    """

    more_arrays: ClassVar[tuple[str, ...]] = ("train_starts",)

    def __init__(
        self,
        *,
        train_dir: str = "",
        test_dir: str = "",
        random_seed: int = 1234,
        sizes: list[float] | None = None,
        test_batch_size: int = 64,
        validation_source: str = "",
        validation_size: float = 0.0,
    ) -> None:
        super().__init__(
            random_seed=random_seed,
            sizes=sizes,
            test_batch_size=test_batch_size,
            train_dir=train_dir,
            test_dir=test_dir,
            validation_source=validation_source,
            validation_size=validation_size,
        )

    def partition(self, n: int) -> list[Indices]:
        """For each uid in 0 .. n-1, the int64 indices of its samples in `train()`.

        Raises ValueError when there are fewer users than nodes, or a node would get no sample.
        """
        starts = self._array("train_starts")
        shares = self._shares_of(n, len(starts) - 1)
        parts = of_users(starts, shares, self.select("train").indices)
        for uid, part in enumerate(parts):
            if not len(part):
                raise ValueError(f"node {uid} would get no training sample; use fewer nodes")
        return parts

    def _shares_of(self, n: int, count: int) -> list[Indices]:
        """The users of each node."""
        return iid(count, self._fractions(n, count), self.random_seed)

    def _fractions(self, n: int, count: int) -> list[float]:
        """The share of the users that each node gets; raises ValueError for too few users."""
        self._check_users(n, count)
        fractions = equal_sizes(count, n) if self.sizes is None else list(self.sizes)
        check_sizes(fractions, count, n)
        return fractions

    def _check_users(self, n: int, count: int) -> None:
        if not 1 <= n <= count:
            raise ValueError(f"{n} nodes but {count} users of {self.name}; use fewer nodes")


def of_users(starts: np.ndarray, shares: list[Indices], kept: Indices | None) -> list[Indices]:
    """For each of `shares` (users), the samples that they have, of those in `kept` (None: all)."""
    keep = np.full(int(starts[-1]), kept is None)
    if kept is not None:
        keep[kept] = True
    parts = []
    for users in shares:
        runs = [np.arange(starts[k], starts[k + 1]) for k in users]
        whole = np.concatenate([np.zeros(0, np.int64), *runs])
        parts.append(whole[keep[whole]])
    return parts
