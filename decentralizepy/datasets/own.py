"""What data sets of one's own have in common: any task, dealt by label, in order or by user."""

from __future__ import annotations

from typing import Any

import numpy as np

from decentralizepy.datasets.base import Dataset, Normalization
from decentralizepy.datasets.by_user import ByUser
from decentralizepy.datasets.leaf import starts
from decentralizepy.datasets.partitioners import Indices


class OwnData(ByUser):
    """Data of any kind. `task` is what is learned: classification, language or rating.

    With `by_user` the samples of a user stay together, and the users are dealt (`ByUser`); else
    samples are dealt by `partition_niid`, as those of CIFAR-10. Models see bytes and floating
    numbers as x * `scale` + `shift`.
    """

    def __init__(
        self,
        *,
        task: str = "classification",
        by_user: bool = False,
        partition_niid: str | bool = "simple",
        alpha: float = 100.0,
        shards: int = 1,
        scale: float = 1.0,
        shift: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.normalization = Normalization(scale, shift)  # type: ignore[misc]  # nor is this
        self.task = task  # type: ignore[misc]  # of the class, where it says so
        self.by_user = by_user
        self.partition_niid, self.alpha, self.shards = partition_niid, alpha, shards
        self._check()

    def fetch(self, progress: Any) -> None:
        """Nothing is downloaded: says which option is missing."""
        if not self.train_dir:
            raise ValueError(f"{type(self).__name__}: set train_dir to the folder of the data")

    def partition(self, n: int) -> list[Indices]:
        """For each uid in 0 .. n-1, the int64 indices of its samples in `train()`."""
        return super().partition(n) if self.by_user else Dataset.partition(self, n)

    def _grouped(
        self, x: np.ndarray, y: np.ndarray, users: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """The training part; with `by_user`, the samples of each user one after the other."""
        if not self.by_user:
            return {"train_x": x, "train_y": y, "train_starts": starts([])}
        if users is None or len(users) != len(y):
            raise ValueError("by_user: there is no user for each training sample")
        _, numbers = np.unique(users, return_inverse=True)
        order = np.argsort(numbers, kind="stable")
        lengths = np.bincount(numbers).tolist()
        return {"train_x": x[order], "train_y": y[order], "train_starts": starts(lengths)}
