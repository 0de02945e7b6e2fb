"""Learning-rate schedules are torch's, as pure functions of the iteration."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as theirs

from decentralizepy.config import Component
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.models.digits import MLP
from decentralizepy.registry import Target
from decentralizepy.training import schedules
from decentralizepy.training.data import Samples
from decentralizepy.training.optimizers import make_optimizer
from decentralizepy.training.schedules import Rate
from decentralizepy.training.stacked import StackedTrainer
from decentralizepy.training.task import Classification
from decentralizepy.training.template import Template
from decentralizepy.training.trainer import LocalWork, Trainer
from decentralizepy.training.training import Training

ITERATIONS = 40
LR = 0.05
CASES = {
    "step": ("Step", {"step_size": 7, "gamma": 0.5}, lambda o, n: theirs.StepLR(o, 7, 0.5)),
    "multistep": (
        "MultiStep",
        {"milestones": [30, 4, 12], "gamma": 0.2},
        lambda o, n: theirs.MultiStepLR(o, [4, 12, 30], 0.2),
    ),
    "exponential": ("Exponential", {"gamma": 0.9}, lambda o, n: theirs.ExponentialLR(o, 0.9)),
    "cosine": (
        "Cosine",
        {"floor": 0.1},
        lambda o, n: theirs.CosineAnnealingLR(o, n, eta_min=0.1 * LR),
    ),
    "constant": ("Constant", {}, lambda o, n: theirs.ConstantLR(o, factor=1.0)),
}


def component(name: str, options: dict, module: str = schedules.__name__) -> Component:
    return Component(Target(module, name), options)


def torch_factors(case: str, warmup: int) -> list[float]:
    """What torch's scheduler makes of lr, stepped once per iteration."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = CASES[case][2](optimizer, ITERATIONS - warmup)
    if warmup:
        for group in optimizer.param_groups:  # begin again: each scheduler takes its first step
            group["lr"] = group["initial_lr"]
        warm = theirs.LinearLR(optimizer, 0.1, 1.0, warmup)
        scheduler = theirs.SequentialLR(optimizer, [warm, scheduler], [warmup])
    found = []
    for _ in range(ITERATIONS):
        found.append(optimizer.param_groups[0]["lr"] / LR)
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("case", CASES)
def test_factors_are_those_of_torch(case: str, warmup: int) -> None:
    name, options, _ = CASES[case]
    rate = Rate(component(name, options | {"warmup": warmup}), ITERATIONS)
    expected = torch_factors(case, warmup)
    assert [rate.factor(t) for t in range(ITERATIONS)] == pytest.approx(expected, rel=1e-9)
    again = Rate(component(name, options | {"warmup": warmup}), ITERATIONS)
    backwards = [again.factor(t) for t in reversed(range(ITERATIONS))]
    assert backwards[::-1] == [rate.factor(t) for t in range(ITERATIONS)], "no memory"


def test_after_its_period_the_cosine_stays_at_the_floor() -> None:
    cosine = schedules.Cosine(period=10, floor=0.25)
    assert [cosine(t, 100) for t in (10, 15, 99)] == [0.25] * 3


def data() -> Samples:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (80, 8, 8, 1), dtype=np.uint8)
    return Samples(x, rng.integers(0, 10, 80), 1 / 16, 0.0)


def trainer(kind: type[Trainer], optimizer: str, options: dict, rate: Rate | None) -> Trainer:
    torch.manual_seed(0)
    template = Template(MLP())
    made = make_optimizer(template, Component(Target("torch.optim", optimizer), options))
    training = Training(rounds=2, batch_size=8, shuffle=True)
    return kind(template, made, training, Classification(), data(), seed=7, rate=rate)


def trained(one: Trainer, order: list[int]) -> list[torch.Tensor]:
    """Rows of two nodes that are trained by turns, 12 iterations."""
    learners = [one.learner(uid, np.arange(40) + 40 * uid) for uid in range(2)]
    rows = [one.template.initial.clone() for _ in range(2)]
    for t in range(12):
        for uid in order:
            one.train([LocalWork(learners[uid], rows[uid], t)])
    return rows


