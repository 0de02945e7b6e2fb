"""Any torch optimizer over the flat work row, with one small state per node.

An element-wise optimizer does not care how parameters are cut into tensors, so it gets a single
flat parameter; one that looks at shapes (Muon, Adafactor, users' own) gets the model's tensors.
Plain and momentum SGD are written here: the same arithmetic in the same order as
``torch.optim.SGD``, bit for bit, without loading the optimizer package (0.8 s and 70 MB a process).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from decentralizepy.config import Component
from decentralizepy.errors import ConfigError
from decentralizepy.kept import UnfitError, flatten
from decentralizepy.training.template import Template, placed

#: optimizers of torch whose step treats every element alike
ELEMENTWISE: Final = frozenset(
    {"SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Adadelta", "Adamax", "NAdam", "RAdam", "Rprop"}
)
#: before the number of a group, in the name of what an optimizer keeps there
_GROUP: Final = "group"
_SGD_OPTIONS: Final = frozenset({"lr", "momentum", "dampening", "weight_decay", "nesterov"})


class NodeOptimizer(Protocol):
    """Steps the template's work row with the state of one node."""

    def new_state(self) -> Any:
        """A fresh state, as after constructing the optimizer."""

    def step(self, state: Any) -> None:
        """One step on the work row from the gradients in ``template.grad``."""

    def export(self, state: Any) -> dict[str, Any]:
        """The state as tensors and JSON values, by name; flat tensors in the order of rows."""

    def restore(self, exported: dict[str, Any]) -> Any:
        """The state that `export` gave."""

    def scale(self, state: Any, factor: float) -> None:
        """Take the next steps with this state at ``factor`` times the lr of the INI."""


class FlatSGD:
    """SGD with momentum, Nesterov and weight decay on flat tensors (Sutskever et al., 2013)."""

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if lr < 0 or momentum < 0 or weight_decay < 0:
            raise ConfigError("[OPTIMIZER_PARAMS] lr, momentum and weight_decay must not be < 0")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ConfigError("[OPTIMIZER_PARAMS] nesterov needs momentum > 0 and dampening = 0")
        self.lr = self.base_lr = lr
        self.momentum, self.dampening = momentum, dampening
        self.weight_decay, self.nesterov = weight_decay, nesterov

    def new_state(self) -> dict[str, Tensor]:
        return {}

    def update(self, x: Tensor, grad: Tensor, state: dict[str, Tensor]) -> None:
        """Step ``x`` in place; ``grad`` may be overwritten. Any shape, so stacks of nodes too.

        Neither may require gradients: nothing is recorded, so nothing has to be switched off.
        """
        if self.weight_decay:
            grad.add_(x, alpha=self.weight_decay)
        if self.momentum:
            grad = self._momentum(grad, state)
        x.add_(grad, alpha=-self.lr)

    def _momentum(self, grad: Tensor, state: dict[str, Tensor]) -> Tensor:
        buffer = state.get("momentum_buffer")
        if buffer is None:
            buffer = state["momentum_buffer"] = grad.clone()
        else:
            buffer.mul_(self.momentum).add_(grad, alpha=1 - self.dampening)
        return grad.add_(buffer, alpha=self.momentum) if self.nesterov else buffer


class FlatSGDOptimizer:
    """`FlatSGD` bound to a template."""

    def __init__(self, template: Template, rule: FlatSGD) -> None:
        self.rule = rule
        self._template = template
        self._x = template.work[: template.layout.n_parameters]
        self._grad = template.grad

    def new_state(self) -> dict[str, Tensor]:
        return self.rule.new_state()

    def step(self, state: dict[str, Tensor]) -> None:
        self.rule.update(self._x, self._grad, state)

    def export(self, state: dict[str, Tensor]) -> dict[str, Any]:
        return {name: _to_row(self._template, value) for name, value in state.items()}

    def restore(self, exported: dict[str, Any]) -> dict[str, Tensor]:
        return {name: _to_work(self._template, value) for name, value in exported.items()}

    def scale(self, state: dict[str, Tensor], factor: float) -> None:
        self.rule.lr = self.rule.base_lr * factor


