"""Tasks: losses and metrics by hand, whatever the batches, and samples of any kind."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from decentralizepy.config import Component
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.registry import Target
from decentralizepy.training.data import Samples
from decentralizepy.training.evaluation import Evaluation, evaluate
from decentralizepy.training.learner import Learner
from decentralizepy.training.optimizers import make_optimizer
from decentralizepy.training.task import (
    Classification,
    LanguageModel,
    Rating,
    Task,
    build_task,
)
from decentralizepy.training.template import Template
from decentralizepy.training.trainer import LocalWork, Trainer
from decentralizepy.training.training import Training

VOCABULARY, LENGTH, PADDING = 7, 5, 0


class Words(nn.Module):
    """Logits of the next token from the present one, classes last or second."""

    def __init__(self, second: bool = False) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(VOCABULARY, 6), nn.Linear(6, VOCABULARY)
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        logits = self.out(torch.tanh(self.embedding(x)))
        return logits.movedim(-1, 1) if self.second else logits


class Factors(nn.Module):
    """Matrix factorization: pairs (user, item) to a rating."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(6, 4), nn.Embedding(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 3 + (self.users(x[:, 0]) * self.items(x[:, 1])).sum(1, keepdim=True)


def text(n: int = 20) -> Samples:
    """Sequences of tokens 1 to 6, the target the following one, ends padded with 0."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, VOCABULARY, (n, LENGTH + 1))
    for row, length in zip(tokens, rng.integers(0, LENGTH + 2, n), strict=True):
        row[length:] = PADDING
    return Samples(tokens[:, :-1], tokens[:, 1:], 1 / 255, -1.0)


def ratings(n: int = 30) -> Samples:
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 6, n), rng.integers(0, 9, n)], axis=1)
    return Samples(x, rng.integers(1, 11, n) / 2, 1.0, 0.0)


def seeded(model: type[nn.Module], *options: Any) -> nn.Module:
    torch.manual_seed(0)
    return model(*options)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 20, 64])
def test_a_language_model_counts_tokens(second: bool, batch: int) -> None:
    """Not 1,801 % of sequences: each token that is no padding counts once."""
    samples, model = text(), seeded(Words, second)
    x, y = samples.gather(torch.arange(20))
    logits = seeded(Words)(x)
    kept = y != PADDING
    assert 0 < int(kept.sum()) < kept.numel()
    entropy = functional.cross_entropy(logits[kept], y[kept]).item()
    right = 100 * (logits[kept].argmax(1) == y[kept]).float().mean().item()
    for task in (LanguageModel(ignore_index=PADDING), LanguageModel(nn.CrossEntropyLoss())):
        task.ignore_index = PADDING
        found = evaluate(model, task, samples, batch)
        assert found.loss == pytest.approx(entropy, rel=1e-5)
        assert found.metrics == {
            "acc": pytest.approx(right), "perplexity": pytest.approx(math.exp(entropy), rel=1e-5)
        }  # fmt: skip


def test_another_loss_of_tokens_sees_those_that_count() -> None:
    samples, smooth = text(), nn.CrossEntropyLoss(label_smoothing=0.2)
    x, y = samples.gather(torch.arange(20))
    logits, kept = seeded(Words)(x), y != PADDING
    task = LanguageModel(smooth, ignore_index=PADDING)
    found = evaluate(seeded(Words), task, samples, 64)
    assert found.loss == pytest.approx(smooth(logits[kept], y[kept]).item(), rel=1e-5)
    entropy = functional.cross_entropy(logits[kept], y[kept]).item()
    assert found.metrics["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-5)


@pytest.mark.parametrize("criterion", [None, nn.CrossEntropyLoss(label_smoothing=0.2)])
def test_a_batch_of_padding_teaches_nothing(criterion: Any) -> None:
    model, task = seeded(Words), LanguageModel(criterion, ignore_index=PADDING)
    nothing = torch.zeros(2, LENGTH, dtype=torch.int64)
    loss = task.loss(model(nothing), nothing)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    silent = Samples(nothing.numpy(), nothing.numpy(), 1.0, 0.0)
    found = evaluate(model, task, silent, 2)
    assert math.isnan(found.loss) and found.metrics == {}


def test_one_next_token_and_shapes_that_do_not_go_together() -> None:
    task, logits = LanguageModel(), torch.randn(4, VOCABULARY)
    target = torch.tensor([1, 2, -100, 3])
    kept = target >= 0
    expected = functional.cross_entropy(logits[kept], target[kept])
    torch.testing.assert_close(task.loss(logits, target), expected)
    with pytest.raises(ValueError, match=r"logits \(4, 7\) do not go with targets \(4, 5\)"):
        task.loss(logits, torch.zeros(4, LENGTH, dtype=torch.int64))
    assert LanguageModel().columns({"loss": 9e9, "correct": 0}, 1)["perplexity"] == math.inf


def test_ratings_as_the_reference_system_counts_them() -> None:
    """Its loop, with batches of one: limited to 0.5 .. 5, rounded to halves."""
    samples, model = ratings(), seeded(Factors)
    x, y = samples.gather(torch.arange(30))
    assert x.dtype == torch.int64 and y.dtype == torch.float32
    with torch.no_grad():
        output = model(x).squeeze(1)
    output[3] = 0.0
    limited = output.clone()
    limited[limited > 5.0], limited[limited < 0.5] = 5.0, 0.5
    right = 100 * (torch.round(limited * 2) / 2 == y).float().mean().item()
    model.forward = lambda x: output.unsqueeze(1)
    found = evaluate(model, Rating(), samples, 30)
    mse = functional.mse_loss(output, y).item()
    assert found.loss == pytest.approx(mse)
    expected = {"acc": right, "mse": mse, "rmse": math.sqrt(mse)}
    assert found.metrics == {name: pytest.approx(value) for name, value in expected.items()}
    absolute = evaluate(model, Rating(nn.L1Loss()), samples, 30)
    assert absolute.loss == pytest.approx(functional.l1_loss(output, y).item())
    assert absolute.metrics["rmse"] == pytest.approx(math.sqrt(mse))
    assert Rating(step=0.1).metrics(torch.tensor([3.71]), torch.tensor([3.7]))["correct"] == 1


@pytest.mark.parametrize(
    ("model", "task", "samples", "lr"),
    [
        (Words, LanguageModel(ignore_index=PADDING), text(40), 0.2),
        (Factors, Rating(), ratings(40), 0.02),
    ],
)
def test_tasks_are_learned(model: type[nn.Module], task: Task, samples: Samples, lr: float) -> None:
    """Also by per-sample gradients, whose mean is the gradient where samples weigh alike."""
    template = Template(seeded(model))
    sgd = Component(Target("torch.optim", "SGD"), {"lr": lr, "momentum": 0.9})
    training = Training(rounds=20, batch_size=8, shuffle=True)
    trainer = Trainer(template, make_optimizer(template, sgd), training, task, samples, seed=1)
    learner, row = trainer.learner(0, np.arange(40)), template.initial.clone()
    before = trainer.evaluate(row, samples, None)
    for t in range(10):
        trainer.train([LocalWork(learner, row, t)])
    after = trainer.evaluate(row, samples, learner.indices)
    assert after.loss < 0.8 * before.loss and after.metrics["acc"] > before.metrics["acc"]
    step = trainer._step
    step.begin(0, 0, 0, *samples.gather(torch.arange(8)), {})
    each = step.per_sample()
    alone = []
    for i in range(8):
        step.begin(0, 0, 0, *samples.gather(torch.tensor([i])), {})
        step.backward()
        alone.append(step.grad.clone())
    torch.testing.assert_close(each, torch.stack(alone), rtol=1e-4, atol=1e-6)


class Signs(Task):
    """A user's own: the share of outputs with the right sign, and nothing else."""

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"sign": (output.sign() == target.sign()).sum(), "seen": torch.tensor(len(output))}


