"""One template for all nodes gives what a module per node gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from decentralizepy.config import Component
from decentralizepy.errors import ConfigError
from decentralizepy.registry import Target
from decentralizepy.streams import torch_seed
from decentralizepy.training.data import Samples
from decentralizepy.training.layout import RowLayout
from decentralizepy.training.optimizers import make_optimizer
from decentralizepy.training.task import Classification
from decentralizepy.training.template import Template
from decentralizepy.training.trainer import LocalWork, Trainer
from decentralizepy.training.training import Draw, Training


def net() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(),
        nn.Linear(6 * 36, 4),
    )  # fmt: skip


def samples() -> Samples:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    return Samples(x, rng.integers(0, 4, 60), 2 / 255, -1.0)


def trainer(
    training: Training | None = None,
    model: Callable[[], nn.Module] = net,
    **options: object,
) -> Trainer:
    template = Template(model())
    optimizer = make_optimizer(
        template, Component(Target("torch.optim", "SGD"), {"lr": 0.1, "momentum": 0.9})
    )
    training = training or Training(rounds=3, batch_size=7, shuffle=True)
    return Trainer(template, optimizer, training, Classification(), samples(), seed=1, **options)


def test_layout_is_parameters_then_float_buffers_in_state_dict_order() -> None:
    model = net()
    layout = RowLayout.of(model)
    names = [name for name, _ in model.named_parameters()]
    assert [f.name for f in layout.parameters] == names
    assert [f.name for f in layout.buffers] == ["1.running_mean", "1.running_var"]
    assert layout.counters == ("1.num_batches_tracked",)
    row = layout.row(model)
    assert layout.n_parameters == sum(p.numel() for p in model.parameters())
    other = net()
    nn.init.zeros_(other[0].weight)
    other.load_state_dict(layout.state_dict(row, [7]))
    assert all(
        torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True)
    )
    assert int(other[1].num_batches_tracked) == 7


def test_a_state_dict_names_tied_weights_twice() -> None:
    """As torch's own, so that a model takes it back; the file has each in memory of its own."""
    from safetensors.torch import load, save

    def tied() -> nn.Module:
        model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "n": nn.BatchNorm1d(4)})
        model["b"].weight = model["a"].weight
        model["n"].running_var = model["n"].running_mean
        return model

    model = tied()
    layout = RowLayout.of(model)
    row = torch.arange(float(layout.length))
    state = layout.state_dict(row)
    assert state.keys() == model.state_dict().keys() and layout.length == 16 + 4 + 4 + 8 + 4
    other = tied()
    other.load_state_dict(load(save(state)))
    assert torch.equal(layout.row(other), row)
    template = Template(tied())
    template.load(row)
    assert template.model["n"].running_var is template.model["n"].running_mean
    assert template.model["n"].running_var.tolist() == row[-4:].tolist()


def test_parameters_that_are_not_float32_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        RowLayout.of(nn.Linear(2, 2).double())


def modules(rounds: int, nodes: int, model: Callable[[], nn.Module] = net) -> list[nn.Module]:
    """The same training with one module and one torch optimizer per node."""
    data, training = samples(), Training(rounds=3, batch_size=7, shuffle=True)
    models = [model().to(memory_format=torch.channels_last) for _ in range(nodes)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models]
    for t in range(rounds):
        for uid in range(nodes):
            draw = training.draw(20, 1, uid, t)
            torch.manual_seed(torch_seed(1, uid, "dropout", t))
            x, y = data.gather(torch.from_numpy(np.arange(20) + 20 * uid)[draw.order])
            start = 0
            for size in draw.sizes:
                optimizers[uid].zero_grad()
                part = slice(start, start + size)
                nn.functional.cross_entropy(models[uid](x[part]), y[part]).backward()
                optimizers[uid].step()
                start += size
    return models


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_rows_equal_modules_bitwise_in_any_order(order: tuple[int, ...]) -> None:
    """Batch norm, dropout, momentum: nothing leaks from one node into the next."""
    one = trainer()
    learners = [one.learner(uid, np.arange(20) + 20 * uid) for uid in range(3)]
    rows = [one.template.initial.clone() for _ in range(3)]
    for t in range(3):
        for uid in order:
            one.train([LocalWork(learners[uid], rows[uid], t)])
    layout = one.template.layout
    for uid, model in enumerate(modules(3, 3)):
        assert torch.equal(rows[uid], layout.row(model))
        assert learners[uid].counters == [9]


