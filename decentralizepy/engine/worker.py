"""One OS process that drives any number of nodes: runs whichever can go on, then trains the rest.

The loop has one rule: programs first, heavy work (training, evaluation, saving) when none can go
on, waiting when there is no work. Timers and messages are looked after between two pieces of work.
Heavy work goes to the node that has had the least of it, so that a slow node slows nobody else.
A program that is always ready, or that asks again and again whether something is there, makes way
for all the others, and for a piece of work, now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import monotonic, perf_counter, sleep
from typing import Any, Final

from torch import Tensor

from decentralizepy.codec import Word
from decentralizepy.engine.averaging import Averaging
from decentralizepy.engine.clock import Clock, RealClock, Timers, VirtualClock
from decentralizepy.engine.evaluation import Evaluations, Evaluator
from decentralizepy.engine.failures import Failures
from decentralizepy.engine.mailbox import Mailbox
from decentralizepy.engine.meeting import Meeting
from decentralizepy.engine.programs import PARKED, Perform, Programs
from decentralizepy.engine.records import Reporter, check_metrics
from decentralizepy.engine.resting import MOMENT_MS, Resting
from decentralizepy.engine.saver import Saver
from decentralizepy.engine.seat import Seat, Strand
from decentralizepy.engine.waiting import Waiting
from decentralizepy.engine.workload import Work, Workload
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory.arena import Arena
from decentralizepy.memory.rows import NodeRows, RowPool
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import (
    Checkpoint,
    Drain,
    Gradient,
    Report,
    Train,
)
from decentralizepy.node.membership import Membership
from decentralizepy.node.node import Node
from decentralizepy.scenario.simulation import Network, Simulation
from decentralizepy.training.trainer import Learner, Trainer
from decentralizepy.transport.local import LocalSockets
from decentralizepy.transport.router import Router
from decentralizepy.words import (
    KillMachine,
    Leave,
    Leaving,
    NodesLeft,
    NodesLost,
    Note,
    Pause,
    WorkerPaused,
)

#: how long to wait for the network before looking at timers and the supervisor again
_IDLE_MS: Final = 200
#: how long nodes that could go on wait for others that they would train together with
_PATIENCE_MS: Final = 2
#: how often a worker looks for questions while it trains
_LOOK_S: Final = 0.001
#: how long a worker sleeps whose programs only poll
_POLL_MS: Final = 1


class Worker:
    """Drives the nodes of one worker from start to end.

    With a ``simulation`` time is virtual: training really happens, what it and messages take is
    calculated. Each node is at its own place in time; events happen in the order of (time, uid,
    setting), and a program runs at the time of the event that let it go on.
    """

    def __init__(
        self,
        me: WorkerId,
        placement: Placement,
        arena: Arena,
        trainer: Trainer,
        evaluator: Evaluator,
        reporter: Reporter,
        *,
        sockets: LocalSockets | None = None,
        simulation: Simulation | None = None,
        on_loss: str = "fail",
        tell: Callable[[Word], None] = lambda word: None,
        orders: Callable[[], Iterable[Word]] = tuple,
        membership: Membership | None = None,
        save: Callable[[Worker, Seat, int], int] = lambda worker, seat, t: 0,
    ) -> None:
        self.me, self.placement, self.arena = me, placement, arena
        self.trainer, self.reporter = trainer, reporter
        self.failures = Failures(me, reporter)
        self._simulation, self._on_loss = simulation, on_loss
        self.timers = Timers()
        #: the simulated links; None in real time
        self.network = Network(simulation) if simulation else None
        self.pool = RowPool(arena, me.worker, trainer.template.device)
        self.programs = Programs(
            me, placement, arena.counters, VirtualClock() if simulation else RealClock(),
            self.timers, self.network, self.failures,
            lambda deliver: Router(me, placement, arena, self.pool, deliver, sockets),
            self._effects(), self._see_whether_ended,
            lambda seat, t: self.saver.tell_unread(seat, t),
        )  # fmt: skip
        self.seats, self.router = self.programs.seats, self.programs.router
        self.router.collective = self._collective
        self.sockets, self._tell, self._orders = sockets, tell, orders
        self._waiting = Waiting(me, arena, self.router.rings, sockets, self._obey)
        self.membership = membership or Membership(placement.mapping.n)
        self.programs.gone = self.membership.left
        self._called = arena.counters.calls(me.worker)
        self._paused = False
        self.meeting = Meeting(
            me, placement, trainer.template.layout.n_parameters,
            self.router.send_collective, lambda t, mean: self.evaluations.mean_arrived(t, mean),
        )  # fmt: skip
        self.evaluations = Evaluations(evaluator, reporter, self.meeting, self._held_x, tell)
        self.saver = Saver(
            me, self.evaluations, self.membership, self.network, reporter, self.failures, tell,
            partial(save, self),
        )  # fmt: skip
        self._slots = {u: i for i, u in enumerate(placement.mapping.hosted(me.machine))}
        self.workload = Workload(
            trainer, lambda: self.clock, self.timers, simulation, self._trained,
            self.programs.resume, self.failures.of,
        )  # fmt: skip
        self._resting = Resting(
            me, placement, self.programs, self.workload, self.timers, self.saver, sockets
        )
        self.rest = self._resting.rest
        self._impatient = 0.0
        self._looked = 0.0

    def _effects(self) -> dict[type, Perform]:
        """How effects are performed that are more than messages and time."""
        return {
            Train: self._train,
            Gradient: self._train,
            Report: self._report,
            Checkpoint: self._checkpoint,
            Drain: self._drain,
        }

    @property
    def clock(self) -> Clock:
        """The run's clock."""
        return self.programs.clock

    @clock.setter
    def clock(self, clock: Clock) -> None:
        self.programs.clock = clock

    # ------------------------------------------------------------------ life

    def rows(self) -> NodeRows:
        """The rows of a new node."""
        return NodeRows(self.pool)

    def add(self, node: Node, learner: Learner, rows: NodeRows) -> None:
        """Seat a node that is bound and has its rows."""
        self.seats[node.uid] = Seat(node, learner, rows, Mailbox(node.mail))

    def run(self) -> None:
        """Run all nodes to their ends."""
        for seat in self.seats.values():
            self.evaluations.expect(seat)
            self.programs.start(seat)
        for seat in self.seats.values():
            self._see_whether_ended(seat)  # one without programs has
        self.evaluations.begin()
        if self.sockets is not None and self._simulation is None:
            self._answer_while_training()
        counters, me, more = self.arena.counters, self.me.worker, False
        programs = self.programs
        while programs.active or self.evaluations.waiting:
            counters.beat(me)
            if counters.calls(me) != self._called:
                self._obey()
            if self._paused:
                self._pause()
                continue
            if not more or self._simulation is None:
                self._timers_due()
            more = programs.let_go_on()
            if more and self._simulation is not None:
                continue  # what is next in simulated time comes after all that happens now
            if self.workload.waits:
                self._do_work(more)
            elif programs.averaging is not None and programs.averaging.stirred:
                self._settle_patiently(programs.averaging)
            elif more:
                self._make_way()
            elif programs.active or self.evaluations.waiting:
                self._idle()
            if programs.polling:
                programs.poll_again()
        if self.sockets is not None:
            self.sockets.flush()

    def finish(self) -> None:
        """Write what is left to be written, also of a run that failed."""
        self.evaluations.finish()
        faults = self.programs.faults
        for kill in faults.unfired() if faults is not None else ():
            self._tell(Note(f"{self.me}: {kill} did not come to pass"))

    def serve(self) -> None:
        """Keep the sockets going after the end, until told to stop (``orders`` raises)."""
        while True:
            if not self.router.take_in(idle=True):
                self.rest.check(0.0)
            self._pause()

    def attend(self) -> None:
        """Let messages through between two pieces of other work, after the end."""
        self._exchange()
        self._timers_due()

    def _pause(self) -> None:
        """Do nothing but let messages through and listen to the supervisor."""
        if self.sockets is not None:
            self.sockets.flush()
        self._waiting.doze(self._patience(self.timers.next))
        self.router.take_in(idle=True)
        self._timers_due()  # a message that was held back leaves although its node is done

    def _idle(self) -> None:
        """Nothing can go on: let messages go, wait for others, or for time to pass."""
        programs = self.programs
        if self.sockets is not None:
            self.sockets.flush()
        arrived = self.router.take_in(idle=True)
        if programs.retry_held() or arrived or self._timers_due():
            self._resting.idle_since = None
            return
        if programs.averaging is not None and programs.averaging.postponed:
            if monotonic() < self._impatient:
                self._waiting.wait(_PATIENCE_MS)
            else:
                programs.averaging.settle()
            return
        if programs.polling:
            if self._simulation is None:
                self._waiting.doze(_POLL_MS)  # others may need the processor
            return
        next_timer = self.timers.next
        if next_timer is not None and self.sockets is None and programs.clock.advance(next_timer):
            self._timers_due()
            return
        self._resting.look()
        idle = not programs.ready and not self.workload.waits
        if idle and (programs.active or self.evaluations.waiting):
            patience = self._patience(next_timer)
            self._waiting.wait(patience if self._resting.asked else min(patience, MOMENT_MS))

    def _patience(self, next_timer: float | None) -> int:
        if next_timer is None:
            return _IDLE_MS
        return max(0, int(min(_IDLE_MS, 1000 * (next_timer - self.programs.clock.now()) + 1)))

    def _see_whether_ended(self, seat: Seat) -> None:
        if all(strand.ended for strand in seat.strands):
            slot = self._slots[seat.uid]
            seat.ended = True
            done = max(seat.node.round, seat.saved, self.arena.counters.rounds[slot])
            self._note_progress(seat, done)
            seat.mailbox.clear()
            if self.programs.averaging is not None:
                self.programs.averaging.leave(seat.uid)
            self.evaluations.leave([seat.uid])
            self.saver.save_ended(seat, done)

    def _note_progress(self, seat: Seat, iterations: int) -> None:
        """Show the supervisor how many iterations a node has done."""
        seat.done = self.arena.counters.rounds[self._slots[seat.uid]] = iterations

    def _timers_due(self) -> bool:
        if self.timers.next is None:
            return bool(self.programs.ready)
        for happen in self.timers.due(self.programs.clock.now()):
            happen()
        return bool(self.programs.ready)

    def average_together(self) -> None:
        """From now on do rounds of plain gossip for many nodes at once."""
        self.programs.averaging = Averaging(
            self.me, self.placement, self.arena, self.pool, self.router, self.seats,
            self.programs.go_on, self.programs.stopwatch,
        )  # fmt: skip

    def _settle_patiently(self, averaging: Averaging) -> None:
        """Where nodes train together, those that could go on alone wait a moment for others."""
        patient = self.trainer.takes_groups and self.sockets is not None
        if patient:
            averaging.flush()  # others wait for it
            self.router.take_in()  # often all that is missing has come by now
        averaging.settle(patient)
        if averaging.postponed:
            self._impatient = monotonic() + _PATIENCE_MS / 1000

    def _collective(self, kind: str, message: Message) -> None:
        if kind == "Q":
            self.rest.take(message)
        elif kind == "R":
            if self.programs.averaging is not None:
                self.programs.averaging.take_private(message)
        else:
            self.meeting.take(kind, message)

    # ------------------------------------------------------------- who is lost

    def lose(self, seat: Seat) -> None:
        """Abandon a node without a word to the others: it never says or does anything again.

        In simulated time with ``drop`` the others know at once, for that time can't wait.
        """
        if self._simulation is not None and self._on_loss == "drop":
            self._drop(seat)
            return
        self._abandon(seat)
        self._tell(NodesLost((seat.uid,), seat.iteration + 1))

    def _drop(self, seat: Seat) -> None:
        why = f"node {seat.uid} was lost in iteration {seat.iteration + 1}"
        nodes = range(self.placement.mapping.n)
        if (self.membership.left | {seat.uid}).issuperset(nodes):
            raise RunError(f"{self.me}: {why}; no node is left")
        self._leave(Leaving(self.programs.sent + 1, (seat.uid,), why, ()))
        self._tell(NodesLeft(self.membership.epochs[-1]))

    def _abandon(self, seat: Seat) -> None:
        seat.lost = True
        self.programs.drop(seat)
        seat.mailbox.clear()
        self.workload.drop(seat)
        self.evaluations.leave([seat.uid])

    def ask_for_death(self) -> None:
        """Have the supervisor kill itself, as a machine that fails does; this worker goes too."""
        self._tell(KillMachine())
        while True:  # the supervisor's end of the line closes, and that ends us
            sleep(_IDLE_MS / 1000)
            self._orders()

    def _obey(self) -> None:
        """Follow what the supervisor says: pause, and go on without those that were lost."""
        self._called = self.arena.counters.calls(self.me.worker)
        for order in self._orders():
            if isinstance(order, Pause):
                self._paused = True
                self._tell(WorkerPaused(order.number, self.programs.sent))
            elif isinstance(order, Leave):
                self._leave(order.who)
                self._paused = False

    def _leave(self, who: Leaving) -> None:
        """A membership epoch: nodes leave; nobody has sent anything of its first iteration yet."""
        self.membership.add(who.epoch)
        gone = self.membership.left
        workers = {WorkerId(*pair) for pair in who.workers}
        for seat in [seat for uid, seat in self.seats.items() if uid in gone]:
            self._vacate(seat)
        self.router.leave(gone, workers)
        empty = (w for w in self.placement.all() if gone.issuperset(self.placement.uids(w)))
        self.meeting.leave(workers.union(empty))
        self.rest.leave(workers)
        self.programs.leave(gone)

    def _vacate(self, seat: Seat) -> None:
        """A node of this worker has left for good; its rows are given back."""
        if not seat.lost:
            self._abandon(seat)
        del self.seats[seat.uid]
        self.evaluations.drop(seat.uid)
        seat.rows.clear()

    # ------------------------------------------------------------------- work

    def _exchange(self) -> None:
        """Let messages go, and take in what has come."""
        if self.sockets is not None:
            if self.programs.averaging is not None:
                self.programs.averaging.flush()
            self.sockets.flush()  # others may be waiting for it: they work while we do
            self.router.take_in()
            if self.programs.held:
                self.programs.retry_held()

    def _make_way(self) -> None:
        """Programs go on and on: see to what else waits until none can."""
        self._exchange()
        averaging = self.programs.averaging
        if averaging is not None and averaging.postponed:
            averaging.settle()

    def _do_work(self, at_once: bool) -> None:
        """Do a piece of work, unless a message lets programs go on, or ``at_once``."""
        self._exchange()
        if self.programs.ready and not at_once and self.sockets is not None:
            return
        work = self.workload.next()
        if work is None:
            return
        seat, effect = work.strand.seat, work.effect
        self._resting.idle_since = None
        self.arena.counters.busy(self.me.worker, seat.uid, effect.t)
        if isinstance(effect, Train | Gradient):
            self.workload.train(work)
            return
        if isinstance(effect, Report):
            self._measure(seat, effect)
        else:
            self.saver.save(seat, effect.t)
        self.programs.resume(work.strand, None)

    def _answer_while_training(self) -> None:
        """Have nodes answer between two local steps: whoever asks may wait for them."""
        for seat in self.seats.values():
            seat.answers = type(seat.node).answer is not Node.answer
        if any(seat.answers for seat in self.seats.values()):
            self.trainer.meanwhile = self._meanwhile

    def _meanwhile(self) -> None:
        """A node trains: take in what has come, and let answers go."""
        now = perf_counter()
        if self.sockets is not None and now - self._looked > _LOOK_S:
            self._looked = now
            self.router.take_in()
            self.sockets.flush()

    def _train(self, strand: Strand, effect: Train | Gradient) -> Any:
        self.workload.begin(strand, effect)
        return PARKED

    def _trained(self, seat: Seat, t: int) -> None:
        self._note_progress(seat, t)
        if seat.learner.nan == t + 1:
            self.failures.diverged(seat, self.trainer.training.on_nan)

    # ---------------------------------------------------------------- reports

    def _report(self, strand: Strand, effect: Report) -> Any:
        seat, t = strand.seat, effect.t
        if effect.metrics:
            check_metrics(effect.metrics)
        seat.report(t, self.evaluations.evaluator.intervals.iterations)
        self._note_progress(seat, t + 1)
        if self.reporter.digests:
            self.reporter.digest(seat.uid, t + 1, seat.rows.held("x").tensor)
        if not self.evaluations.due(t):
            self.evaluations.passed(seat, t)
            return None
        if self._simulation is not None:  # takes no simulated time
            self._measure(seat, effect)
            return None
        self.workload.add(Work(strand, effect))
        return PARKED

    def _measure(self, seat: Seat, effect: Report) -> None:
        own, elapsed, before = effect.metrics or {}, self.clock.now(), seat.seconds.evaluate
        try:
            self.evaluations.evaluate(seat, effect.t, own, self.programs.stopwatch, elapsed)
        except (RunError, ConfigError):
            raise
        except Exception as error:  # users' tasks and models may raise anything
            raise self.failures.of(seat, error) from error
        seat.charge("evaluation", seat.seconds.evaluate - before)  # not what it writes for others

    def _held_x(self, seat: Seat) -> Tensor:
        """The node's row as it is now, however long it is wanted."""
        return seat.rows["x"]

    # ----------------------------------------------------- checkpoints and rest

    def _checkpoint(self, strand: Strand, effect: Checkpoint) -> Any:
        if not self.saver.due(effect.t):
            return None
        self.evaluations.passed(strand.seat, effect.t)  # also of a node that did not report it
        if strand.seat.node.asynchronous:
            strand.rest(effect, self.programs.stopwatch())
        elif self._simulation is not None:  # takes no simulated time
            self.saver.save(strand.seat, effect.t)
            return None
        else:
            self.workload.add(Work(strand, effect))
        return PARKED

    def _drain(self, strand: Strand, effect: Drain) -> Any:
        strand.rest(effect, self.programs.stopwatch())
        return PARKED


def weights(worker: Worker) -> Mapping[int, dict[str, Tensor]]:
    """The final ``state_dict`` of every node of a worker, servers included."""
    layout = worker.trainer.template.layout
    return {
        uid: layout.state_dict(seat.node.x, seat.learner.counters)
        for uid, seat in worker.seats.items()
    }
