"""Private training: one sample at a time by hand, and epsilon against an independent accountant."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from decentralizepy import run_here
from decentralizepy.config import Component
from decentralizepy.errors import ConfigError
from decentralizepy.models.shakespeare import LSTM
from decentralizepy.registry import Target
from decentralizepy.streams import torch_seed
from decentralizepy.training import private
from decentralizepy.training.accountant import ORDERS, divergences, epsilon
from decentralizepy.training.data import Samples
from decentralizepy.training.optimizers import make_optimizer
from decentralizepy.training.private import PrivateTraining
from decentralizepy.training.task import Classification, LanguageModel, Rating, Task
from decentralizepy.training.template import Template
from decentralizepy.training.trainer import LocalWork, Trainer

LR, CLIP, NOISE = 0.1, 0.4, 0.7


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 3, 3), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.conv(x)).flatten(1))


class Recurrent(nn.Module):
    """Tokens to the next ones; 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 5, padding_idx=0)
        self.lstm, self.out = nn.LSTM(5, 6, num_layers=2, batch_first=True), nn.Linear(6, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(self.embedding(x))[0])


class Factors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(6, 3), nn.Embedding(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.users(x[:, 0]) * self.items(x[:, 1])).sum(dim=1)


def images() -> Samples:
    rng = np.random.default_rng(1)
    return Samples(rng.normal(size=(30, 4, 4, 1)), rng.integers(0, 4, 30), 1.0, 0.0)


def texts() -> Samples:
    tokens = np.random.default_rng(2).integers(1, 9, (30, 6))
    tokens[::3, 4:] = 0
    return Samples(tokens[:, :-1].astype(np.int16), tokens[:, 1:], 1.0, 0.0)


def ratings() -> Samples:
    rng = np.random.default_rng(3)
    pairs = np.stack([rng.integers(0, 6, 30), rng.integers(0, 9, 30)], axis=1)
    return Samples(pairs, rng.integers(1, 11, 30) / 2, 1.0, 0.0)


KINDS: dict[str, Any] = {
    "images": (Convolution, Classification(), images),
    "texts": (Recurrent, LanguageModel(ignore_index=0), texts),
    "ratings": (Factors, Rating(), ratings),
}


def trainer(kind: str, **options: Any) -> Trainer:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, task, samples = KINDS[kind]
    template = Template(model())
    sgd = make_optimizer(template, Component(Target("torch.optim", "SGD"), {"lr": LR}))
    options = {"clip": CLIP, "noise": NOISE, "rounds": 3, "batch_size": 8} | options
    return Trainer(template, sgd, PrivateTraining(**options), task, samples(), seed=3)


def trained(one: Trainer, uid: int = 2, t: int = 4) -> Tensor:
    row = one.template.initial.clone()
    one.train([LocalWork(one.learner(uid, np.arange(5, 30)), row, t)])
    return row


def flat(model: nn.Module) -> Tensor:
    """Gradients in the order of memory, where kernels of convolutions lie channels-last."""
    found = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([(g.movedim(1, -1) if g.dim() == 4 else g).flatten() for g in found])


def one_by_one(one: Trainer, task: Task, uid: int = 2, t: int = 4) -> Tensor:
    """The same local training with a batch of one for each sample, and plain SGD."""
    torch.manual_seed(0)
    model = type(one.template.model)()
    draw = one.training.draw(25, 3, uid, t)
    start = 0
    for index, size in enumerate(draw.sizes):
        total = torch.zeros_like(one.template.grad)
        for i in draw.order[start : start + size]:
            x, y = one.samples.gather(torch.tensor([5 + i]))
            model.zero_grad(set_to_none=False)
            task.loss(model(x), y).backward()
            alone = flat(model)
            total += alone * min(1.0, CLIP / max(float(alone.norm()), 1e-12))
        generator = torch.Generator().manual_seed(torch_seed(3, uid, "step", t, index))
        total += NOISE * CLIP * torch.randn(total.shape, generator=generator)
        step = one.template.to_row_order(total / 8)
        for parameter, part in zip(model.parameters(), one.template.layout.parameters, strict=True):
            parameter.data -= LR * step[part.start : part.stop].view(part.shape)
        start += size
    return one.template.layout.row(model)