class Assigns(nn.Module):
    """Puts new tensors in the place of its own, as users write it."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 3), nn.Linear(6 * 36, 4)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.out.weight.data = torch.renorm(self.out.weight.data, 2, 0, 0.4)
        h = self.conv(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.mean((0, 2, 3))
            self.seen = self.seen + 1
        return self.out((h - self.mean.detach()[:, None, None]).flatten(1)) / (1 + 0.1 * self.seen)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_tensors_that_a_model_puts_in_place_of_its_own_are_the_node_s(
    order: tuple[int, ...],
) -> None:
    one = trainer(model=Assigns)
    learners = [one.learner(uid, np.arange(20) + 20 * uid) for uid in range(3)]
    rows = [one.template.initial.clone() for _ in range(3)]
    for t in range(3):
        for uid in order:
            one.train([LocalWork(learners[uid], rows[uid], t)])
            one.evaluate(rows[uid], one.samples, None)
    layout = one.template.layout
    for uid, model in enumerate(modules(3, 3, Assigns)):
        assert torch.equal(rows[uid], layout.row(model))
        assert learners[uid].counters == [9]


def test_a_tensor_of_another_shape_in_place_of_its_own_is_told() -> None:
    class Grows(Assigns):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = super().forward(x)
            self.mean = torch.zeros(7)
            return found

    one = trainer(model=Grows)
    work = LocalWork(one.learner(0, np.arange(20)), one.template.initial.clone(), 0)
    with pytest.raises(ConfigError, match=r"^buffer 'mean' of the model was \(6,\) and has become"):
        one.train([work])


def test_a_buffer_may_be_infinite() -> None:
    def masked() -> nn.Module:
        model = net()
        model.register_buffer("mask", torch.triu(torch.full((4, 4), float("-inf")), 1))
        return model

    one = trainer(model=masked)
    learner, row = one.learner(0, np.arange(20)), one.template.initial.clone()
    one.train([LocalWork(learner, row, 0)])
    assert learner.nan == 0 and row.isinf().sum() == 6
    row[0] = float("inf")
    one.train([LocalWork(learner, row, 1)])
    assert learner.nan == 2


class Counts(nn.Module):
    """Buffers outside the row: of any shape, not zero at first, and used in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(192, 4)
        self.register_buffer("scale", torch.tensor(3))
        self.register_buffer("ready", torch.tensor(True))
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)).bool())
        self.register_buffer("places", torch.arange(4).expand(1, 3, 4))
        self.register_buffer("seen", torch.zeros(4, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.out(x.flatten(1)) @ self.mask.float() / self.scale
        if self.training:
            self.seen += torch.arange(4)
            self.ready.fill_(not self.ready)
        return found * (1 + self.seen) if self.ready else found


def test_integer_buffers_are_each_node_s_own_whatever_their_shape() -> None:
    one = trainer(model=Counts)
    learners = [one.learner(uid, np.arange(20) + 20 * uid) for uid in range(2)]
    rows = [one.template.initial.clone() for _ in range(2)]
    layout = one.template.layout
    for learner, row, count in zip(learners, rows, (1, 3), strict=True):
        for t in range(count):
            one.train([LocalWork(learner, row, t)])
    assert learners[0].counters[2] is learners[1].counters[2], "no node has changed it"
    for learner, row, count in zip(learners, rows, (1, 3), strict=True):
        again = one.learner(0, np.arange(20))
        again.take_back(learner.kept())
        alone = Counts().eval()
        alone.load_state_dict(layout.state_dict(row, again.counters), assign=True)
        assert alone.seen.tolist() == [0, 3 * count, 6 * count, 9 * count]
        assert not alone.ready and int(alone.scale) == 3 and alone.places.tolist()[0][2][3] == 3
        alone.ready.fill_(True)
        again.counters[layout.counters.index("ready")] = torch.tensor(True)
        x, y = one.samples.gather(torch.arange(60))
        with torch.no_grad():
            expected = nn.functional.cross_entropy(alone(x), y)
        found = one.evaluate(row, one.samples, None, again.counters)
        assert found.loss == pytest.approx(float(expected), rel=1e-5)


def test_reset_optimizer_forgets_momentum() -> None:
    kept, reset = trainer(), trainer(reset_optimizer=True)
    rows = []
    for one in (kept, reset):
        learner, row = one.learner(0, np.arange(20)), one.template.initial.clone()
        for t in range(3):
            one.train([LocalWork(learner, row, t)])
        rows.append(row)
    assert not torch.equal(*rows)


def test_evaluation_does_not_touch_the_row_or_its_statistics() -> None:
    one = trainer()
    row = one.template.initial.clone()
    before = row.clone()
    first = one.evaluate(row, one.samples, None)
    again = one.evaluate(row, one.samples, np.arange(60))
    assert torch.equal(row, before)
    assert first.loss == pytest.approx(again.loss)
    model = net().eval()
    x, y = one.samples.gather(torch.arange(60))
    with torch.no_grad():
        output = model(x)
    assert first.loss == pytest.approx(float(nn.functional.cross_entropy(output, y)), rel=1e-5)
    right = float((output.argmax(1) == y).float().mean())
    assert first.metrics["acc"] == pytest.approx(100 * right)


@pytest.mark.parametrize("shuffle", [True, False])
def test_samples_that_are_drawn_at_once_are_those_of_each_iteration(shuffle: bool) -> None:
    """Also after a resume in between, and where an iteration takes another number of steps."""
    training = Training(rounds=3, batch_size=7, shuffle=shuffle)
    one = trainer(training)
    learner = one.learner(4, np.arange(30))
    for t, steps in [*((t, None) for t in range(40)), (40, 1), (41, None), (7, None)]:
        work = LocalWork(learner, one.template.initial.clone(), t, steps=steps)
        found, alone = one.prepare(work), training.draw(30, 1, 4, t, steps)
        assert found.order.tolist() == alone.order.tolist() and found.sizes == alone.sizes
    assert len(learner.drawn) < 40


@pytest.mark.parametrize("own", ["draw", "steps"])
def test_a_users_own_draws_are_asked_for_whenever_the_node_trains(own: str) -> None:
    """They may go by what the node has done so far."""
    asked = []

    class Own(Training):
        def draw(self, n: int, seed: int, uid: int, t: int, steps: int | None = None) -> Draw:
            asked.append(t)
            return super().draw(n, seed, uid, t, steps)

    class Shorter(Training):
        def steps(self, n: int, uid: int) -> int:
            asked.append(0)
            return super().steps(n, uid)

    one = trainer({"draw": Own, "steps": Shorter}[own](rounds=3, batch_size=7, shuffle=True))
    learner, row = one.learner(4, np.arange(30)), one.template.initial.clone()
    for count, t in enumerate([0, 1, 1, 2], 1):
        one.train([LocalWork(learner, row, t)])
        assert len(asked) == count


def test_a_draw_that_gives_nothing_is_told() -> None:
    class Forgets(Training):
        def draw(self, n: int, seed: int, uid: int, t: int, steps: int | None = None) -> Draw:
            super().draw(n, seed, uid, t, steps)

    one = trainer(Forgets())
    work = LocalWork(one.learner(4, np.arange(30)), one.template.initial.clone(), 0)
    with pytest.raises(
        ConfigError,
        match=r"^Forgets.draw gives None .*: a Draw is expected, as Draw\(order, sizes\)",
    ):
        one.train([work])
