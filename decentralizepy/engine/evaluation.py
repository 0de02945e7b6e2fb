"""Who is evaluated when, on what, and when the record of it is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from decentralizepy.codec import Word
from decentralizepy.engine.meeting import Frontier, Meeting
from decentralizepy.engine.records import Reporter, costs, effort
from decentralizepy.engine.seat import Seat
from decentralizepy.settings import Intervals
from decentralizepy.training.data import Samples
from decentralizepy.training.trainer import Learner, Trainer
from decentralizepy.words import Record

#: evaluations that may wait for nodes far behind; older ones do without a consensus distance
_MOST_PENDING: Final = 64


class Evaluator:
    """Evaluates rows: loss on the node's own samples, loss and metrics on each of ``sets``.

    ``sets`` maps the columns' prefix (``test``, ``validation``) to samples; empty ones are skipped.
    ``nodes`` are those that are evaluated, None for all. A node in ``own_tests`` is tested on its
    samples there instead.
    """

    def __init__(
        self,
        trainer: Trainer,
        sets: Mapping[str, Samples],
        intervals: Intervals,
        nodes: frozenset[int] | None = None,
        own_tests: Mapping[int, Samples] | None = None,
    ) -> None:
        self.trainer, self.intervals, self.nodes = trainer, intervals, nodes
        self.sets, self.own_tests = dict(sets), own_tests or {}

    def measure(self, iteration: int, row: Tensor, learner: Learner) -> dict[str, float]:
        """What is due of a node in this (1-based) iteration."""
        found: dict[str, float] = {}
        counters = learner.counters
        if self.nodes is not None and learner.uid not in self.nodes:
            return found
        if self.intervals.train(iteration) and learner.n_samples:
            own = self.trainer.evaluate(row, self.trainer.samples, learner.indices, counters)
            found["train_loss"] = own.loss
        for name, samples in self._sets_of(learner.uid) if self.intervals.test(iteration) else ():
            result = self.trainer.evaluate(row, samples, None, counters)
            found[f"{name}_loss"] = result.loss
            found |= {f"{name}_{key}": value for key, value in result.metrics.items()}
        return found

    def _sets_of(self, uid: int) -> list[tuple[str, Samples]]:
        own = {"test": self.own_tests[uid]} if uid in self.own_tests else {}
        sets = {**self.sets, **own}
        return [(name, samples) for name, samples in sets.items() if len(samples)]


@dataclass
class Pending:
    """Nodes that were evaluated in an iteration and wait for the mean of all nodes."""

    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    rows: dict[int, Tensor] = field(default_factory=dict)


class Evaluations:
    """The evaluations of one worker's nodes.

    A node is evaluated when it reports a due iteration, and goes on. Its record is written when the
    mean of all nodes is there. Servers are evaluated, but are not in the mean.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        reporter: Reporter,
        meeting: Meeting,
        hold: Callable[[Seat], Tensor],
        tell: Callable[[Word], None],
    ) -> None:
        self.evaluator, self.reporter, self.meeting = evaluator, reporter, meeting
        self._hold, self._tell = hold, tell
        self._intervals = evaluator.intervals
        self._pending: dict[int, Pending] = {}
        self._frontier = Frontier()
        self._next = 0
        self._joined: set[int] = set()
        #: iterations whose mean would lack nodes of ours, as their records could not wait
        self._forgone: set[int] = set()
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._ever = any(
            every > 0
            for every in (self._intervals.test_after, self._intervals.train_evaluate_after)
        )

    def expect(self, seat: Seat) -> None:
        """A node takes part from the iteration that it is in."""
        if self._ever and seat.uid >= 0:
            self._frontier.move(seat.uid, seat.node.round)
            self._next = self._frontier.least or 0

    def begin(self) -> None:
        """All nodes are seated; a worker of servers alone has nothing to say."""
        self._settle()

    @property
    def waiting(self) -> bool:
        """Whether records wait for a mean."""
        return bool(self._pending)

    def due(self, t: int) -> bool:
        """Whether iteration ``t`` (0-based) is evaluated."""
        return self._ever and self._intervals.due(t + 1)

    def passed(self, seat: Seat, t: int) -> None:
        """A node has reported iteration ``t``: nobody waits for it there any more."""
        if self._ever and seat.uid >= 0 and not self._frontier.beyond(seat.uid, t):
            self._frontier.move(seat.uid, t + 1)
            self._settle()

    def evaluate(
        self, seat: Seat, t: int, own: Mapping[str, float], stopwatch: Callable[[], float],
        elapsed: float,
    ) -> None:  # fmt: skip
        """Measure a node in iteration ``t``; ``own`` are columns of its program's."""
        started = stopwatch()
        values: dict[str, Any] = self.evaluator.measure(
            t + 1, seat.rows.held("x").tensor, seat.learner
        )
        seat.seconds.evaluate += stopwatch() - started
        values |= dict(own) | effort(seat.learner, self.evaluator.trainer.training)
        values |= costs(seat.traffic, seat.seconds, elapsed)
        if seat.uid < 0:
            self._write(seat.uid, t, values)
            return
        if t in self._forgone or self._frontier.beyond(seat.uid, t):  # too late for the mean
            self._write(seat.uid, t, values)
            self.passed(seat, t)
            return
        pending = self._pending.setdefault(t, Pending())
        pending.records[seat.uid] = values
        pending.rows[seat.uid] = self._hold(seat)
        self.passed(seat, t)
        if len(self._pending) > _MOST_PENDING:
            oldest = min(self._pending)
            if oldest not in self._joined:
                self._forgone.add(oldest)
            self.give_up(oldest)

    def once_written(self, t: int, then: Callable[[], None]) -> None:
        """Call ``then`` when the records of all iterations up to ``t`` are written."""
        if min(self._pending, default=t + 1) > t:
            then()
        else:
            self._waiting.append((t, then))

    def leave(self, uids: Iterable[int]) -> None:
        """Nodes have ended, or are lost."""
        for uid in uids:
            self._frontier.leave(uid)
        self._settle()

    def drop(self, uid: int) -> None:
        """A node has left for good: it is in no mean that is not told yet."""
        for t, pending in list(self._pending.items()):
            pending.rows.pop(uid, None)
            pending.records.pop(uid, None)
            if not pending.records:  # nobody is left here to wait for the mean
                self.give_up(t)

    def _settle(self) -> None:
        """Say the sums of due iterations that every node of this worker is past."""
        least = self._frontier.least
        if least is None:
            self._join(sorted((self._pending.keys() | self._forgone) - self._joined))
            if self._ever:
                self.meeting.past(None)
        elif least > self._next:
            due = [t for t in range(self._next, least) if self._intervals.due(t + 1)]
            self._next = least
            if self._join(due) < len(due):  # none of ours took part
                self.meeting.past(least)

    def _join(self, due: Collection[int]) -> int:
        """Join the meetings that nodes of this worker took part in; returns how many."""
        mine = [t for t in due if t in self._pending and self._pending[t].rows]
        for t in mine:
            self._joined.add(t)
            self.meeting.join(t, self._pending[t].rows)
        forgone = sorted(self._forgone.intersection(due))
        self._forgone.difference_update(forgone)
        for t in forgone:
            self.meeting.forgo(t)
        return len(mine) + len(forgone)

    def mean_arrived(self, t: int, mean: Tensor | None) -> None:
        """The mean of all nodes that took part; None if nobody did."""
        pending = self._pending.pop(t, None)
        self._joined.discard(t)
        if pending is None:  # said again after a loss, or given up
            return
        for uid, values in sorted(pending.records.items()):
            if mean is not None and uid in pending.rows:
                values["consensus_distance"] = distance(pending.rows[uid], mean)
            self._write(uid, t, values)
        waiting, self._waiting = self._waiting, []
        for due, then in waiting:
            self.once_written(due, then)

    def give_up(self, t: int) -> None:
        """Write the records of an evaluation without waiting any longer."""
        self.mean_arrived(t, None)

    def silence(self) -> None:
        """Tell nobody of records any more: only write them."""
        self._tell = lambda word: None

    def finish(self) -> None:
        """Write what is left at the end of a run that failed."""
        for t in sorted(self._pending):
            self.give_up(t)

    def _write(self, uid: int, t: int, values: Mapping[str, Any]) -> None:
        self._tell(Record(self.reporter.record(uid, t + 1, values)))


def distance(row: Tensor, mean: Tensor) -> float:
    """l2 distance of a row's parameters from their mean over the nodes, in float64."""
    return float(torch.dist(row[: len(mean)].cpu().double(), mean))
