"""Real runs of what is no classification of images: the same bits, and columns of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_process import undisturbed
from launching import Experiment, digests, finish

from decentralizepy.graphs.generators import ring
from decentralizepy.runfolder import MachineFolder, machine_records

MODULE = '''\
"""Sequences that count upwards, padded at their ends; and ratings of items by users."""
import numpy as np
import torch
from torch import nn

from decentralizepy.datasets.base import Dataset
from decentralizepy.training.task import LanguageModel


class Counting(Dataset):
    name = "counting"
    task = LanguageModel(ignore_index=-1)

    def identity(self):
        return ["1"]

    def build(self, progress):
        rng = np.random.default_rng(0)
        x = (rng.integers(0, 9, (90, 1)) + np.arange(7)) % 9
        y = np.where(np.arange(7) < rng.integers(1, 8, (90, 1)), (x + 1) % 9, -1)
        return {"train_x": x[:72], "train_y": y[:72], "test_x": x[72:], "test_y": y[72:]}


class Films(Dataset):
    name = "films"

    def identity(self):
        return ["1"]

    def build(self, progress):
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 9, (90, 2)), rng.integers(1, 11, 90) / 2
        return {"train_x": x[:72], "train_y": y[:72], "test_x": x[72:], "test_y": y[72:]}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(9, 8), nn.LSTM(8, 12, batch_first=True)
        self.out = nn.Linear(12, 9)

    def forward(self, x):
        return self.out(self.lstm(self.embedding(x))[0])


class Factors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(9, 4), nn.Embedding(9, 4)

    def forward(self, x):
        return 2.5 + (self.users(x[:, 0]) * self.films(x[:, 1])).sum(1)
'''
NODES = 6
CASES = {
    "texts": ({"dataset": "Counting", "model": "Recurrent"}, {"acc", "perplexity"}),
    "ratings": (
        {
            "dataset": "Films",
            "model": "Factors",
            "train_options": "task_package = decentralizepy.training.task\\ntask_class = Rating\\n"
            "step = 0.5",
        },
        {"acc", "mse", "rmse"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_and_metrics_of_its_own(case: str, tmp_path: Path, cache: Path) -> None:
    options, metrics = CASES[case]
    options = {name: text.replace("\\n", "\n") for name, text in options.items()}
    packages = {"dataset_package": "kinds", "model_package": "kinds", "partition": "iid"}
    made = Experiment(tmp_path / case, ring(NODES), cache, **packages, **options)
    if case == "ratings":
        ini = made.folder / "config.ini"
        ini.write_text(ini.read_text().replace("CrossEntropyLoss", "MSELoss"))
    (made.folder / "kinds.py").write_text(MODULE)
    two, processes = made.start((NODES,), 2, 4, "-ta", "2", "-tea", "2", "--digests")
    one = undisturbed(made, 4)
    finish(processes)
    assert digests(two) == one
    rows = machine_records(MachineFolder(two / "machine0")).rows
    assert len(rows) == NODES * 3
    for row in rows:
        found = {key.removeprefix("test_") for key in row if key.startswith("test_")}
        assert found == {"loss", *metrics}
        assert 0 <= row["test_acc"] <= 100
    first, last = ([r["train_loss"] for r in rows if r["iteration"] == t] for t in (1, 4))
    assert sum(last) < sum(first)
