"""Builds a worker from settings: data, template, trainer, nodes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from decentralizepy.config import Component, Experiment
from decentralizepy.datasets.base import Dataset
from decentralizepy.datasets.experiment import partition, prepared_dataset
from decentralizepy.engine import nodefile
from decentralizepy.engine.checkpoints import CheckpointSets, node_file
from decentralizepy.engine.faults import Faults
from decentralizepy.engine.report import Evaluator, Reporter
from decentralizepy.engine.seat import Seat
from decentralizepy.engine.virtual import SimulatedWorker
from decentralizepy.engine.worker import Worker
from decentralizepy.errors import ConfigError
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory.arena import Arena
from decentralizepy.node.node import Node
from decentralizepy.settings import Settings
from decentralizepy.training.data import Samples
from decentralizepy.training.evaluation import Loss
from decentralizepy.training.optimizers import make_optimizer
from decentralizepy.training.schedules import Rate
from decentralizepy.training.stacked import StackedTrainer, choose_stacked
from decentralizepy.training.template import Template
from decentralizepy.training.trainer import Trainer
from decentralizepy.training.training import Training

_EVAL_BATCH = 64


def build_model(experiment: Experiment) -> nn.Module:
    """The model with the weights that the experiment's seed gives, the same on every node."""
    torch.manual_seed(experiment.seed)
    model = experiment.model.build()
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{experiment.model.target.dotted} is not a torch.nn.Module")
    return model


def build_loss(component: Component | None) -> Loss:
    """A loss module, or a plain function of (output, target)."""
    if component is None:
        raise ConfigError("[TRAIN_PARAMS] needs the key 'loss_package'")
    found: Any = component.target.load()
    loss: Any = found() if inspect.isclass(found) else found
    return loss


def build_sharing(experiment: Experiment) -> Any:
    """A sharing method of the experiment; one object per node, for it may remember things."""
    sharing = experiment.sharing.build()
    missing = [name for name in ("outgoing", "merge", "mixing") if not hasattr(sharing, name)]
    if missing:
        name = experiment.sharing.target.dotted
        raise ConfigError(f"{name} has no {', '.join(missing)}: subclass Sharing")
    return sharing


def build_program(component: Component) -> Node:
    """A node program with its own options, not yet bound to a node."""
    program = component.build()
    if not isinstance(program, Node):
        raise ConfigError(f"{component.target.dotted} is not a subclass of Node")
    return program


def build_training(component: Component) -> Training:
    """How much is trained, by a subclass of `Training`."""
    training = component.build()
    if not isinstance(training, Training):
        raise ConfigError(f"{component.target.dotted} is not a subclass of Training")
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
        build_loss(experiment.loss),
        train,
    )
    options: dict[str, Any] = {
        "seed": experiment.seed,
        "reset_optimizer": bool(settings and settings.reset_optimizer),
        "eval_batch": eval_batch,
        "rate": build_rate(experiment, settings),
    }
    trainer = Trainer(*arguments, **options)
    if choose_stacked(trainer):
        trainer = StackedTrainer(*arguments, **options)
    state = trainer.optimizer.new_state()  # wrong options are found here, before any training
    if trainer.rate is not None:
        trainer.optimizer.scale(state, trainer.rate.factor(0))
    return trainer


def _samples(dataset: Dataset, part: str, device: str) -> Samples:
    stored, norm = dataset.stored(part), dataset.normalization
    return Samples(stored.x, stored.y, norm.scale, norm.shift, device)


class Assembly:
    """Everything of a worker that does not depend on who the other workers are."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        if settings.device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"--device {settings.device}: torch finds no GPU here; take cpu")
        self._sets = CheckpointSets(settings.folder)
        dataset = prepared_dataset(settings.experiment, settings.cache_dir)
        parts = {part: _samples(dataset, part, settings.device) for part in ("train", "test")}
        self.trainer = build_trainer(settings.experiment, parts["train"], settings)
        chosen = {name: dataset.select(name) for name in ("test", "validation")}
        self.sets = {name: parts[one.part].only(one.indices) for name, one in chosen.items()}
        self.partition = partition(dataset, settings.mapping.n, settings.experiment)

    @property
    def row_length(self) -> int:
        """Elements of a node's row."""
        return self.trainer.template.layout.length

    def worker(self, me: WorkerId, placement: Placement, arena: Arena, **wiring: Any) -> Worker:
        """The worker ``me`` with its nodes seated."""
        settings = self.settings
        evaluator = Evaluator(self.trainer, self.sets, settings.intervals)
        reporter = Reporter(settings, me)
        parts = (me, placement, arena, self.trainer, evaluator, reporter)
        wiring |= {"save": self._save}
        virtual = settings.simulation is not None
        if settings.simulation is not None:
            more: dict[str, Any] = {
                "simulation": settings.simulation,
                "on_loss": settings.resilience.on_loss,
            }
            worker: Worker = SimulatedWorker(*parts, **more, **wiring)
        else:
            worker = Worker(*parts, **wiring)
        if settings.faults is not None:
            worker.faults = Faults(settings.faults, worker, settings.folder, virtual=virtual)
        self._seat_nodes(worker)
        if me.worker == 0 and settings.intervals.iterations:
            self._rehearse(worker)
        return worker

    def _rehearse(self, worker: Worker) -> None:
        """Classes that cannot train together are found now; one worker is enough for that."""
        seat = next(iter(worker.seats.values()), None)
        try:
            if seat is not None:
                self.trainer.rehearse(seat.learner.indices)
        except Exception as error:  # users' classes, or torch's, may raise anything
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(
                "a training step on two samples fails; do model_class, loss_class, optimizer_class "
                f"and the data set fit together? {what:.500}"
            ) from error

    def _save(self, worker: Worker, seat: Seat, t: int) -> int:
        path = node_file(self._sets.folder(t + 1), seat.uid)
        return nodefile.save(path, seat, self.trainer.optimizer, t, worker.clock.now())

    def restore(self, worker: Worker, iteration: int) -> float:
        """Set all nodes as they were after ``iteration`` iterations; the run's seconds then."""
        if not iteration:
            return 0.0
        folder = self._sets.folder(iteration)
        found = [
            nodefile.load(node_file(folder, uid), seat, self.trainer.optimizer)
            for uid, seat in worker.seats.items()
        ]
        return max(found, default=0.0)

    def _check_mixing(self, node: Node) -> None:
        """The method can weigh the graph's edges; it says why not before anything is trained."""
        if self.settings.intervals.iterations:
            try:
                node.context(node.schedule.at(0, 0), 0, 0)
            except ValueError as error:
                raise ConfigError(f"graph of node {node.uid}: {error}") from None

    def _seat_nodes(self, worker: Worker) -> None:
        settings = self.settings
        schedule = settings.schedule()
        template = self.trainer.template
        for uid in worker.placement.uids(worker.me):
            if uid in worker.membership.left:
                continue
            node = build_program(settings.program)
            node.bind(
                uid,
                iterations=settings.intervals.iterations,
                schedule=schedule,
                sharing=build_sharing(settings.experiment),
                n_parameters=template.layout.n_parameters,
                averaging_steps=settings.averaging_steps,
                seed=settings.experiment.seed,
            )
            self._check_mixing(node)
            indices = self.partition[uid]
            self.trainer.training.check(len(indices), uid)
            worker.add(node, self.trainer.learner(uid, indices), template.initial)
            worker.reporter.log(uid, f"node {uid} on {worker.me}: {len(indices)} samples")
            remark = self.trainer.training.remark(len(indices), uid)
            if remark:
                worker.reporter.log(uid, f"node {uid}: {remark}", "WARNING")
