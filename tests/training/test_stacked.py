"""Training many small models at once: the loop's numbers, and bits that depend on nobody else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

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
from decentralizepy.training.task import Classification
from decentralizepy.training.template import Template
from decentralizepy.training.trainer import Learner, LocalWork, Trainer
from decentralizepy.training.training import Training

NODES = 16


def arguments(model: type[nn.Module] = MLP, name: str = "SGD", **options: object) -> tuple:
    torch.manual_seed(0)
    template = Template(model())
    component = Component(Target("torch.optim", name), {"lr": 0.05, "momentum": 0.9})
    component = component if name == "SGD" else Component(component.target, {"lr": 0.05})
    rng = np.random.default_rng(0)
    data = Samples(
        rng.integers(0, 17, (NODES * 40, 8, 8, 1), dtype=np.uint8),
        rng.integers(0, 10, NODES * 40), 1 / 16, 0.0,
    )  # fmt: skip
    training = Training(**{"rounds": 3, "batch_size": 8, "shuffle": True} | options)
    return template, make_optimizer(template, component), training, Classification(), data


def rows_after(factory: type[Trainer], groups: list[list[int]], **options: object) -> torch.Tensor:
    """Rows of all nodes after three iterations, trained group by group."""
    torch.set_num_threads(1)
    trainer = factory(*arguments(**options), seed=7)
    sizes = [40 - uid % 5 for uid in range(NODES)]
    learners = [trainer.learner(u, 40 * u + np.arange(n)) for u, n in enumerate(sizes)]
    rows = [trainer.template.initial.clone() for _ in range(NODES)]
    for t in range(3):
        for group in groups:
            trainer.train([LocalWork(learners[u], rows[u], t) for u in group])
    return torch.stack(rows)


def work(
    learners: list[Learner], rows: list[torch.Tensor], t: int, **more: object
) -> list[LocalWork]:
    return [LocalWork(one, row, t, **more) for one, row in zip(learners, rows, strict=True)]


ALL = [list(range(NODES))]
#: unequal work, and gradients that are clipped
UNEQUAL = {
    "rounds": PerNode({0: 0, 3: 5, 4: 1}, default=2),
    "batch_size": PerNode({1: 64, 2: 100, 3: 4}, default=8),
    "clipping_norm": 0.3,
}
OPTIONS = [{}, {"full_epochs": True, "rounds": 1}, {"batch_size": 64}, UNEQUAL]


@pytest.mark.parametrize("options", OPTIONS)
def test_stacked_training_is_the_loop(options: dict) -> None:
    """Also with last batches of unequal sizes, and fewer samples than a batch."""
    stacked, loop = (rows_after(kind, ALL, **options) for kind in (StackedTrainer, Trainer))
    torch.testing.assert_close(stacked, loop, rtol=1e-4, atol=1e-6)
    assert not torch.equal(stacked[0], stacked[1])


@pytest.mark.parametrize(
    "groups",
    [
        [list(range(8)), list(range(8, 16))],
        [[u] for u in range(NODES)],
        [list(range(5)), list(range(5, 16))],
        [list(reversed(range(NODES)))],
    ],
)
@pytest.mark.parametrize("options", [{}, UNEQUAL])
def test_bits_do_not_depend_on_the_group(groups: list[list[int]], options: dict) -> None:
    together, apart = (rows_after(StackedTrainer, each, **options) for each in (ALL, groups))
    assert torch.equal(together, apart)


def test_what_each_node_did_is_counted_and_who_is_stacked_with_whom() -> None:
    stacked = StackedTrainer(*arguments(**UNEQUAL), seed=7)
    learners = [stacked.learner(u, 40 * u + np.arange(40)) for u in range(NODES)]
    rows = [stacked.template.initial.clone() for _ in range(NODES)]
    for t in range(3):
        stacked.train(work(learners, rows, t))
    done = [(one.steps, one.samples, one.nan) for one in learners]
    assert done[:5] == [(0, 0, 0), (6, 240, 0), (6, 240, 0), (15, 60, 0), (3, 24, 0)]
    assert torch.equal(rows[0], stacked.template.initial), "no rounds, no training"
    waiting = work(learners, rows, 3)
    assert stacked.together(waiting[1:]) == [0, 1], "both are padded to 64"
    assert stacked.together(waiting[5:]) == list(range(11))
    assert Trainer(*arguments(**UNEQUAL), seed=7).together(waiting) == [0]


@pytest.mark.parametrize("kind", [Trainer, StackedTrainer])
def test_the_first_iteration_with_nan_is_noted_and_no_other_node_s(kind: type[Trainer]) -> None:
    trainer = kind(*arguments(), seed=7)
    learners = [trainer.learner(u, 40 * u + np.arange(40)) for u in range(3)]
    rows = [trainer.template.initial.clone() for _ in range(3)]
    for t in range(4):
        if t == 2:
            rows[1][5] = float("inf")
        trainer.train(work(learners, rows, t))
    assert [one.nan for one in learners] == [0, 3, 0]
    assert torch.isfinite(rows[0]).all() and torch.isfinite(rows[2]).all()


@pytest.mark.parametrize("kind", [Trainer, StackedTrainer, MappedTrainer])
def test_whoever_wants_looks_in_between_two_steps(kind: type[Trainer]) -> None:
    """The rows are as they were, until all steps are taken; then as if nobody had looked."""
    found = []
    for looks in (False, True):
        trainer, seen = kind(*arguments(rounds=4), seed=7), list[torch.Tensor]()
        row = trainer.template.initial.clone()
        if looks:
            trainer.meanwhile = partial(lambda seen, row: seen.append(row.clone()), seen, row)
        trainer.train([LocalWork(trainer.learner(0, np.arange(40)), row, 0)])
        assert len(seen) == 3 * looks
        assert all(torch.equal(one, trainer.template.initial) for one in seen)
        found.append(row)
    assert torch.equal(*found)


def chosen(**options: object) -> bool:
    return isinstance(make_trainer(*arguments(**options), seed=0), StackedTrainer)


def test_who_is_stacked_is_decided_by_the_configuration() -> None:
    assert chosen()
    assert not chosen(stacked="no")
    assert not chosen(model=CNN)
    assert not chosen(model=DropoutMLP)
    assert not chosen(name="Adam")
    with pytest.raises(ConfigError, match="stacked = yes, but the model"):
        chosen(model=CNN, stacked="yes")


class Deep(nn.Module):
    """Layers of odd sizes: with tails in every vectorized loop."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 33), nn.Tanh(), nn.Linear(33, 21, bias=False),
            nn.Sigmoid(), nn.Linear(21, 13), nn.ReLU(), nn.Linear(13, 10),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_a_deep_chain_is_the_loop() -> None:
    stacked, loop = (rows_after(kind, ALL, model=Deep) for kind in (StackedTrainer, Trainer))
    torch.testing.assert_close(stacked, loop, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", [MLP, Deep])
@pytest.mark.parametrize("batch", [1, 3, 8, 17])
def test_bits_do_not_depend_on_the_parts_of_a_stack(
    model: type[nn.Module], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_after(StackedTrainer, ALL, model=model, batch_size=batch)
    length = sum(p.numel() for p in model().parameters())
    for nodes in (1, 2, 3, 5, 7, 11):
        monkeypatch.setattr("decentralizepy.training.stacked._IN_CACHE", nodes * length)
        assert torch.equal(expected, rows_after(StackedTrainer, ALL, model=model, batch_size=batch))


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


class More(nn.Module):
    """What begins like a model that can be stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = chain()


class OtherInput(More):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(4 * x)


class OtherOutput(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*chain())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 2


class MoreParameters(More):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) * self.scale


def with_buffer() -> nn.Module:
    model = chain()
    model.register_buffer("seen", torch.zeros(3))
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
    model[3].weight = model[1].weight
    return model


def twice() -> nn.Module:
    layer = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)


def hooked() -> nn.Module:
    model = chain()
    model[1].register_forward_hook(lambda module, given, out: 3 * out)
    return model


def masked() -> nn.Module:
    model = chain()
    model[1].weight.register_hook(torch.zeros_like)
    return model


def with_a_forward_of_its_own() -> nn.Module:
    model = chain()
    model[1].forward = lambda x: x
    return model


@pytest.mark.parametrize(
    "model",
    [
        OtherInput, OtherOutput, MoreParameters, with_buffer, tied, twice, hooked, masked,
        with_a_forward_of_its_own,
    ],
)  # fmt: skip
def test_a_model_that_is_more_than_its_layers_is_trained_as_it_is(
    model: Callable[[], nn.Module],
) -> None:
    assert not chosen(model=model)
    with pytest.raises(ConfigError, match="the model is not just a chain of Flatten, Linear"):
        chosen(model=model, stacked="yes")


def test_a_chain_that_is_partly_frozen_is_not_stacked() -> None:
    def partly() -> nn.Module:
        model = chain()
        model[1].requires_grad_(False)
        return model

    assert not chosen(model=partly)
    for stacked in ("yes", "vmap"):
        with pytest.raises(ConfigError, match=r"parameter 1\.weight is not trained"):
            chosen(model=partly, stacked=stacked)


def test_a_chain_is_stacked_whoever_wrote_it() -> None:
    class Mine(More):
        def forward(self, pictures):
            """As users write it."""
            return self.layers(pictures)

    assert chosen(model=Mine) and chosen(model=chain) and chosen(model=Deep)


def shared_rows(trainer: Trainer, places: list[int]) -> list[torch.Tensor]:
    """Rows of one memory, as an arena has them."""
    length = trainer.template.layout.length
    matrix = torch.full((NODES * 2, length + 5), float("nan"))
    rows = [matrix[place, :length] for place in places]
    for row in rows:
        row.copy_(trainer.template.initial)
    return rows


@pytest.mark.parametrize("places", [range(16), range(31, 15, -1), [0, 31, 2, *range(5, 18)]])
def test_rows_may_be_anywhere(places: list[int]) -> None:
    """The same bits, and what lies between them is not touched."""
    expected = rows_after(StackedTrainer, ALL)
    trainer = StackedTrainer(*arguments(), seed=7)
    rows = shared_rows(trainer, list(places))
    learners = [trainer.learner(u, 40 * u + np.arange(40 - u % 5)) for u in range(NODES)]
    for t in range(3):
        trainer.train(work(learners, rows, t))
    assert torch.equal(torch.stack(rows), expected)
    assert int(rows[0]._base.isnan().sum()) == 16 * (len(rows[0]) + 5) + 16 * 5


def test_states_survive_other_groups_and_a_checkpoint() -> None:
    """Momentum lies where the stack was; a node may leave it, and come back from a file."""
    expected = rows_after(StackedTrainer, [[0, 1, 2, 3]])[:4]
    trainer = StackedTrainer(*arguments(), seed=7)
    learners = [trainer.learner(u, 40 * u + np.arange(40 - u % 5)) for u in range(4)]
    rows = [trainer.template.initial.clone() for _ in range(4)]
    groups = [[[0, 1], [2, 3]], [[3, 1, 0], [2]], [[0, 1, 2, 3]]]
    for t, each in enumerate(groups):
        for group in each:
            trainer.train(work([learners[u] for u in group], [rows[u] for u in group], t))
        one = learners[2]
        saved = {k: v.clone() for k, v in trainer.optimizer.export(one.optimizer).items()}
        one.optimizer = trainer.optimizer.restore(saved)
    assert torch.equal(torch.stack(rows), expected)


def test_momentum_lies_side_by_side_also_after_a_checkpoint() -> None:
    """And a node of the same uid that begins anew has a place of its own."""
    trainer = StackedTrainer(*arguments(), seed=7)
    learners = [trainer.learner(u, 40 * u + np.arange(40)) for u in range(NODES)]
    rows = [trainer.template.initial.clone() for _ in range(NODES)]
    for t in range(2):
        trainer.train(work(learners, rows, t))
        held = [one.optimizer["momentum_buffer"] for one in learners]
        assert all(one._base is held[0]._base is not None for one in held)
        for one in learners:
            exported = trainer.optimizer.export(one.optimizer)
            one.optimizer = trainer.optimizer.restore(exported)
    again = [trainer.learner(u, 40 * u + np.arange(40)) for u in range(NODES)]
    before = torch.stack([one.optimizer["momentum_buffer"] for one in learners])
    trainer.train(work(again, [row.clone() for row in rows], 2))
    after = torch.stack([one.optimizer["momentum_buffer"] for one in learners])
    assert torch.equal(before, after)


def test_nodes_with_and_without_momentum_are_trained_apart() -> None:
    """As when one comes late, or has sat out."""
    trainer = StackedTrainer(*arguments(), seed=7)
    learners = [trainer.learner(u, 40 * u + np.arange(40)) for u in range(3)]
    rows = [trainer.template.initial.clone() for _ in range(3)]
    trainer.train(work(learners[:2], rows[:2], 0))
    trainer.train(work(learners, rows, 1))
    alone = trainer.template.initial.clone()
    trainer.train(work([trainer.learner(2, 80 + np.arange(40))], [alone], 1))
    assert torch.equal(rows[2], alone)


@pytest.mark.parametrize("sizes", [(8,), (3, 8, 8)])
def test_models_without_flatten_need_vectors(sizes: tuple[int, ...]) -> None:
    """A linear layer on images works on their last axis, not on all of them."""
    template, optimizer, training, task, _ = arguments(nn.Sequential)
    template = Template(nn.Sequential(nn.Linear(8, 10)))
    optimizer = make_optimizer(template, Component(Target("torch.optim", "SGD"), {"lr": 0.1}))
    samples = Samples(np.zeros((4, *sizes), np.float32), np.zeros(4, np.int64), 1.0, 0.0)
    trainer = make_trainer(template, optimizer, training, task, samples, seed=0)
    assert trainer.takes_groups == (len(sizes) == 1)
