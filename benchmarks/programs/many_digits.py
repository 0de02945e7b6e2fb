"""The digits several times over: enough for thousands of nodes."""

import numpy as np

from decentralizepy.datasets.digits import Digits


class ManyDigits(Digits):
    """The digits ``times`` over."""

    def __init__(
        self,
        *,
        times: int = 10,
        random_seed: int = 1234,
        partition_niid: str | bool = "simple",
        train_dir: str = "",
        test_dir: str = "",
    ) -> None:
        super().__init__(random_seed=random_seed, partition_niid=partition_niid)
        self.times = times

    def identity(self):
        return [*super().identity(), f"{self.times} times"]

    def build(self, progress):
        found = dict(super().build(progress))
        return found | {
            key: np.concatenate([found[key]] * self.times) for key in ("train_x", "train_y")
        }
