"""Classes that each can be built but not train together are found before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from in_process import build
from launching import Experiment

from decentralizepy.errors import ConfigError
from decentralizepy.graphs.generators import ring

LOSS = (
    "loss_package = torch.nn\nloss_class = CrossEntropyLoss",
    "loss_package = {}\nloss_class = {}",
)


@pytest.mark.parametrize(
    ("package", "name"),
    [("torch.nn", "MSELoss"), ("torch.nn", "BCELoss"), ("torch.nn.functional", "relu")],
)
def test_a_loss_that_does_not_fit(tmp_path: Path, cache: Path, package: str, name: str) -> None:
    experiment = Experiment(tmp_path, ring(4), cache)
    ini = tmp_path / "config.ini"
    old, new = LOSS
    assert old in ini.read_text()
    ini.write_text(ini.read_text().replace(old, new.format(package, name)))
    with pytest.raises(ConfigError, match="a training step on two samples fails"):
        build(experiment, 2)


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam"])
def test_an_optimizer_that_does_not_fit(tmp_path: Path, cache: Path, name: str) -> None:
    experiment = Experiment(tmp_path, ring(4), cache, optimizer=name)
    with pytest.raises(ConfigError, match="a training step on two samples fails"):
        build(experiment, 2)


def test_it_leaves_no_trace(tmp_path: Path, cache: Path) -> None:
    experiment = Experiment(tmp_path, ring(4), cache, optimizer_options="momentum = 0.9")
    worker = build(experiment, 2)
    seat = worker.seats[0]
    initial = worker.trainer.template.initial
    assert torch.equal(seat.node.x, initial)
    assert (seat.learner.steps, seat.learner.samples) == (0, 0)
    worker.trainer.rehearse(seat.learner.indices)
    assert torch.equal(seat.node.x, initial) and not torch.equal(
        worker.trainer.template.work, initial
    )
