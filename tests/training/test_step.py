"""Local steps of a user's own, and what the trainer adds to their gradients."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from decentralizepy.config import Component
from decentralizepy.errors import ConfigError
from decentralizepy.models.digits import CNN, MLP, DropoutMLP
from decentralizepy.registry import Target
from decentralizepy.streams import torch_seed
from decentralizepy.training.clipping import clip
from decentralizepy.training.data import Samples
from decentralizepy.training.optimizers import make_optimizer
from decentralizepy.training.stacked import StackedTrainer, can_stack
from decentralizepy.training.task import Classification
from decentralizepy.training.template import Template
from decentralizepy.training.trainer import LocalWork, Trainer
from decentralizepy.training.training import Training

#: as a user would write it beside the INI
DPSGD = '''\
"""DP-SGD (Abadi et al., CCS 2016, algorithm 1)."""

import torch

from decentralizepy.training.step import LocalStep
from decentralizepy.training.training import Training


class DPSGD(Training):
    """Every sample's gradient is clipped; their sum gets Gaussian noise."""

    def __init__(self, *, norm: float = 1.0, noise: float = 1.0, **options):
        super().__init__(**options)
        self.norm, self.noise = norm, noise

    def gradient(self, step: LocalStep) -> None:
        each = step.per_sample()
        norms = each.norm(dim=1, keepdim=True)
        total = each.mul_((self.norm / norms).clamp_(max=1.0)).sum(0)
        noise = torch.empty_like(total).normal_(generator=step.generator)
        step.grad.copy_((total + self.norm * self.noise * noise) / len(step.x))