def test_a_task_of_ones_own() -> None:
    samples = Samples(np.arange(-4.0, 4.0), np.array([1.0, -1] * 4), 1.0, 0.0)
    task = build_task(None, Component(Target(__name__, "Signs")), None)
    with pytest.raises(ConfigError, match="Signs has no loss of its own: set loss_class"):
        evaluate(nn.Identity(), task, samples, 3)
    found = evaluate(nn.Identity(), Signs(nn.MSELoss()), samples, 3)
    signs = np.sign(np.arange(-4, 4)) == np.array([1, -1] * 4)
    assert found == Evaluation(pytest.approx(found.loss), {"sign": signs.mean(), "seen": 1.0})


class Named:
    name: ClassVar[str] = "named"
    task: ClassVar[Any] = "language"


class Held:
    task: ClassVar[Any] = LanguageModel(ignore_index=3)


def test_which_task_is_taken() -> None:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    named = build_task(Named, None, loss)
    assert type(named) is LanguageModel and named.criterion is loss
    held = build_task(Held(), None, loss)
    assert held.ignore_index == 3 and held.criterion is loss and Held.task.criterion is None
    assert build_task(Held, None, None) is Held.task
    assert type(build_task(object(), None, None)) is Classification
    rating = Component(Target("decentralizepy.training.task", "Rating"), {"step": 1.0})
    assert build_task(Named, rating, None).step == 1.0
    with pytest.raises(ConfigError, match="the task of named is not a subclass of Task"):
        build_task(type("Odd", (Named,), {"task": 5}), None, None)
    with pytest.raises(ConfigError, match="task = 'speech' of the data set: known are classif"):
        build_task(type("Odd", (Named,), {"task": "speech"}), None, None)
    with pytest.raises(ConfigError, match="a step above 0"):
        Rating(step=0)


