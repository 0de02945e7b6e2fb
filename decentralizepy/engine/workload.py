"""The heavy work of a worker's nodes: who is trained, evaluated or saved next, and with whom."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

from torch import Tensor

from decentralizepy.engine.clock import Clock, Timers
from decentralizepy.engine.seat import Seat, Strand
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.memory.rows import Aside, WrittenError
from decentralizepy.node.checks import check_term
from decentralizepy.node.effects import Checkpoint, Gradient, Report, Train
from decentralizepy.node.node import Node
from decentralizepy.scenario.simulation import Simulation
from decentralizepy.training.trainer import Trainer
from decentralizepy.training.work import LocalWork


@dataclass(eq=False, slots=True)
class Work:
    """A piece of heavy work that a program waits for; ``local`` is what a trainer is given.

    ``aside`` or ``before`` is the row that is trained, or that a gradient is taken at, where the
    node may assign another one meanwhile.
    """

    strand: Strand
    effect: Train | Gradient | Report | Checkpoint
    local: LocalWork | None = None
    answer: Tensor | None = None
    taken: bool = False
    aside: Aside | None = None
    before: Tensor | None = None


class Workload:
    """Heavy work that waits, of the node first that has had the least of it.

    In real time a slow node therefore slows nobody else. In simulated time training takes what the
    ``simulation`` says; its arithmetic can wait until then, so that nodes of one iteration can be
    trained together.
    """

    def __init__(
        self,
        trainer: Trainer,
        clock: Callable[[], Clock],
        timers: Timers,
        simulation: Simulation | None,
        trained: Callable[[Seat, int], None],
        go_on: Callable[[Strand, Any], None],
        failure: Callable[[Seat, Exception], Exception],
    ) -> None:
        self._trainer, self._clock, self._timers = trainer, clock, timers
        self._simulation, self._trained, self._go_on = simulation, trained, go_on
        self._failure = failure
        self._waiting: list[tuple[float, int, Work]] = []
        self._untrained: dict[Strand, Work] = {}
        self._trains = False
        self._order = count()
        self._fair = 0.0

    @property
    def waits(self) -> bool:
        """Whether there is anything to do now."""
        return bool(self._waiting)

    @property
    def empty(self) -> bool:
        """Whether no node works, nor will by itself."""
        return not self._waiting and not self._untrained and not self._trains

    def add(self, work: Work) -> None:
        """Have something done for a node when its turn comes."""
        seat = work.strand.seat
        seat.used = max(seat.used, self._fair)
        heapq.heappush(self._waiting, (seat.used, next(self._order), work))

    def next(self) -> Work | None:
        """The work to do now, which is taken out."""
        while self._waiting:
            used, _, work = heapq.heappop(self._waiting)
            if not work.taken:
                self._fair = used
                return work
        return None

    def drop(self, seat: Seat) -> None:
        """A node is lost: nothing is done for it any more."""
        for _, _, work in self._waiting:
            work.taken = work.taken or work.strand.seat is seat
        for strand in seat.strands:
            self._untrained.pop(strand, None)

    # ------------------------------------------------------------------- training

    def begin(self, strand: Strand, effect: Train | Gradient) -> None:
        """A program asks for training, or for a gradient."""
        seat = strand.seat
        learner, row = seat.learner, seat.rows.held("x").tensor
        if type(effect) is Train:
            self._check_terms(effect)
            terms = _detached(effect.correction), _detached(effect.anchor), effect.pull
            local = LocalWork(learner, row, effect.t, effect.steps, *terms)
        else:
            local = LocalWork(learner, row, effect.t)
        work = Work(strand, effect, local)
        if self._simulation is None:
            self.add(work)
            return
        self._untrained[strand] = work
        if _may_change(seat):
            self._begin_now(work, local)
        when = self._clock().now() + self._simulation.pace(seat.uid).cost(effect.t)
        self._timers.set(when, partial(self._due, work), seat.uid)

    def _begin_now(self, work: Work, local: LocalWork) -> None:
        """Simulated: what is trained later begins with the row as it is now."""
        rows = work.strand.seat.rows
        if type(work.effect) is Gradient:
            local.row = work.before = rows["x"]
        else:
            work.aside = rows.aside("x")
            local.row = work.aside.copy.tensor

    def _check_terms(self, effect: Train) -> None:
        length = self._trainer.template.layout.n_parameters
        if effect.correction is not None:
            check_term("correction", effect.correction, length)
        if effect.anchor is not None:
            check_term("anchor", effect.anchor, length)

    def _due(self, work: Work) -> None:
        """Simulated: train the node unless it was trained beside others, and let it go on."""
        if work.strand.seat.lost:
            return
        if work.strand in self._untrained:
            self.train(work)
        self._go_on(work.strand, work.answer)

    def train(self, first: Work) -> None:
        """Train a node, and with it those that the trainer takes together with it."""
        group = self._group(first)
        local = [self._prepared(work) for work in group]
        if len(group) > len(self._waiting):
            self._waiting.clear()
        learner, before = local[0].learner, local[0].learner.gradients
        self._trains, started = True, perf_counter()
        try:
            if isinstance(first.effect, Gradient):
                first.answer = self._trainer.gradient(local[0])
            else:
                self._trainer.train(local)
        except (RunError, ConfigError):
            raise
        except Exception as error:  # users' classes, or torch's, may raise anything
            raise self._failure(first.strand.seat, error) from error
        spent = (perf_counter() - started) / len(group)
        self._trains = False
        steps = learner.gradients - before  # who trains together takes as many
        for work in group:
            work.strand.seat.charge("step", spent, steps)
            self._done(work, spent)

    def _group(self, first: Work) -> list[Work]:
        if not self._trainer.takes_groups or isinstance(first.effect, Gradient):
            return [first]
        waiting = [first, *self._others(first)]
        chosen = self._trainer.together([_local(work) for work in waiting])
        return waiting if len(chosen) == len(waiting) else [waiting[i] for i in chosen]

    def _others(self, first: Work) -> Iterator[Work]:
        for _, _, work in sorted(self._waiting):  # the same order each time
            if not work.taken and type(work.effect) is Train:
                yield work
        for work in self._untrained.values():
            # a node that may be asked while it trains must not have trained before its time
            if work is not first and type(work.effect) is Train and _is_quiet(work.strand.seat):
                yield work

    def _prepared(self, work: Work) -> LocalWork:
        work.taken = True
        local, seat = _local(work), work.strand.seat
        if work.aside is not None or work.before is not None:
            return local
        try:
            if type(work.effect) is Gradient:
                local.row = seat.rows.held("x").tensor
            elif seat.answers:
                work.aside = seat.rows.aside("x")
                local.row = work.aside.copy.tensor
            else:
                local.row = seat.rows.thaw("x")
        except WrittenError as error:
            raise self._failure(seat, error) from error
        return local

    def _take_back(self, work: Work, aside: Aside) -> None:
        work.aside, seat = None, work.strand.seat
        try:
            seat.rows.take_back("x", aside)
        except WrittenError as error:
            raise self._failure(seat, error) from error

    def _done(self, work: Work, spent: float) -> None:
        seat, t = work.strand.seat, work.effect.t
        if work.aside is not None:
            self._take_back(work, work.aside)
        self._trained(seat, t)
        if self._simulation is None:
            seat.seconds.train += spent
            self._go_on(work.strand, work.answer)
        else:  # it goes on when its time has come
            seat.seconds.train += self._simulation.pace(seat.uid).cost(t)
            self._untrained.pop(work.strand, None)


def _is_quiet(seat: Seat) -> bool:
    """Whether a node does and says nothing while it trains."""
    return not seat.node.asynchronous and not _may_change(seat)


def _may_change(seat: Seat) -> bool:
    """Whether a node's row may be assigned while it trains: by an answer, or another program."""
    return len(seat.strands) > 1 or type(seat.node).answer is not Node.answer


def _detached(term: Tensor | None) -> Tensor | None:
    """A term as a number like others: what it was computed from is not trained."""
    return None if term is None else term.detach()


def _local(work: Work) -> LocalWork:
    assert work.local is not None
    return work.local