'''
LR, NODES = 0.1, 6


def data() -> Samples:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (NODES * 20, 8, 8, 1), dtype=np.uint8)
    return Samples(x, rng.integers(0, 10, NODES * 20), 1 / 16, 0.0)


def trainer(
    model: type[nn.Module] = MLP,
    training: Training | None = None,
    kind: type[Trainer] = Trainer,
    **options: Any,
) -> Trainer:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    template = Template(model())
    sgd = Component(Target("torch.optim", "SGD"), {"lr": LR} | options)
    training = training or Training(rounds=2, batch_size=8, shuffle=True)
    return kind(template, make_optimizer(template, sgd), training, Classification(), data(), seed=3)


def own(uid: int) -> np.ndarray:
    return np.arange(20) + 20 * uid


def dpsgd(folder: Path, **options: Any) -> Training:
    (folder / "my_dpsgd.py").write_text(DPSGD)
    assert len(DPSGD.splitlines()) <= 25
    options = {"rounds": 2, "batch_size": 8, "shuffle": True} | options
    return Component(Target("my_dpsgd", "DPSGD", (str(folder),)), options).build()


def trained(one: Trainer, uid: int, t: int = 0, **more: Any) -> Tensor:
    row = one.template.initial.clone()
    one.train([LocalWork(one.learner(uid, own(uid)), row, t, **more)])
    return row


def batches(one: Trainer, uid: int, t: int) -> list[tuple[Tensor, Tensor]]:
    draw = one.training.draw(20, 3, uid, t)
    x, y = one.samples.gather(torch.from_numpy(own(uid)[draw.order]))
    return list(zip(x.split(draw.sizes), y.split(draw.sizes), strict=True))


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    model.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def canonical(gradients: list[Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in gradients]).clone()


def in_memory_order(gradients: list[Tensor]) -> Tensor:
    return torch.cat([(g.movedim(1, -1) if g.dim() == 4 else g).flatten() for g in gradients])


@pytest.mark.parametrize("model", [MLP, CNN])
def test_dp_sgd_is_a_loop_of_batches_of_one(
    model: type[nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> None:
    training = dpsgd(tmp_path_factory.getbasetemp(), norm=0.5, noise=0.3)
    one = trainer(model, training)
    found = trained(one, 2, t=4)
    torch.manual_seed(0)
    plain = model()
    for index, (x, y) in enumerate(batches(one, 2, 4)):
        total = torch.zeros_like(one.template.grad)
        for i in range(len(x)):
            alone = in_memory_order(gradient(plain, x[i : i + 1], y[i : i + 1]))
            total += alone * min(1.0, 0.5 / float(alone.norm()))
        generator = torch.Generator().manual_seed(torch_seed(3, 2, "step", 4, index))
        noise = torch.randn(total.shape, generator=generator) * 0.15
        step = one.template.to_row_order((total + noise) / len(x))
        with torch.no_grad():
            start = 0
            for p in plain.parameters():
                p.sub_(LR * step[start : start + p.numel()].view(p.shape))
                start += p.numel()
    torch.testing.assert_close(found, one.template.layout.row(plain), rtol=1e-4, atol=1e-5)
    again = trained(trainer(model, training), 2, t=4)
    assert torch.equal(found, again)
    assert not torch.equal(found, trained(one, 2, t=5))


def test_noise_is_of_the_node_the_iteration_and_the_step() -> None:
    drawn: list[tuple[float, float]] = []

    class Noisy(Training):
        def gradient(self, step: Any) -> None:
            super().gradient(step)
            drawn.append(tuple(float(torch.rand((), generator=step.generator)) for _ in "ab"))

    one = trainer(training=Noisy(rounds=2, batch_size=8))
    for uid, t in ((0, 0), (1, 0), (0, 1), (0, 0)):
        trained(one, uid, t)
    assert drawn[:2] == drawn[6:] and len(set(drawn)) == 6
    assert all(first != second for first, second in drawn)


def test_memory_that_is_assigned_is_the_nodes_too() -> None:
    class Counts(Training):
        def gradient(self, step: Any) -> None:
            super().gradient(step)
            step.memory = {"steps": step.memory.get("steps", 0) + 1, f"in {step.t}": step.uid}
            step.memory |= {"once more": True}

    one = trainer(training=Counts(rounds=3, batch_size=8))
    learner = one.learner(4, own(4))
    for t in range(2):
        one.train([LocalWork(learner, one.template.initial.clone(), t)])
    assert learner.memory == {"steps": 6, "in 1": 4, "once more": True}


def test_a_step_of_ones_own_is_never_stacked(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert not can_stack(trainer())
    own_steps = trainer(training=dpsgd(tmp_path_factory.getbasetemp()))
    assert "DPSGD takes local steps of its own" in can_stack(own_steps)


class PartlyFrozen(nn.Sequential):
    """A convolution, which lies in another order in memory, and a bias, both as they were."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 16), nn.Linear(16, 10))
        self[0].weight.requires_grad_(False)
        self[2].bias.requires_grad_(False)


@pytest.mark.parametrize("private", [False, True])
def test_what_is_frozen_is_not_trained(
    private: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nor decayed, nor made noisy, nor moved by a term; nor does it count in what is clipped."""
    training = dpsgd(tmp_path_factory.getbasetemp()) if private else None
    one = trainer(PartlyFrozen, training, momentum=0.9, weight_decay=0.1)
    correction = torch.ones_like(one.template.grad)
    row = trained(one, 0, correction=correction, anchor=correction, pull=0.5)
    moved = row != one.template.initial
    for field in one.template.layout.fields:
        frozen = field.name in ("0.weight", "2.bias")
        assert moved[field.start : field.stop].any() != frozen
    slope = one.gradient(LocalWork(one.learner(0, own(0)), row.clone(), 0))
    for field in one.template.layout.parameters:
        frozen = field.name in ("0.weight", "2.bias")
        assert slope[field.start : field.stop].any() != frozen
    (x, y), *_ = batches(one, 0, 0)
    one.template.load(row)
    one._step.begin(0, 0, 0, x, y, {})
    one._step.backward()
    mean = one._step.per_sample().mean(0)
    torch.testing.assert_close(mean, one._step.grad, rtol=1e-4, atol=1e-6)
    assert int((mean == 0).sum()) >= 36 + 16


def test_what_a_training_class_thaws_is_trained() -> None:
    class Thaws(Training):
        def gradient(self, step: Any) -> None:
            step.model.requires_grad_(True)
            super().gradient(step)

    one = trainer(PartlyFrozen, Thaws(rounds=2, batch_size=8))
    row = trained(one, 0)
    assert (row != one.template.initial)[: 4 * 9].all()


class Taught(nn.Module):
    """A student that is drawn towards its teacher, the running mean of what it has been."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = PartlyFrozen(), PartlyFrozen().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.student(x) - self.teacher(x)

    @torch.no_grad()
    def teach(self) -> None:
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for i, (old, new) in enumerate(pairs):
            if i % 2:
                old.data = 0.9 * old.data + 0.1 * new
            else:
                old.mul_(0.9).add_(new, alpha=0.1)


def test_a_teacher_is_what_the_training_class_makes_of_it() -> None:
    class Teaches(Training):
        def gradient(self, step: Any) -> None:
            step.model.teach()
            super().gradient(step)

    one = trainer(Taught, Teaches(rounds=3, batch_size=6, shuffle=True))
    found = trained(one, 1, t=2)
    torch.manual_seed(0)
    plain = Taught()
    optimizer = torch.optim.SGD(plain.parameters(), lr=LR)
    for x, y in batches(one, 1, 2):
        plain.teach()
        gradient(plain, x, y)
        optimizer.step()
    torch.testing.assert_close(found, one.template.layout.row(plain), rtol=1e-5, atol=1e-6)


def test_per_sample_gradients_need_samples_that_are_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    def net() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)
        )

    one = trainer(net, dpsgd(tmp_path_factory.getbasetemp()))
    with pytest.raises(ConfigError, match="layer 1 is a BatchNorm2d; take GroupNorm"):
        one.rehearse(own(0))


class Mark:
    """Lives as long as the graph that it is in."""


class Marked(torch.autograd.Function):
    """The tensor itself, with a mark in its graph."""

    made: ClassVar[list[weakref.ref[Mark]]] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark = Mark()
        Marked.made.append(weakref.ref(ctx.mark))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def attached(step: Any) -> list[Tensor]:
    parameters = list(step.parameters.values())
    found = torch.autograd.grad(step.loss(), parameters, create_graph=True)
    return [Marked.apply(one) for one in found]


def attached_whole(step: Any) -> None:
    step.grad.copy_(torch.cat([one.flatten() for one in attached(step)]))


def attached_parts(step: Any) -> None:
    start = 0
    for one in attached(step):
        step.grad[start : start + one.numel()] += one.flatten()
        start += one.numel()


@pytest.mark.parametrize("rule", [attached_whole, attached_parts])
def test_a_gradient_that_was_not_detached_keeps_no_graph(rule: Callable[[Any], None]) -> None:
    """Rows are those of a gradient that was detached."""
    options: dict[str, Any] = {"rounds": 3, "batch_size": 8, "shuffle": True}
    mine = Training(**options)
    mine.gradient = rule  # type: ignore[method-assign]
    one, plain = trainer(training=mine), trainer(training=Training(**options))
    for t in range(2):
        Marked.made.clear()
        row = trained(one, 1, t)
        gc.collect()
        assert len(Marked.made) == 3 * 4 and not any(mark() for mark in Marked.made)
        assert torch.equal(row, trained(plain, 1, t))
        found = one.gradient(LocalWork(one.learner(1, own(1)), row, t))
        assert not found.requires_grad


class Recurrent(nn.Module):
    """Reads an image row by row."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells, self.out = kind(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.cells(x.flatten(1, 2))[0][:, -1])


class Peeking(nn.Linear):
    """Looks at a number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = super().forward(x.flatten(1))
        return found if found.sum().item() else found + 1


@pytest.mark.parametrize(
    ("net", "kind", "said"),
    [
        (lambda: Recurrent(nn.GRU), ConfigError, "cannot map layer cells, a GRU, .* take LSTM"),
        (lambda: Recurrent(nn.RNN), ConfigError, "cannot map layer cells, a RNN, .* take LSTM"),
        (lambda: Peeking(64, 10), RuntimeError, "loss.. works, but .*vmap.*RuntimeError: .*item"),
        (lambda: nn.Linear(5, 10), RuntimeError, "^mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_what_cannot_be_mapped_over_samples_is_named(
    net: Any, kind: type[Exception], said: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    one = trainer(net, dpsgd(tmp_path_factory.getbasetemp()))
    with pytest.raises(kind, match=said):
        one.rehearse(own(0))


def test_an_lstm_has_per_sample_gradients(tmp_path_factory: pytest.TempPathFactory) -> None:
    trainer(lambda: Recurrent(nn.LSTM), dpsgd(tmp_path_factory.getbasetemp())).rehearse(own(0))


def test_clipping_is_a_local_step() -> None:
    """The option, and a class that does the same by hand, give the same bits."""

    class ByHand(Training):
        def gradient(self, step: Any) -> None:
            step.backward()
            clip(step.grad, 0.1)

    options = {"rounds": 2, "batch_size": 8, "shuffle": True}
    with_option = trained(trainer(training=Training(clipping_norm=0.1, **options)), 1)
    assert torch.equal(with_option, trained(trainer(training=ByHand(**options)), 1))
    assert not torch.equal(with_option, trained(trainer(), 1))


TERMS = {
    "correction": {"correction": 0.3},
    "anchor": {"anchor": 0.2, "pull": 0.5},
    "both": {"correction": 0.3, "anchor": 0.2, "pull": 0.5},
}


@pytest.mark.parametrize("kind", [Trainer, StackedTrainer])
@pytest.mark.parametrize("case", TERMS)
def test_terms_are_added_to_each_gradient(kind: type[Trainer], case: str) -> None:
    one = trainer(kind=kind, momentum=0.9)
    terms = some_terms(one, case)
    torch.manual_seed(0)
    plain = MLP()
    optimizer = torch.optim.SGD(plain.parameters(), lr=LR, momentum=0.9)
    for x, y in batches(one, 1, 0):
        flat = canonical(gradient(plain, x, y))
        at = one.template.layout.row(plain)
        flat += terms.get("correction", 0.0)
        flat += terms.get("pull", 0.0) * (at - terms.get("anchor", at))
        nn.utils.vector_to_parameters(flat, [p.grad for p in plain.parameters()])
        optimizer.step()
    expected = one.template.layout.row(plain)
    torch.testing.assert_close(trained(one, 1, **terms), expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(trained(one, 1), expected, rtol=1e-3, atol=1e-4)


def some_terms(one: Trainer, case: str) -> dict[str, Any]:
    scales = TERMS[case]
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: scale * torch.randn(one.template.layout.n_parameters, generator=generator)
        for name, scale in scales.items()
        if name != "pull"
    }
    return tensors | {"pull": scales.get("pull", 0.0)}


def test_terms_are_in_row_order_though_convolutions_are_channels_last() -> None:
    one = trainer(CNN, Training(rounds=1, batch_size=8))
    correction = torch.zeros(one.template.layout.n_parameters)
    correction[40] = 1.0
    difference = trained(one, 0) - trained(one, 0, correction=correction)
    assert difference.nonzero().flatten().tolist() == [40]
    assert float(difference[40]) == pytest.approx(LR)


@pytest.mark.parametrize("kind", [Trainer, StackedTrainer])
def test_steps_may_be_said_for_each_work(kind: type[Trainer]) -> None:
    one = trainer(kind=kind)
    learners = [one.learner(uid, own(uid)) for uid in range(3)]
    rows = [one.template.initial.clone() for _ in range(3)]
    work = [
        LocalWork(learner, row, 0, steps)
        for learner, row, steps in zip(learners, rows, (None, 5, 0), strict=True)
    ]
    one.train(work)
    assert [learner.steps for learner in learners] == [2, 5, 0]
    assert torch.equal(rows[0], trained(one, 0)) and torch.equal(rows[1], trained(one, 1, steps=5))
    assert torch.equal(rows[2], one.template.initial)
    assert one.together(work) == [0]


@pytest.mark.parametrize(
    ("kind", "model"),
    [(Trainer, MLP), (StackedTrainer, MLP), (Trainer, CNN), (Trainer, DropoutMLP)],
)
def test_the_gradient_of_an_iteration(kind: type[Trainer], model: type[nn.Module]) -> None:
    one = trainer(model, Training(rounds=1, full_epochs=True, batch_size=8, shuffle=True), kind)
    row, learner = one.template.initial.clone(), one.learner(1, own(1))
    found = one.gradient(LocalWork(learner, row, 2))
    assert torch.equal(row, one.template.initial)
    assert (learner.samples, learner.steps) == (20, 0)
    assert torch.equal(found, one.gradient(LocalWork(learner, row, 2)))
    if model is DropoutMLP:
        return
    torch.manual_seed(0)
    x, y = one.samples.gather(torch.from_numpy(own(1)))
    expected = canonical(gradient(model(), x, y))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [Trainer, StackedTrainer])
def test_the_gradient_is_that_of_the_first_step(kind: type[Trainer]) -> None:
    one = trainer(training=Training(rounds=1, batch_size=8, shuffle=True), kind=kind)
    row = one.template.initial.clone()
    found = one.gradient(LocalWork(one.learner(1, own(1)), row, 2))
    expected = one.template.initial - LR * found
    torch.testing.assert_close(trained(one, 1, 2), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [Trainer, StackedTrainer])
def test_a_node_without_samples_does_nothing(kind: type[Trainer]) -> None:
    one = trainer(kind=kind)
    nobody, row = one.learner(9, np.zeros(0, dtype=np.int64)), one.template.initial.clone()
    somebody, other = one.learner(0, own(0)), one.template.initial.clone()
    work = [LocalWork(nobody, row, 0), LocalWork(somebody, other, 0)]
    one.train(work)
    assert torch.equal(row, one.template.initial) and torch.equal(other, trained(one, 0))
    assert (nobody.steps, nobody.samples, nobody.n_samples) == (0, 0, 0)
    assert not one.gradient(LocalWork(nobody, row, 0)).any()
    one.training.check(0, 9)
    assert one.training.remark(0, 9) == ""


def test_nodes_share_a_stack_only_if_they_add_the_same_terms() -> None:
    one = trainer(kind=StackedTrainer)
    rows = [one.template.initial.clone() for _ in range(NODES)]
    terms: list[dict[str, Any]] = [{}, {"correction": rows[0]}, {"anchor": rows[0], "pull": 1.0}]
    work = [LocalWork(one.learner(u, own(u)), rows[u], 0, **terms[u % 3]) for u in range(NODES)]
    assert [one.together(work[i:]) for i in range(3)] == [[0, 3], [0, 3], [0, 3]]
    one.train(work)
    alone = [trained(one, u, **terms[u % 3]) for u in range(NODES)]
    assert torch.equal(rows[0], alone[0]) and torch.equal(rows[3], alone[3])


def test_ten_thousand_that_wait_are_looked_through_fast() -> None:
    one = trainer(kind=StackedTrainer)
    row, indices = one.template.initial, own(0)
    work = [LocalWork(one.learner(u, indices), row, 0) for u in range(10_000)]
    assert one.together(work) == list(range(10_000))