@pytest.mark.parametrize("sampling", private.SAMPLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_loop_over_single_samples(
    kind: str, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"sampling": sampling, "shuffle": True}
    one = trainer(kind, **options)
    found = trained(one)
    expected = one_by_one(one, KINDS[kind][1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert float((found - one.template.initial).norm()) > 0.01
    assert torch.equal(found, trained(trainer(kind, **options))), "the same bits again"
    monkeypatch.setattr(private, "_AT_ONCE", 3 * len(one.template.grad))
    torch.testing.assert_close(trained(trainer(kind, **options)), found, rtol=1e-4, atol=1e-6)


def test_the_networks_of_letters_can_be_trained_privately() -> None:
    """Mapping an LSTM over samples costs a warning of torch's, which would be repeated for all."""
    torch.manual_seed(0)
    template = Template(LSTM())
    sgd = make_optimizer(template, Component(Target("torch.optim", "SGD"), {"lr": LR}))
    samples = Samples(np.zeros((4, 80), np.int16), np.zeros(4, np.int64), 1.0, 0.0)
    training = PrivateTraining(clip=1.0, noise=1.0, batch_size=4)
    one = Trainer(template, sgd, training, Classification(), samples, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = template.initial.clone()
        one.train([LocalWork(one.learner(0, np.arange(4)), row, 0)])
    assert row.isfinite().all() and not torch.equal(row, template.initial)


def test_an_empty_batch_is_noise_alone() -> None:
    one = trainer("images", batch_size=1, rounds=40)
    draw = one.training.draw(25, 3, 0, 0)
    assert 0 in draw.sizes and len(draw.sizes) == 40
    row = trained(one)
    assert row.isfinite().all()
    assert one.training.draw(0, 3, 0, 0).sizes == []


def test_poisson_samples_come_as_often_as_they_should() -> None:
    training = PrivateTraining(clip=1.0, noise=1.0, rounds=500, batch_size=8)
    draw = training.draw(40, 3, 1, 0)
    counts = np.bincount(draw.order, minlength=40)
    assert abs(np.mean(draw.sizes) - 8) < 4 * math.sqrt(40 * 0.2 * 0.8 / 500)
    assert abs(counts - 100).max() < 5 * math.sqrt(500 * 0.2 * 0.8)
    assert abs(np.std(draw.sizes) - math.sqrt(40 * 0.2 * 0.8)) < 0.4
    assert training.draw(5, 3, 1, 0).sizes == [5] * 500, "fewer samples than a batch: all, always"


def test_gradients_are_weighed_alike_and_counted() -> None:
    one = trainer("images")
    learner = one.learner(0, np.arange(5, 30))
    one.gradient(LocalWork(learner, one.template.initial.clone(), 0))
    assert (learner.steps, learner.gradients) == (0, 3)
    assert one.training.weight(2, 20, 4) == 0.25
    trained_ = LocalWork(learner, one.template.initial.clone(), 1)
    one.train([trained_])
    assert (learner.steps, learner.gradients) == (3, 6)
    again = one.learner(0, np.arange(5, 30))
    again.take_back(learner.kept())
    assert again.gradients == 6
    assert one.training.columns(25, 0, 6)["epsilon"] > one.training.columns(25, 0, 3)["epsilon"]


# ------------------------------------------------------------------------- epsilon


@settings(max_examples=40)
@given(
    rate=st.floats(1e-4, 1.0),
    noise=st.floats(0.4, 20.0),
    steps=st.integers(1, 20_000),
    delta=st.sampled_from([1e-3, 1e-5, 1e-8]),
)
def test_it_is_what_opacus_finds(rate: float, noise: float, steps: int, delta: float) -> None:
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    orders = list(ORDERS)
    theirs = rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=steps, orders=orders)
    np.testing.assert_allclose(divergences(rate, noise) * steps, theirs, rtol=1e-6, atol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best order is the first or the last one
        bound, _ = rdp.get_privacy_spent(orders=orders, rdp=theirs, delta=delta)
    assert epsilon(steps, rate, noise, delta) == pytest.approx(max(bound, 0.0), rel=1e-6, abs=1e-6)


def test_without_sampling_it_is_the_gaussian_mechanism() -> None:
    """Renyi divergence a / (2 s^2) of each step, and the best order by hand."""
    np.testing.assert_allclose(divergences(1.0, 3.0), np.array(ORDERS) / 18)
    a = np.array(ORDERS, dtype=float)
    bound = 5 * a / 18 + np.log((a - 1) / a) - (math.log(1e-5) + np.log(a)) / (a - 1)
    assert epsilon(5, 1.0, 3.0, 1e-5) == pytest.approx(bound.min(), rel=1e-12)
    assert epsilon(0, 0.1, 1.0, 1e-5) == 0.0 and epsilon(1, 0.1, 0.0, 1e-5) == math.inf


def test_a_known_value() -> None:
    """TensorFlow Privacy's example: 60,000 samples, batches of 250, noise 1.3, 15 epochs."""
    assert epsilon(15 * 240, 250 / 60_000, 1.3, 1e-5) == pytest.approx(0.94, abs=0.25)


# ------------------------------------------------------------------------ in a run


def test_records_have_epsilon(tmp_path: Path) -> None:
    ini = Path(__file__).resolve().parents[2] / "run_configuration" / "digits_private.ini"
    outcome = run_here(ini, 8, 4, test_after=2, train_evaluate_after=0, cache_dir=tmp_path)
    found = {row["iteration"]: row["epsilon"] for row in outcome.records if row["uid"] == 3}
    expected = {t: epsilon(3 * t, 8 / 180, 1.1, 1e-5) for t in (1, 2, 4)}
    assert found == pytest.approx(expected)
    loud = ["TRAIN_PARAMS.sampling=batches"]
    outcome = run_here(ini, 8, 1, test_after=1, cache_dir=tmp_path, set=loud)
    assert all("epsilon" not in row for row in outcome.records)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clip": 0.0}, "clip above 0"),
        ({"noise": -1.0}, "noise from 0"),
        ({"delta": 1.0}, "delta in 0 .. 1"),
        ({"sampling": "shuffled"}, "poisson or batches"),
        ({"clipping_norm": 1.0}, "clip clips each sample"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PrivateTraining(**({"clip": 1.0, "noise": 1.0} | options))
    assert "no privacy" in PrivateTraining(clip=1.0, noise=0.0).remark(9, 0)