class TorchOptimizer:
    """A torch optimizer by dotted name: one light object per node, all on the same work row."""

    def __init__(self, template: Template, component: Component) -> None:
        self._component, self._template = component, template
        self._flat = _is_flat_rule(component)
        self._parameters = list(_parameters(template, self._flat))

    def new_state(self) -> torch.optim.Optimizer:
        options = dict(self._component.options)
        try:
            return self._component.target.load()(self._parameters, **options)
        except Exception as error:  # wrong options can raise nearly anything
            name = self._component.target.dotted
            plain = isinstance(error, TypeError | ValueError)
            said = str(error) if plain else f"{type(error).__name__}: {error}"
            raise ConfigError(f"[OPTIMIZER_PARAMS] {name}: {said}") from error

    def step(self, state: torch.optim.Optimizer) -> None:
        state.step()
        if not self._flat:  # one of a user's may assign ``p.data = ...``
            self._template.take_in()

    def scale(self, state: torch.optim.Optimizer, factor: float) -> None:
        for group in state.param_groups:  # torch's own schedules keep the first lr there, too
            if "lr" not in group:
                raise ConfigError(f"[LR_SCHEDULE] {self._component.target.dotted} has no lr")
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def export(self, state: torch.optim.Optimizer) -> dict[str, Any]:
        """Its state by parameter, and what it has changed in its groups, where some keep theirs."""
        found, first = state.state_dict(), self.new_state().state_dict()["param_groups"]
        exported = {
            f"{i}.{name}": _to_row(self._template, value)
            for i, values in found["state"].items()
            for name, value in values.items()
        }
        for i, (group, before) in enumerate(zip(found["param_groups"], first, strict=False)):
            for name, value in group.items():
                if name in _recomputed(group) or not _fits(value):
                    continue
                if _differ(value, before.get(name)):
                    exported[f"{_GROUP}{i}.{name}"] = _to_row(self._template, value)
        return exported

    def restore(self, exported: dict[str, Any]) -> torch.optim.Optimizer:
        optimizer = self.new_state()
        value = optimizer.state_dict()
        state, groups = value["state"], value["param_groups"]
        for key, one in exported.items():
            place, _, name = key.partition(".")
            found = _to_work(self._template, one)
            if place.startswith(_GROUP):
                group = groups[int(place.removeprefix(_GROUP))]
                found = _at_work(self._template, found)
                group[name] = tuple(found) if isinstance(group.get(name), tuple) else found
            else:
                state.setdefault(int(place), {})[name] = found
        optimizer.load_state_dict(value)
        _keep_dtypes(optimizer, state)
        return optimizer


def _fits(value: Any) -> bool:
    """Whether a checkpoint can hold a value of a group; a generator or a function begins anew."""
    try:
        flatten({"value": value})
    except UnfitError:
        return False
    return True


def _differ(one: Any, other: Any) -> bool:
    """Whether a value of a group has changed."""
    if type(one) is not type(other):
        return True
    if isinstance(one, Tensor):
        kinds = one.dtype == other.dtype and one.device == other.device
        return not (kinds and torch.equal(one, other))
    if isinstance(one, dict):
        return one.keys() != other.keys() or any(_differ(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) != len(other) or any(map(_differ, one, other))
    return bool(one != other)


def _recomputed(group: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a group is never saved; with a schedule that is the rate, too (see `scale`)."""
    return ("params", "lr", "initial_lr") if "initial_lr" in group else ("params",)


def _keep_dtypes(optimizer: torch.optim.Optimizer, state: Mapping[int, dict[str, Any]]) -> None:
    """Undo that torch makes whatever it loads of the parameters' dtype, also counts and masks."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for i, values in state.items():
        loaded = optimizer.state[parameters[i]]
        for name, one in values.items():
            if isinstance(one, Tensor) and loaded[name].dtype != one.dtype:
                loaded[name] = one.to(loaded[name].device)


def _is_flat(template: Template, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == template.grad.shape


def _to_row(template: Template, value: Any) -> Any:
    return template.to_row_order(value).cpu() if _is_flat(template, value) else value


def _to_work(template: Template, value: Any) -> Any:
    if not _is_flat(template, value):
        return value
    return template.to_work_order(value.to(template.device))


def _is_flat_rule(component: Component) -> bool:
    """Whether an optimizer may take all parameters as one flat tensor."""
    target = component.target
    return target.module.startswith("torch.optim") and target.name in ELEMENTWISE


def _at_work(template: Template, value: Any) -> Any:
    """A value of a group, with tensors where the template has its own; single numbers stay."""
    return placed(value, template.device, least=1)


def _parameters(template: Template, flat_rule: bool) -> Iterator[nn.Parameter]:
    if not flat_rule:
        yield from template.model.parameters()
        return
    flat = nn.Parameter(template.work[: template.layout.n_parameters])
    flat.grad = template.grad
    yield flat


def flat_sgd(component: Component) -> FlatSGD | None:
    """Our own SGD when the INI asks for torch's with options that it knows."""
    named_sgd = component.target.module.startswith("torch.optim") and component.target.name == "SGD"
    options: Mapping[str, Any] = component.options
    return FlatSGD(**options) if named_sgd and options.keys() <= _SGD_OPTIONS else None


def make_optimizer(template: Template, component: Component) -> NodeOptimizer:
    """The optimizer that an INI names, on a template."""
    rule = flat_sgd(component)
    if rule is not None:
        return FlatSGDOptimizer(template, rule)
    return TorchOptimizer(template, component)