@pytest.mark.parametrize(
    ("stored", "kind", "scaled"),
    [
        (np.uint8, torch.float32, True), (np.float64, torch.float32, True),
        (np.float16, torch.float32, True), (np.int64, torch.int64, False),
        (np.int32, torch.int64, False), (np.int16, torch.int64, False),
        (bool, torch.float32, True),
    ],
)  # fmt: skip
def test_what_a_model_sees(stored: type, kind: torch.dtype, scaled: bool) -> None:
    values = np.array([[0, 1], [1, 0], [1, 1]]).astype(stored)
    samples = Samples(values, np.array([0, 1, 2], dtype=np.int32), 0.5, -1.0)
    expected = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    expected = (expected * 0.5 - 1 if scaled else expected).to(kind)
    if stored is bool:
        expected = torch.tensor([[1.0, 1.0], [0.0, 1.0]]) * 0.5 - 1
    for x, y in (samples.gather(torch.tensor([2, 0])), samples.only(np.array([2, 0])).slice(0, 2)):
        assert x.dtype == kind and torch.equal(x, expected)
        assert y.dtype == torch.int64 and y.tolist() == [2, 0]


def test_targets_of_any_shape() -> None:
    x = np.zeros((3, 2), np.float32)
    for y, kind in ((np.ones((3, 4), np.int16), torch.int64), (np.ones(3), torch.float32)):
        _, found = Samples(x, y, 1.0, 0.0).gather(torch.tensor([1, 2]))
        assert found.dtype == kind and found.shape == (2, *y.shape[1:])
    assert Samples(np.zeros((2, 4, 5, 3), np.int64), np.zeros(2, int), 1, 0).slice(0, 2)[
        0
    ].shape == (2, 4, 5, 3), "tokens of four axes are no images"
    with pytest.raises(ValueError, match="3 inputs do not go with 2 targets"):
        Samples(x, np.zeros(2), 1.0, 0.0)


def test_what_a_node_knows_of_its_labels() -> None:
    samples = Samples(np.zeros((6, 1), np.float32), np.array([4, 0, 0, 2, 2, 2]), 1.0, 0.0)
    learner = Learner(0, np.array([1, 3, 4]))
    assert learner.n_samples == 3
    assert learner.label_counts(samples).tolist() == [1, 0, 2, 0, 0]
    assert learner.label_counts(samples) is learner.label_counts(samples)
    nobody = Learner(-1, np.zeros(0, dtype=np.int64))
    assert nobody.label_counts(samples).tolist() == [0] * 5
    for other in (text(), ratings()):
        with pytest.raises(ValueError, match="are no labels"):
            Learner(0, np.array([1])).label_counts(other)


