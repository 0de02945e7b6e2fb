"""Models mapped over a stack of nodes: the loop's numbers within a tolerance, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from decentralizepy.config import Component
from decentralizepy.errors import ConfigError
from decentralizepy.models.digits import CNN, MLP, DropoutMLP
from decentralizepy.pernode import PerNode
from decentralizepy.registry import Target
from decentralizepy.training.choice import make_trainer
from decentralizepy.training.data import Samples
from decentralizepy.training.mapped import MappedTrainer
from decentralizepy.training.optimizers import make_optimizer
from decentralizepy.training.stacked import StackedTrainer
from decentralizepy.training.task import Classification, LanguageModel, Rating, Task
from decentralizepy.training.template import Template
from decentralizepy.training.trainer import LocalWork, Trainer
from decentralizepy.training.training import Training

NODES = 10
#: of the difference between two trainers, relative to what training changed
TOLERANCE = 1e-3


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 8), nn.Linear(8, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embedding(x))


class Normalized(nn.Module):
    """A convolution with group normalization, and a parameter outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)
        self.out, self.scale = nn.Linear(4 * 36, 10), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.conv(x))).flatten(1)) * self.scale


class Branching(Words):
    """What ``torch.func`` can't map: a branch that depends on numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(x) * 2


def images() -> Samples:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (NODES * 30, 8, 8, 1), dtype=np.uint8)
    return Samples(x, rng.integers(0, 10, len(x)), 1 / 16, 0.0)


def tokens() -> Samples:
    tokens = np.random.default_rng(0).integers(0, 9, (NODES * 30, 6))
    return Samples(tokens[:, :-1], tokens[:, 1:], 1.0, 0.0)


def on(samples: Samples, device: str) -> Samples:
    x, y = samples.x.numpy(), samples.y.numpy()
    return Samples(x, y, samples.scale, samples.shift, device)


def made(
    model: type[nn.Module],
    task: Task | None = None,
    samples: Samples | None = None,
    *,
    device: str = "cpu",
    optimizer: str = "SGD",
    options: dict[str, Any] | None = None,
    reset: bool = False,
    **training: Any,
) -> Trainer:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    template = Template(model(), device)
    component = Component(Target("torch.optim", optimizer), {"lr": 0.05} | (options or {}))
    training = {"rounds": 3, "batch_size": 8, "shuffle": True, "stacked": "no"} | training
    return make_trainer(
        template, make_optimizer(template, component), Training(**training),
        task or Classification(), on(samples or images(), device), seed=7, reset_optimizer=reset,
    )  # fmt: skip


def trained(one: Trainer, device: str = "cpu", **terms: Any) -> Tensor:
    """Rows of all nodes after three iterations, each on another number of samples."""
    learners = [one.learner(u, 30 * u + np.arange(30 - u % 3)) for u in range(NODES)]
    rows = [one.template.initial.clone().to(device) for _ in range(NODES)]
    for t in range(3):
        waiting = [
            LocalWork(learner, row, t, **terms) for learner, row in zip(learners, rows, strict=True)
        ]
        while waiting:
            chosen = one.together(waiting)
            one.train([waiting[i] for i in chosen])
            waiting = [work for i, work in enumerate(waiting) if i not in chosen]
    assert [learner.nan for learner in learners] == [0] * NODES
    return torch.stack(rows).cpu()


def check(one: Trainer, other: Trainer, device: str = "cpu", **terms: Any) -> None:
    """Two trainers change rows alike."""
    initial = one.template.initial
    first, second = (trained(each, device, **terms) - initial for each in (one, other))
    assert (first - second).norm() <= TOLERANCE * first.norm()
    assert not torch.allclose(first[0], first[1], rtol=0.05)


CASES: dict[str, dict[str, Any]] = {
    "convolutions": {"model": CNN},
    "a chain": {"model": MLP, "options": {"momentum": 0.9, "weight_decay": 0.01}},
    "group normalization": {"model": Normalized, "options": {"momentum": 0.9, "nesterov": True}},
    "texts": {"model": Words, "task": LanguageModel(), "samples": tokens()},
    "clipped": {"model": CNN, "clipping_norm": 0.3},
    "uneven": {
        "model": CNN,
        "rounds": PerNode({0: 0, 1: 5}, default=2),
        "batch_size": PerNode({2: 64, 3: 4}, default=8),
    },
    "whole epochs": {"model": CNN, "rounds": 1, "full_epochs": True, "reset": True},
    "in order": {"model": CNN, "shuffle": False},
}


@pytest.mark.parametrize("case", CASES)
def test_mapped_training_is_the_loop(case: str) -> None:
    mapped = made(**CASES[case], stacked="vmap")
    assert isinstance(mapped, MappedTrainer)
    check(made(**CASES[case]), mapped)


def test_terms_are_added_in_row_order() -> None:
    loop, mapped = made(CNN), made(CNN, stacked="vmap")
    correction = torch.linspace(-1, 1, loop.template.layout.n_parameters)
    check(loop, mapped, correction=correction, anchor=loop.template.initial + 1, pull=0.1)
    assert not torch.allclose(trained(mapped), trained(mapped, correction=correction), atol=1e-3)


def test_stacks_in_parts_are_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = made(CNN, stacked="vmap"), made(CNN, stacked="vmap")
    monkeypatch.setattr(parts, "at_once", 3)
    check(whole, parts)


def test_counts_are_those_of_the_loop() -> None:
    counts = []
    for one in (made(**CASES["uneven"]), made(**CASES["uneven"], stacked="vmap")):
        learners = [one.learner(u, 30 * u + np.arange(30)) for u in range(NODES)]
        rows = [one.template.initial.clone() for _ in range(NODES)]
        rows[4][7] = float("nan")
        one.train([LocalWork(a, row, 1) for a, row in zip(learners, rows, strict=True)])
        counts.append([(a.steps, a.samples, a.nan) for a in learners])
    assert counts[0] == counts[1] and counts[0][4][2] == 2


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dropout": ({"model": DropoutMLP}, "layer layers.3 is random"),
    "Adam": ({"model": CNN, "optimizer": "Adam"}, "only SGD"),
    "BatchNorm": (
        {"model": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))},
        "the model has buffers",
    ),
    "a branch": (
        {"model": Branching, "task": LanguageModel(), "samples": tokens()},
        "torch.func can't map the model: RuntimeError",
    ),
    "a task": ({"model": Words, "task": Rating(), "samples": tokens()}, "torch.func can't map"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_mapped_is_refused_with_the_reason(case: str) -> None:
    options, why = REFUSED[case]
    with pytest.raises(ConfigError, match=rf"stacked = vmap, but {why}"):
        made(**options, stacked="vmap")
    assert type(made(**options, stacked="no")) is Trainer


def test_a_cpu_maps_only_what_it_is_told_to() -> None:
    assert type(made(CNN, stacked="auto")) is Trainer
    assert isinstance(made(MLP, stacked="auto"), StackedTrainer)
    assert isinstance(made(MLP, stacked="vmap"), MappedTrainer)


# ------------------------------------------------------------------------- on a GPU

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")


@pytest.fixture
def _exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@cuda
@pytest.mark.cuda
@pytest.mark.usefixtures("_exact_convolutions")
@pytest.mark.parametrize("rows", ["cpu", "cuda"])
@pytest.mark.parametrize("stacked", ["no", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_trains_as_the_cpu_does(case: str, stacked: str, rows: str) -> None:
    """One by one, stacked and mapped, with rows on either side."""
    other = made(**CASES[case], device="cuda", stacked=stacked)
    expected = MappedTrainer if stacked == "auto" else Trainer
    assert type(other) is (StackedTrainer if (case, stacked) == ("a chain", "auto") else expected)
    one = made(**CASES[case])
    initial = one.template.initial
    first, second = trained(one) - initial, trained(other, rows) - initial
    assert (first - second).norm() <= TOLERANCE * first.norm()


@cuda
@pytest.mark.cuda
def test_a_gpu_has_dropout_gradients_and_evaluations() -> None:
    one, again = (made(DropoutMLP, device="cuda") for _ in range(2))
    assert torch.equal(trained(one, "cuda"), trained(again, "cuda"))
    row, learner = one.template.initial.cuda(), one.learner(0, np.arange(30))
    found = one.gradient(LocalWork(learner, row, 1))
    assert found.device.type == "cuda" and found.norm() > 0
    cpu, gpu = (made(MLP, device=device) for device in ("cpu", "cuda"))
    results = [each.evaluate(each.template.initial, each.samples, None) for each in (cpu, gpu)]
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-4)
    assert results[0].metrics == results[1].metrics


@cuda
@pytest.mark.cuda
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_gpus_optimizer_state_survives_a_checkpoint(optimizer: str) -> None:
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    one = made(CNN, device="cuda", optimizer=optimizer, options=options)
    learner, row = one.learner(0, np.arange(30)), one.template.initial.cuda()
    one.train([LocalWork(learner, row, 0)])
    exported = one.optimizer.export(learner.optimizer)
    assert all(not v.is_cuda for v in exported.values() if isinstance(v, Tensor))
    twin, other = one.learner(0, np.arange(30)), row.clone()
    twin.optimizer = one.optimizer.restore(exported)
    one.train([LocalWork(learner, row, 1)])
    one.train([LocalWork(twin, other, 1)])
    assert torch.equal(row, other)
