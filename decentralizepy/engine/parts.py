"""Builds the parts of an experiment from its configuration: model, trainer, sharing, program."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from decentralizepy.compression.chain import Chain
from decentralizepy.config import Component, Experiment
from decentralizepy.datasets.base import Dataset
from decentralizepy.datasets.experiment import build_dataset
from decentralizepy.errors import ConfigError
from decentralizepy.node.node import Node
from decentralizepy.registry import Target, fact
from decentralizepy.settings import Settings
from decentralizepy.training.choice import make_trainer
from decentralizepy.training.data import Samples
from decentralizepy.training.optimizers import make_optimizer
from decentralizepy.training.schedules import Rate
from decentralizepy.training.task import Loss, build_task
from decentralizepy.training.template import Template
from decentralizepy.training.trainer import Trainer
from decentralizepy.training.training import Training

_EVAL_BATCH = 64


def build_model(experiment: Experiment) -> nn.Module:
    """The model with the weights that the experiment's seed gives, the same on every node."""
    torch.manual_seed(experiment.seed)
    if experiment.fork_initial_weights:
        _draw_as_the_fork()
    model = experiment.model.build()
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{experiment.model.target.dotted} is not a torch.nn.Module")
    return model


def _draw_as_the_fork() -> None:
    """Advance torch's generator by one 64-bit number, which the fork draws before the weights.

    Its data sets count their labels with a ``DataLoader`` as they are made, and each pass over one
    draws a seed for its workers, even where there are none.
    """
    torch.empty((), dtype=torch.int64).random_()


def build_loss(component: Component | None) -> Loss | None:
    """A loss module, or a plain function of (output, target); None for the task's own."""
    if component is None:
        return None
    found: Any = component.target.load()
    loss: Any = found() if inspect.isclass(found) else found
    return loss


def build_sharing(experiment: Experiment, make: Callable[[], Any] | None = None) -> Any:
    """A sharing method of the experiment; one object per node, for it may remember things.

    ``make`` makes it in place of the class that the INI names.
    """
    named = experiment.sharing
    sharing = named.build() if make is None else make()
    missing = [
        name for name in ("begin", "outgoing", "merge", "mixing") if not hasattr(sharing, name)
    ]
    if missing:
        called = named.target.dotted if make is None else f"sharing = {make!r:.80} makes what"
        raise ConfigError(f"{called} has no {', '.join(missing)}: subclass Sharing")
    return _with_compression(sharing, experiment)


def _with_compression(sharing: Any, experiment: Experiment) -> Any:
    """The same method, with the chain that the INI names, if it names one."""
    if not experiment.compression:
        return sharing
    name, where = type(sharing).__name__, f"{experiment.path}: [SHARING] compression"
    packs = fact(Target.of(type(sharing)), "packs", False, about="outgoing")
    if not packs:  # a method that no INI names was not asked before
        raise ConfigError(f"{where}: {name} makes its messages itself, without self.pack")
    chain = build_chain(experiment)
    try:
        chain.check(selects=sharing.selects, sends_changes=sharing.sends_changes)
    except ValueError as error:
        raise ConfigError(f"{where} with {name}: {error}") from error
    sharing.compression = chain
    return sharing


def build_chain(experiment: Experiment) -> Chain:
    """The chain that the INI names; raises `ConfigError` for parts that do not fit together."""
    parts = [component.build() for component in experiment.compression]
    if len(parts) == 1 and isinstance(parts[0], Chain):
        return parts[0]
    try:
        return Chain(*parts)
    except ValueError as error:
        raise ConfigError(f"{experiment.path}: [SHARING] compression: {error}") from error


def build_program(component: Component) -> Node:
    """A node program with its own options, not yet bound to a node."""
    program = component.build()
    if not isinstance(program, Node):
        raise ConfigError(f"{component.target.dotted} is not a subclass of Node")
    return program


def check_names(owner: Any, attribute: str, reserved: str = "") -> None:
    """Names that a user's class lists are a tuple of different ones, none of them ``reserved``."""
    names = getattr(owner, attribute, ())
    where = f"{type(owner).__name__}.{attribute} = {names!r:.80}"
    if isinstance(names, str):
        raise ConfigError(
            f"{where} is text, of which each letter would be a name: write ({names!r:.40},), with "
            "the comma of a tuple"
        )
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f'{where}: a tuple of names is expected, as ("weight", "near")')
    if len(set(names)) < len(names):
        raise ConfigError(f"{where}: a name stands there twice")
    if reserved in names:
        raise ConfigError(f"{where}: {reserved!r} is there already; take another name")


def check_apart(made: set[int], uid: int, node: Node, sharing: Any) -> None:
    """Each node has objects of its own; ``made`` are the identities of those before it.

    They live as long as the worker does, so that no identity comes twice.
    """
    found = {"program": node, "sharing method": sharing}
    if chain := getattr(sharing, "compression", None):  # an empty one remembers nothing
        found["compression"] = chain
    for what, one in found.items():
        if id(one) in made:
            raise ConfigError(
                f"{what} of node {uid}: what makes it gave the same object twice "
                f"({type(one).__name__}), and each node keeps its state in its own; make a new "
                "one each time"
            )
        made.add(id(one))


def build_training(component: Component) -> Training:
    """How much is trained, by a subclass of `Training`."""
    training = component.build()
    if not isinstance(training, Training):
        raise ConfigError(f"{component.target.dotted} is not a subclass of Training")
    for name, method in vars(Training).items():
        if callable(method) and not (name.startswith("__") or callable(getattr(training, name))):
            raise ConfigError(
                f"{component.target.dotted}: {name} is a method of Training, which calls it; take "
                "another name for yours"
            )
    return training


def build_rate(experiment: Experiment, settings: Settings | None) -> Rate | None:
    """The learning-rate schedule, if the INI has one."""
    if experiment.schedule is None:
        return None
    return Rate(experiment.schedule, settings.intervals.iterations if settings else 1)


def build_trainer(experiment: Experiment, train: Samples, settings: Settings | None) -> Trainer:
    """Template, optimizer and trainer; stacked where the configuration and the model allow."""
    device = settings.device if settings else "cpu"
    model = build_model(experiment)
    eval_batch = int(getattr(model, "eval_batch", _EVAL_BATCH))
    template = Template(model, device)
    arguments = (
        template,
        make_optimizer(template, experiment.optimizer),
        build_training(experiment.training),
        build_task(build_dataset(experiment), experiment.task, build_loss(experiment.loss)),
        train,
    )
    options: dict[str, Any] = {
        "seed": experiment.seed,
        "reset_optimizer": bool(settings and settings.reset_optimizer),
        "eval_batch": eval_batch,
        "rate": build_rate(experiment, settings),
    }
    trainer = make_trainer(*arguments, **options)
    state = trainer.optimizer.new_state()  # wrong options are found here, before any training
    if trainer.rate is not None:
        trainer.optimizer.scale(state, trainer.rate.factor(0))
    return trainer


def samples_of(dataset: Dataset, part: str, device: str) -> Samples:
    stored, norm = dataset.stored(part), dataset.normalization
    return Samples(stored.x, stored.y, norm.scale, norm.shift, device)
