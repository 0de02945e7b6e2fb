"""A table of one's own, dealt by user, and a network with an option."""

from pathlib import Path

import numpy as np
from torch import nn

from decentralizepy.datasets.by_user import ByUser
from decentralizepy.datasets.prepare import describe


class Sensors(ByUser):
    """Lines of `train_dir/sensors.csv`: whose it is, four numbers, and one of three classes."""

    name, num_classes = "sensors", 3

    def __init__(self, *, test_every: int = 5, **options):
        super().__init__(**options)
        self.test_every = test_every

    def identity(self):
        return [describe(Path(self.train_dir, "sensors.csv")), str(self.test_every)]

    def build(self, progress):
        table = np.loadtxt(Path(self.train_dir, "sensors.csv"), delimiter=",", ndmin=2)
        table = table[np.argsort(table[:, 0], kind="stable")]
        test = np.arange(len(table)) % self.test_every == 0
        x, y, user = table[:, 1:5].astype(np.float32), table[:, 5].astype(np.int64), table[:, 0]
        starts = np.unique(user[~test], return_index=True)[1]
        return {
            "train_x": x[~test], "train_y": y[~test], "test_x": x[test], "test_y": y[test],
            "train_starts": np.append(starts, (~test).sum()),
        }  # fmt: skip


class Network(nn.Sequential):
    def __init__(self, *, hidden: int = 8):
        super().__init__(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))
