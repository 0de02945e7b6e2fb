"""Builds a worker from settings: data, trainer, nodes in their seats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from decentralizepy.datasets.base import Dataset
from decentralizepy.datasets.experiment import partition, prepared_dataset
from decentralizepy.engine import datafile, nodefile
from decentralizepy.engine.checkpoints import CheckpointSets, node_file
from decentralizepy.engine.clock import VirtualClock
from decentralizepy.engine.evaluation import Evaluator
from decentralizepy.engine.faults import Faults
from decentralizepy.engine.parts import (
    build_program,
    build_sharing,
    build_trainer,
    check_apart,
    check_names,
    samples_of,
)
from decentralizepy.engine.plain_gossip import can_average
from decentralizepy.engine.records import Reporter
from decentralizepy.engine.seat import Seat
from decentralizepy.engine.sent_models import SentModels
from decentralizepy.engine.sums import sums_have_the_same_bits
from decentralizepy.engine.worker import Worker
from decentralizepy.errors import ConfigError
from decentralizepy.graphs.schedules import Schedule
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory.arena import Arena
from decentralizepy.node.node import Binding, Node
from decentralizepy.settings import EvaluationOptions, Settings
from decentralizepy.streams import generator
from decentralizepy.training.data import Samples
from decentralizepy.training.template import placed
from decentralizepy.training.trainer import Learner

_NOTHING = np.zeros(0, dtype=np.int64)


class Assembly:
    """Everything of a worker that does not depend on who the other workers are."""

    def __init__(
        self,
        settings: Settings,
        program: Callable[[], Node] | None = None,
        sharing: Callable[[], Any] | None = None,
    ) -> None:
        """``program`` and ``sharing`` make what the settings name, unless they are given."""
        self.settings = settings
        self._make_program = program or (lambda: build_program(settings.program))
        self._make_sharing = lambda: build_sharing(settings.experiment, sharing)
        if settings.device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"--device {settings.device}: torch finds no GPU here; take cpu")
        self._sets = CheckpointSets(settings.folder)
        dataset = prepared_dataset(settings.experiment, settings.cache_dir)
        parts = {part: samples_of(dataset, part, settings.device) for part in ("train", "test")}
        self.trainer = build_trainer(settings.experiment, parts["train"], settings)
        try:
            dataset.check_model(self.trainer.template.model)
        except ValueError as error:
            raise ConfigError(f"{settings.experiment.path}: {error}") from None
        chosen = {name: dataset.select(name) for name in ("test", "validation")}
        self.sets = {name: parts[one.part].only(one.indices) for name, one in chosen.items()}
        self.sets["test"] = _some(self.sets["test"], settings)
        self.own_tests = _own_tests(dataset, parts["test"], settings)
        self.partition = partition(dataset, settings.mapping.n, settings.experiment)
        self._parts = [parts["train"], parts["test"]]
        self._dataset, self._labels = dataset, dataset.stored("train").y
        self._classes = _classes(self._labels)
        found = self._make_program()
        check_names(found, "row_names", reserved="x")
        self._row_names = found.row_names
        #: whether "all" that are evaluated means the servers alone
        self._servers_only = settings.servers > 0 and not found.tests_nodes

    @property
    def row_length(self) -> int:
        """Elements of a node's row."""
        return self.trainer.template.layout.length

    @property
    def named_rows(self) -> int:
        """Rows that each node has."""
        return 1 + len(self._row_names)

    def worker(self, me: WorkerId, placement: Placement, arena: Arena, **wiring: Any) -> Worker:
        """The worker ``me`` with its nodes seated."""
        settings = self.settings
        nodes = evaluated(settings.evaluation, settings.mapping.n, settings.experiment.seed)
        if nodes is None and self._servers_only:
            nodes = frozenset(range(-settings.servers, 0))
        intervals, own_tests = settings.intervals, self.own_tests
        evaluator = Evaluator(self.trainer, self.sets, intervals, nodes, own_tests)
        worker = Worker(
            me, placement, arena, self.trainer, evaluator, Reporter(settings, me),
            simulation=settings.simulation, on_loss=settings.resilience.on_loss,
            save=self._save, **wiring,
        )  # fmt: skip
        if settings.faults is not None:
            virtual = settings.simulation is not None
            faults = Faults(settings.faults, worker, settings.folder, virtual=virtual)
            worker.programs.faults = worker.programs.carrier = faults
        if settings.experiment.saving.every:
            worker.programs.sent_models = SentModels(
                settings.experiment.saving, settings.folder, me, settings.uids.start,
                self.trainer, self._parts,
            )  # fmt: skip
        self._seat_nodes(worker)
        if self._averages_together(worker):
            worker.average_together()
        if me.worker == 0 and settings.intervals.iterations:
            self._rehearse(worker)
            datafile.write(settings, self._dataset, self.partition)
        return worker

    def _averages_together(self, worker: Worker) -> bool:
        """Whether rounds of plain gossip need no messages: the same on all workers."""
        settings = self.settings
        seen = settings.faults is not None or worker.programs.sent_models is not None
        one_machine = len(worker.placement.workers) == 1
        plain = settings.simulation is None and settings.device == "cpu" and one_machine
        nobody_leaves = settings.resilience.on_loss != "drop"
        plan = worker.arena.plan
        return (
            plain and nobody_leaves and not seen and can_average(worker.seats, plan.row_bytes)
            and sums_have_the_same_bits(plan.stride)
        )  # fmt: skip

    def _rehearse(self, worker: Worker) -> None:
        """Classes that cannot train together are found now; one worker is enough for that."""
        seat = next((one for one in worker.seats.values() if one.learner.n_samples), None)
        try:
            if seat is not None:
                self.trainer.rehearse(seat.learner.indices)
        except ConfigError:  # it says itself what does not fit
            raise
        except Exception as error:  # users' classes, or torch's, may raise anything
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(
                "a training step on two samples fails; do model_class, loss_class, optimizer_class "
                f"and the data set fit together? {what:.500}"
            ) from error

    def _save(self, worker: Worker, seat: Seat, t: int) -> int:
        path, now = node_file(self._sets.folder(t + 1), seat.uid), worker.clock.now()
        ports = worker.network.busy(seat.uid, now) if worker.network else []
        return nodefile.save(path, seat, self.trainer.optimizer, t, now, ports)

    def restore(self, worker: Worker, iteration: int) -> float:
        """Set all nodes as they were after ``iteration`` iterations; the run's seconds then."""
        if not iteration:
            return 0.0
        folder = self._sets.folder(iteration)
        found = {}
        for uid, seat in worker.seats.items():
            path = node_file(folder, uid)
            found[uid], ports = nodefile.load(path, seat, self.trainer.optimizer)
            seat.learner.memory = placed(seat.learner.memory, self.trainer.template.device)
            seat.saved = iteration
            if worker.network is not None:
                worker.network.occupy(uid, ports)
        if isinstance(worker.clock, VirtualClock):  # each node is at its own place in time
            worker.programs.begins = found
        return max(found.values(), default=0.0)

    def _check_mixing(self, worker: Worker, node: Node) -> None:
        """The method can weigh the graph's edges, if the program mixes by it; or it says why not,
        before anything is trained."""
        if self.settings.intervals.iterations and node.shares and not node.is_server:
            try:
                node.context(node.schedule.at(0, 0), 0, 0)
            except ValueError as error:
                raise ConfigError(f"graph of node {node.uid}: {error}") from None
            except Exception as error:  # of a `mixing` or a schedule of the user's
                raise worker.failures.at(node.uid, "mixing", error) from error

    def _seat_nodes(self, worker: Worker) -> None:
        schedule, made = self.settings.schedule(), set[int]()
        for uid in worker.placement.uids(worker.me):
            if uid not in worker.membership.left:
                self._seat(worker, uid, schedule, made)

    def _seat(self, worker: Worker, uid: int, schedule: Schedule, made: set[int]) -> None:
        """Seat a node; ``made`` are the identities of what was made for those before it."""
        indices = self.partition[uid] if uid >= 0 else _NOTHING
        self.trainer.training.check(len(indices), uid)
        node = self._make_program()
        rows = worker.rows()
        rows["x"] = self.trainer.template.initial
        for name in node.row_names:
            rows[name] = torch.zeros_like(rows["x"])
        learner = self.trainer.learner(uid, indices)
        binding = self._binding(worker, uid, schedule, learner)
        binding.rows, binding.lend = rows, rows.lend
        check_apart(made, uid, node, binding.sharing)
        for one in (node, binding.sharing):
            check_names(one, "kept")
        node.bind(binding)
        self._check_mixing(worker, node)
        try:
            node.sharing.begin(node.x)
            node.setup()
        except ConfigError:
            raise
        except Exception as error:
            raise worker.failures.at(uid, "setup", error) from error
        worker.add(node, learner, rows)
        worker.reporter.log(uid, f"node {uid} on {worker.me}: {len(indices)} samples")
        remark = self.trainer.training.remark(len(indices), uid) if len(indices) else ""
        if remark:
            worker.reporter.log(uid, f"node {uid}: {remark}", "WARNING")

    def _binding(self, worker: Worker, uid: int, schedule: Schedule, learner: Learner) -> Binding:
        settings = self.settings
        return Binding(
            uid=uid,
            n=settings.mapping.n,
            iterations=settings.intervals.iterations,
            schedule=schedule,
            sharing=self._make_sharing(),
            n_parameters=self.trainer.template.layout.n_parameters,
            membership=worker.membership,
            averaging_steps=settings.averaging_steps,
            seed=settings.experiment.seed,
            n_samples=learner.n_samples,
            label_counts=self._label_counts(learner.indices),
        )

    def _label_counts(self, indices: np.ndarray) -> tuple[int, ...]:
        """How many samples of a node have each label; empty where labels are no classes."""
        if not self._classes:
            return ()
        counts = np.bincount(self._labels[indices], minlength=self._classes)
        return tuple(int(count) for count in counts)


def _classes(labels: np.ndarray) -> int:
    """How many labels there are in the whole training set; 0 where labels are no classes."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        return 0
    return int(labels.max()) + 1


def evaluated(options: EvaluationOptions, n: int, seed: int) -> frozenset[int] | None:
    """Which nodes are evaluated, servers among them; None for all."""
    if options.nodes == "all":
        return None
    if isinstance(options.nodes, int):
        drawn = generator(seed, 0, "evaluation", 0).choice(n, options.nodes, replace=False)
        return frozenset(int(uid) for uid in drawn)
    return frozenset(options.nodes)


def _own_tests(dataset: Dataset, test: Samples, settings: Settings) -> dict[int, Samples]:
    """What each node is tested on, where that is not the same for all."""
    parts = dataset.own_tests(settings.mapping.n) or []
    return {uid: _some(test.only(part), settings) for uid, part in enumerate(parts)}


def _some(samples: Any, settings: Settings) -> Any:
    """The first test samples of a fixed permutation, if fewer than all are wanted."""
    wanted = settings.evaluation.test_samples
    if wanted is None or wanted >= len(samples):
        return samples
    order = generator(settings.experiment.seed, 0, "evaluation", 1).permutation(len(samples))
    return samples.only(np.sort(order[:wanted]))
