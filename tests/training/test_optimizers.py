"""Flat optimizers take the steps of torch's own, bit for bit, and keep a state per node."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import nn

from decentralizepy.config import Component
from decentralizepy.errors import ConfigError
from decentralizepy.kept import flatten, unflatten
from decentralizepy.registry import Target
from decentralizepy.training.optimizers import FlatSGDOptimizer, TorchOptimizer, make_optimizer
from decentralizepy.training.template import Template

CASES = {
    "plain": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "dampening": ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    "adam": ("Adam", {"lr": 0.01}),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    "adagrad": ("Adagrad", {"lr": 0.05}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "momentum": 0.5}),
}


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5))


def component(name: str, options: dict) -> Component:
    return Component(Target("torch.optim", name), options)


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_torch(case: str) -> None:
    name, options = CASES[case]
    template, module = Template(net()), net().to(memory_format=torch.channels_last)
    ours = make_optimizer(template, component(name, options))
    theirs = getattr(torch.optim, name)(module.parameters(), **options)
    state = ours.new_state()
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = torch.randn(2, 3, 6, 6, generator=generator)
        for model, step in ((template.model, lambda: ours.step(state)), (module, theirs.step)):
            for p in model.parameters():
                if p.grad is not None:
                    p.grad.zero_()
            model(x.contiguous(memory_format=torch.channels_last)).square().sum().backward()
            step()
    for mine, other in zip(template.model.parameters(), module.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_nodes_do_not_share_their_momentum() -> None:
    template = Template(net())
    optimizer = make_optimizer(template, component("SGD", {"lr": 0.1, "momentum": 0.9}))
    one, other = optimizer.new_state(), optimizer.new_state()
    template.grad.fill_(1.0)
    optimizer.step(one)
    assert one and not other
    kept = one["momentum_buffer"].clone()
    template.grad.fill_(5.0)
    optimizer.step(other)
    assert torch.equal(one["momentum_buffer"], kept)


def test_our_own_sgd_is_used_where_it_can_be() -> None:
    template = Template(net())
    assert isinstance(make_optimizer(template, component("SGD", {"lr": 0.1})), FlatSGDOptimizer)
    other = make_optimizer(template, component("SGD", {"lr": 0.1, "maximize": True}))
    assert isinstance(other, TorchOptimizer)
    assert len(other._parameters) == 1, "element-wise: one flat parameter"
    shaped = make_optimizer(template, component("Adafactor", {"lr": 0.1}))
    assert len(shaped._parameters) == len(list(template.model.parameters()))


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"lr": 0.1, "nesterov": True}, {"lr": 0.1, "momentum": -0.5}]
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match="OPTIMIZER_PARAMS"):
        make_optimizer(Template(net()), component("SGD", options))


def test_options_that_torch_refuses_are_refused_with_its_words() -> None:
    optimizer = make_optimizer(Template(net()), component("Adam", {"lr": -1.0}))
    with pytest.raises(ConfigError, match="Invalid learning rate"):
        optimizer.new_state()


class Remembers(torch.optim.Optimizer):
    """Keeps numbers in its group, as D-Adaptation and Prodigy do, and tensors of any dtype."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        defaults = {"lr": lr, "k": 0, "d": torch.ones(()), "betas": (0.9, 0.9)}
        super().__init__(params, defaults)

    def step(self) -> None:
        for group in self.param_groups:
            group["k"], group["d"] = group["k"] + 1, 0.9 * group["d"]
            group["betas"] = (0.9, group["k"])
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["sum"] = torch.zeros(p.shape, dtype=torch.float64)
                    state["signs"], state["n"] = torch.zeros(p.shape, dtype=torch.bool), 0
                state["n"] += 1
                state["sum"] += p.grad.double() / 3
                state["signs"] ^= p.grad > 0
                step = state["sum"].float() * group["d"] * state["signs"] / group["k"]
                p.data.add_(step, alpha=-group["lr"])