class Broken(Rating):
    """A task of somebody's own in which one method is wrong."""

    def __init__(self, method: str) -> None:
        super().__init__()
        setattr(self, method, lambda *given: {}["what"])


@pytest.mark.parametrize("call", ["count(target)", "loss(output, target)",
                                  "metrics(output, target)", "columns(sums, count)"])  # fmt: skip
def test_what_a_task_gets_wrong_is_told_with_its_name(call: str) -> None:
    method = call.partition("(")[0]
    with pytest.raises(RunError, match="Broken") as raised:
        evaluate(seeded(Factors), Broken(method), ratings(), 8)
    assert f"Broken.{method} fails; it is called as {call}: KeyError: 'what'" in str(raised.value)
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(ConfigError, match="Task has no loss of its own: set loss_class"):
        evaluate(seeded(Factors), Task(), ratings(), 8)


def _count(found: Any) -> type[Rating]:
    return type("Mine", (Rating,), {"count": lambda self, target: found(target)})


@pytest.mark.parametrize(
    "found", [lambda y: (y > 0).sum(), lambda y: np.int64(len(y)), lambda y: float(len(y))]
)
def test_numbers_of_any_kind_count_units(found: Any) -> None:
    same = evaluate(seeded(Factors), Rating(), ratings(), 8)
    assert evaluate(seeded(Factors), _count(found)(), ratings(), 8) == same


@pytest.mark.parametrize(
    "found", [lambda y: y, lambda y: 2.5, lambda y: -1, lambda y: None, lambda y: "3"]
)
def test_what_counts_no_units_is_told(found: Any) -> None:
    told = r"Mine.count gives .* \(of type [\w.]+\): a whole number of at least 0, as int\(...\)"
    with pytest.raises(RunError, match=told):
        evaluate(seeded(Factors), _count(found)(), ratings(), 8)


class Gives(Rating):
    """A task whose methods give what a test says."""

    def __init__(self, metrics: Any = None, columns: Any = None) -> None:
        super().__init__()
        self.given = metrics, columns

    def metrics(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return super().metrics(output, target) if self.given[0] is None else self.given[0]

    def columns(self, sums: Any, count: int) -> dict[str, float]:
        return super().columns(sums, count) if self.given[1] is None else self.given[1]


def test_metrics_and_columns_may_be_numbers_of_any_kind() -> None:
    metrics = {"squared": 2.0, "correct": np.float32(3)}
    found = evaluate(seeded(Factors), Gives(metrics), ratings(16), 8).metrics
    assert found == {"acc": 100 * 6 / 16, "mse": 4 / 16, "rmse": 0.5}
    columns = {"one": torch.tensor(1.5), "two": np.float32(2)}
    found = evaluate(seeded(Factors), Gives(columns=columns), ratings(), 8).metrics
    assert found == {"one": 1.5, "two": 2.0}
    assert {type(value) for value in found.values()} == {float}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"metrics": 3}, "Gives.metrics gives 3 (of type int): a dictionary of numbers by name"),
        ({"metrics": {"a": torch.ones(2)}}, "Gives.metrics gives {'a': tensor([1., 1.])}"),
        ({"metrics": {"a": "b"}}, "Gives.metrics gives {'a': 'b'}"),
        ({"columns": 3}, "Gives.columns gives 3 (of type int): a dictionary of numbers by name"),
        ({"columns": {"a": torch.ones(2)}}, "Gives.columns gives {'a': tensor([1., 1.])}"),
        ({"columns": {"top 5": 1.0}}, "(of type dict): a name without blanks is expected"),
        ({"columns": {"": 1.0}}, "Gives.columns gives {'': 1.0}"),
        ({"metrics": {"loss": 1.0}}, "another name: 'loss' is the sum of Task.loss is expected"),
    ],
)
def test_what_is_no_number_names_the_task(given: dict[str, Any], told: str) -> None:
    with pytest.raises(RunError) as raised:
        evaluate(seeded(Factors), Gives(**given), ratings(), 8)
    assert told in str(raised.value)