OPTIMIZERS = {
    "flat": ("SGD", {"lr": LR, "momentum": 0.9, "weight_decay": 0.01}),
    "torch": ("Adam", {"lr": LR}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch_with_its_scheduler(name: str) -> None:
    optimizer, options = OPTIMIZERS[name]
    rate = Rate(component("Step", {"step_size": 4, "gamma": 0.5}), 12)
    rows = trained(trainer(Trainer, optimizer, options, rate), [0, 1])
    without = trained(trainer(Trainer, optimizer, options, None), [0, 1])
    for uid in range(2):
        one = trainer(Trainer, optimizer, options, None)
        model = copy.deepcopy(MLP())
        model.load_state_dict(one.template.layout.state_dict(one.template.initial))
        stepper = getattr(torch.optim, optimizer)(model.parameters(), **options)
        scheduler = theirs.StepLR(stepper, 4, 0.5)
        for t in range(12):
            draw = one.training.draw(40, 7, uid, t)
            for order in np.split(draw.order, 2):
                x, y = one.samples.gather(torch.from_numpy(order + 40 * uid))
                stepper.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                stepper.step()
            scheduler.step()
        expected = one.template.layout.row(model)
        torch.testing.assert_close(rows[uid], expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(rows[uid], without[uid], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [Trainer, StackedTrainer])
def test_nodes_in_any_order_have_the_same_bits(kind: type[Trainer]) -> None:
    rate = Rate(component("Cosine", {"warmup": 3}), 12)
    first, second = (
        trained(trainer(kind, "SGD", {"lr": LR, "momentum": 0.9}, rate), order)
        for order in ([0, 1], [1, 0])
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_stacked_training_has_the_schedule_too() -> None:
    rate = Rate(component("Exponential", {"gamma": 0.7}), 12)
    stacked, loop = (
        trained(trainer(kind, "SGD", {"lr": LR}, rate), [0, 1])
        for kind in (StackedTrainer, Trainer)
    )
    for a, b in zip(stacked, loop, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


MINE = """\
def halves(t, iterations, *, power: float = 1.0):
    return (1 - t / iterations) ** power

def wrong(t, iterations):
    return float("nan") if t else 1.0

def never(t, iterations):
    return -1.0

def broken(t, iterations):
    return 1 / (3 - t)
"""


def mine(folder: Path, name: str, **options: float) -> Rate:
    (folder / "my_schedules.py").write_text(MINE)
    found = Component(Target("my_schedules", name, (str(folder),)), options)
    return Rate(found, 10)


def test_a_users_function(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert mine(folder, "halves", power=2.0).factor(5) == 0.25
    with pytest.raises(RunError, match=r"wrong gave nan in iteration 2"):
        mine(folder, "wrong").factor(1)
    with pytest.raises(RunError, match=r"broken failed in iteration 4: ZeroDivisionError"):
        mine(folder, "broken").factor(3)
    with pytest.raises(ConfigError, match=r"\[LR_SCHEDULE\] .*never gave -1.0"):
        mine(folder, "never")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Step", {"step_size": 0}),
        ("Exponential", {"gamma": 0.0}),
        ("MultiStep", {"milestones": [1], "gamma": 2.0}),
        ("Cosine", {"floor": 1.5}),
        ("Cosine", {"period": 0}),
        ("Constant", {"warmup": -1}),
        ("Constant", {"warmup": 2, "warmup_start": 2.0}),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict) -> None:
    with pytest.raises(ConfigError, match=r"must be|between"):
        Rate(component(name, options), 10)


def test_an_optimizer_without_lr_is_refused() -> None:
    one = trainer(Trainer, "Adam", {"lr": LR}, None)
    state = one.optimizer.new_state()
    del state.param_groups[0]["lr"]
    with pytest.raises(ConfigError, match=r"\[LR_SCHEDULE\] torch.optim.Adam has no lr"):
        one.optimizer.scale(state, 0.5)