@pytest.mark.parametrize("scheduled", [False, True])
def test_all_that_an_optimizer_remembers_survives_a_checkpoint(scheduled: bool) -> None:
    found = []
    target = Target(__name__, "Remembers", made=Remembers)
    for saved_after in (None, 2):
        template = Template(net())
        optimizer = TorchOptimizer(template, Component(target, {"lr": 0.1}))
        state = optimizer.new_state()
        generator = torch.Generator().manual_seed(0)
        for t in range(5):
            if t == saved_after:
                tensors, rest = flatten({"optimizer": optimizer.export(state)})
                kept = unflatten(tensors, json.loads(json.dumps(rest)))
                assert not {"group0.lr", "group0.initial_lr"} & kept["optimizer"].keys()
                state = optimizer.restore(kept["optimizer"])
            if scheduled:
                optimizer.scale(state, 0.5**t)
            template.grad.copy_(torch.randn(template.grad.shape, generator=generator))
            optimizer.step(state)
        assert state.param_groups[0]["betas"] == (0.9, 5)
        assert {
            one.dtype
            for one in state.state[state.param_groups[0]["params"][0]].values()
            if isinstance(one, torch.Tensor)
        } == {torch.float64, torch.bool}
        found.append(template.work.clone())
    assert torch.equal(*found)


class Assigning(torch.optim.Optimizer):
    """Puts new tensors in the place of the parameters'."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data - group["lr"] * p.grad


def test_what_an_optimizer_assigns_is_the_row_s_at_once() -> None:
    template = Template(net())
    target = Target(__name__, "Assigning", made=Assigning)
    optimizer = TorchOptimizer(template, Component(target, {"lr": 0.5}))
    template.grad.fill_(1.0)
    row = torch.empty_like(template.initial)
    optimizer.step(optimizer.new_state())
    template.store(row)
    assert torch.equal(row, template.initial - 0.5)


class Roving(torch.optim.Optimizer):
    """Keeps in its group what no checkpoint holds, beside what it does."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        kept = {"mean": torch.zeros(2), "n": (0, [0.5])}
        made = {"draws": torch.Generator(), "rule": lambda x: x, "array": np.zeros(2)}
        pairs = {"pair": (torch.ones(()), torch.ones(2)), "deep": [{"a": torch.ones(2)}]}
        super().__init__(params, {"lr": lr, "table": {"by": dict(kept)}, **kept, **made, **pairs})

    def step(self) -> None:
        for group in self.param_groups:
            group["mean"] = group["mean"] + 1
            group["table"] = {"by": {"mean": group["mean"] / 2, "n": group["n"]}}
            group["n"] = (group["n"][0] + 1, [0.25])


def test_of_a_group_is_kept_what_a_checkpoint_holds() -> None:
    template = Template(net())
    optimizer = TorchOptimizer(
        template, Component(Target(__name__, "Roving", made=Roving), {"lr": 0.5})
    )
    state = optimizer.new_state()
    assert not optimizer.export(state), "nothing has changed"
    optimizer.step(state)
    tensors, rest = flatten(optimizer.export(state))
    again = optimizer.restore(unflatten(tensors, json.loads(json.dumps(rest)))).param_groups[0]
    assert again["mean"].tolist() == [1, 1] and again["n"] == (1, [0.25])
    assert again["table"]["by"]["mean"].tolist() == [0.5, 0.5]
    assert again["rule"](3) == 3 and isinstance(again["draws"], torch.Generator)


def test_tensors_of_a_group_come_back_where_the_model_is() -> None:
    template = Template(net())
    optimizer = TorchOptimizer(
        template, Component(Target(__name__, "Roving", made=Roving), {"lr": 0.5})
    )
    template.work = template.work.to("meta")  # stands in for a GPU
    exported = {"group0.mean": torch.ones(2), "group0.table": {"by": {"mean": torch.ones(2)}}}
    again = optimizer.restore({**exported, "group0.d": torch.ones(())}).param_groups[0]
    assert again["mean"].is_meta and again["table"]["by"]["mean"].is_meta
    assert again["d"].device.type == "cpu", "a single number is at home anywhere"
