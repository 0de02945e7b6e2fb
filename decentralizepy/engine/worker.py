"""One OS process that drives any number of nodes: runs whichever can go on, then trains the rest.

The loop has one rule: programs first, heavy work (training, evaluation, saving) when none can go
on, waiting when there is no work. Timers and messages are looked after between two pieces of work.
Heavy work goes to the node that has had the least of it, so that a slow node slows nobody else.
A program that is always ready, or that asks again and again whether something is there, makes way
for all the others, and for a piece of work, now and then.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from time import monotonic, perf_counter, sleep
from typing import Any, Final, Protocol

from torch import Tensor

from decentralizepy.codec import Word
from decentralizepy.engine.averaging import Averaging
from decentralizepy.engine.carrier import Carrier, DirectCarrier, SimulatedCarrier
from decentralizepy.engine.clock import Clock, RealClock, Timers, VirtualClock
from decentralizepy.engine.deadlock import Stuck, stuck
from decentralizepy.engine.evaluation import Evaluations, Evaluator
from decentralizepy.engine.failures import Failures
from decentralizepy.engine.mailbox import Mailbox
from decentralizepy.engine.meeting import Meeting
from decentralizepy.engine.records import Reporter, check_metrics
from decentralizepy.engine.rest import Position, Rest
from decentralizepy.engine.saver import Saver
from decentralizepy.engine.seat import Seat, Strand
from decentralizepy.engine.sent_models import SentModels
from decentralizepy.engine.standing import standing
from decentralizepy.engine.waiting import Waiting
from decentralizepy.engine.workload import Work, Workload
from decentralizepy.errors import ConfigError, RunError
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory.arena import Arena
from decentralizepy.memory.rows import NodeRows, RowPool
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.checks import check_message, said_to
from decentralizepy.node.effects import (
    ANY,
    Ask,
    Average,
    Checkpoint,
    Drain,
    Forget,
    Gradient,
    Now,
    Receive,
    Report,
    Send,
    Sleep,
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

_PARKED: Final = object()
#: what is left of a `Send`
Outgoing = Iterator[tuple[Sequence[int], Message]]
#: how long to wait for the network before looking at timers and the supervisor again
_IDLE_MS: Final = 200
#: how long a worker has nothing to do before it asks whether the run is at rest
_MOMENT_MS: Final = 20
#: how long nodes that could go on wait for others that they would train together with
_PATIENCE_MS: Final = 2
#: how often a worker looks for questions while it trains
_LOOK_S: Final = 0.001
#: effects that a program is given before others get their turn
_TURN: Final = range(1000)
#: turns for each program, and seconds, after which programs make way for work
_TURNS: Final = 8
_ALONE_S: Final = 0.01
#: polls that find nothing, one after the other, are answered at once up to this many
_POLLS: Final = 100
#: in simulated time, where a poll takes none: so many in vain, with nobody else left, never end
_POLLS_IN_VAIN: Final = 10_000
#: how long a worker sleeps whose programs only poll
_POLL_MS: Final = 1


class Injector(Carrier, Protocol):
    """Injects faults, see `decentralizepy.engine.faults`; a run without any has none."""

    def begins(self, seat: Seat, t: int) -> bool:
        """A node is in iteration ``t`` and about to do something; True if that kills it."""

    def held(self) -> list[str]:
        """Messages that are held back, in words."""

    def unfired(self) -> list[str]:
        """Kills that did not come to pass, in words."""


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
        self.clock: Clock = VirtualClock() if simulation else RealClock()
        #: when nodes start, by uid, in a simulation that is resumed
        self.begins: dict[int, float] = {}
        #: what the seconds of the records are measured with
        self.stopwatch: Callable[[], float] = self.clock.now if simulation else perf_counter
        self.timers = Timers()
        #: the simulated links; None in real time
        self.network = Network(simulation) if simulation else None
        self.pool = RowPool(arena, me.worker, trainer.template.device)
        self.router = Router(me, placement, arena, self.pool, self._deliver, sockets)
        self.router.collective = self._collective
        self.carrier = self._carrier()
        self.faults: Injector | None = None
        self.sent_models: SentModels | None = None
        self.averaging: Averaging | None = None
        self.sockets, self._tell, self._orders = sockets, tell, orders
        self._waiting = Waiting(me, arena, self.router.rings, sockets, self._obey)
        self.membership = membership or Membership(placement.mapping.n)
        self._gone = self.membership.left
        self._called = arena.counters.calls(me.worker)
        self._paused = False
        self._sent = -1
        self.meeting = Meeting(
            me, placement, trainer.template.layout.n_parameters,
            self.router.send_collective, lambda t, mean: self.evaluations.mean_arrived(t, mean),
        )  # fmt: skip
        self.evaluations = Evaluations(evaluator, reporter, self.meeting, self._held_x, tell)
        self.saver = Saver(
            me, self.evaluations, self.membership, self.network, reporter, self.failures, tell,
            partial(save, self),
        )  # fmt: skip
        self.rest = Rest(
            me, placement, self.router.send_collective,
            self._position, self._save_resting, self._go_on_rested,
        )  # fmt: skip
        self.seats: dict[int, Seat] = {}
        self._slots = {u: i for i, u in enumerate(placement.mapping.hosted(me.machine))}
        self._ready: deque[tuple[Strand, Any] | tuple[Strand, Any, int]] = deque()
        self.workload = Workload(
            trainer, lambda: self.clock, self.timers, simulation, self._trained, self._resume,
            self.failures.of,
        )  # fmt: skip
        self._held: deque[tuple[Strand, Outgoing, tuple[int, int], bool]] = deque()
        #: programs that have asked in vain whether something is there, and ask again
        self._polling: deque[tuple[Strand, Receive]] = deque()
        self._active = 0
        self._idle_since: float | None = None
        self._asked_for_rest = False
        self._impatient = 0.0
        self._trains = False
        self._looked = 0.0

    def _carrier(self) -> Carrier:
        if self.network is None:
            return DirectCarrier(self.router, lambda: self.clock, self.timers)
        return SimulatedCarrier(
            self.router, lambda: self.clock, self.timers, self.network, self._deliver
        )

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
            seat.start()
            self._active += len(seat.strands)
            for strand in seat.strands:
                self._begin(strand)
        for seat in self.seats.values():
            self._see_whether_ended(seat)  # one without programs has
        self.evaluations.begin()
        if self.sockets is not None and self._simulation is None:
            self._answer_while_training()
        counters, me, more = self.arena.counters, self.me.worker, False
        while self._active or self.evaluations.waiting:
            counters.beat(me)
            if counters.calls(me) != self._called:
                self._obey()
            if self._paused:
                self._pause()
                continue
            if not more or self._simulation is None:
                self._timers_due()
            more = self._let_go_on()
            if more and self._simulation is not None:
                continue  # what is next in simulated time comes after all that happens now
            if self.workload.waits:
                self._do_work(more)
            elif self.averaging is not None and self.averaging.stirred:
                self._settle_patiently(self.averaging)
            elif more:
                self._make_way()
            elif self._active or self.evaluations.waiting:
                self._idle()
            if self._polling:
                self._poll_again()
        if self.sockets is not None:
            self.sockets.flush()

    def _let_go_on(self) -> bool:
        """Run programs until none can go on; True if some could for ever, as it seems."""
        started = perf_counter()
        while self._ready:
            for _ in range(_TURNS * self._active):
                if not self._ready:
                    return False
                self._go_on(*self._ready.popleft())
            if perf_counter() - started > _ALONE_S:
                return bool(self._ready)
        return False

    def _begin(self, strand: Strand) -> None:
        uid = strand.seat.uid
        if uid in self.begins:
            self.timers.set(self.begins[uid], partial(self._wake, strand), uid)
        else:
            self._ready.append((strand, None))

    def finish(self) -> None:
        """Write what is left to be written, also of a run that failed."""
        self.evaluations.finish()
        for kill in self.faults.unfired() if self.faults is not None else ():
            self._tell(Note(f"{self.me}: {kill} did not come to pass"))

    def serve(self) -> None:
        """Keep the sockets going after the end, until told to stop (``orders`` raises)."""
        while True:
            if not self.router.take_in(idle=True):
                self.rest.check(0.0)
            self._pause()

    def _pause(self) -> None:
        """Do nothing but let messages through and listen to the supervisor."""
        if self.sockets is not None:
            self.sockets.flush()
        self._waiting.doze(self._patience(self.timers.next))
        self.router.take_in(idle=True)
        self._timers_due()  # a message that was held back leaves although its node is done

    def _idle(self) -> None:
        """Nothing can go on: let messages go, wait for others, or for time to pass."""
        if self.sockets is not None:
            self.sockets.flush()
        arrived = self.router.take_in(idle=True)
        if self._retry_held() or arrived or self._timers_due():
            self._idle_since = None
            return
        if self.averaging is not None and self.averaging.postponed:
            if monotonic() < self._impatient:
                self._waiting.wait(_PATIENCE_MS)
            else:
                self.averaging.settle()
            return
        if self._polling:
            if self._simulation is None:
                self._waiting.doze(_POLL_MS)  # others may need the processor
            return
        next_timer = self.timers.next
        if next_timer is not None and self.sockets is None and self.clock.advance(next_timer):
            self._timers_due()
            return
        self._look_for_rest()
        idle = not self._ready and not self.workload.waits
        if idle and (self._active or self.evaluations.waiting):
            patience = self._patience(next_timer)
            self._waiting.wait(patience if self._asked_for_rest else min(patience, _MOMENT_MS))

    def _patience(self, next_timer: float | None) -> int:
        if next_timer is None:
            return _IDLE_MS
        return max(0, int(min(_IDLE_MS, 1000 * (next_timer - self.clock.now()) + 1)))

    # ------------------------------------------------------- programs and effects

    def _go_on(self, strand: Strand, answer: Any, polls: int = 0) -> None:
        """Run a program until it has to wait or work; its last ``polls`` have found nothing."""
        seat, send = strand.seat, strand.program.send
        started, effect, strand.polls = self.stopwatch(), None, polls
        try:
            for _ in _TURN:
                effect = send(answer)
                perform = _PERFORM.get(type(effect))
                if perform is None:
                    raise self.failures.no_effect(strand, effect)
                if self.faults is not None and self.faults.begins(seat, _iteration(seat, effect)):
                    return
                answer = perform(self, strand, effect)
                if answer is _PARKED:
                    break
            else:
                self._interrupt(strand, answer)
        except StopIteration:
            self._end(strand)
        except RunError:
            raise
        except (Exception, SystemExit) as error:  # a program's exit is not the worker's
            raise self.failures.of(seat, error, standing(strand.program, effect)) from error
        seat.seconds.share += self.stopwatch() - started

    def _interrupt(self, strand: Strand, answer: Any) -> None:
        """A program does not wait for anything: others first, but in simulated time, where who
        comes first may decide about numbers."""
        self._blame(strand)
        put = self._ready.append if self._simulation is None else self._ready.appendleft
        put((strand, answer, strand.polls))

    def _blame(self, strand: Strand) -> None:
        """Have the supervisor name this node, should nothing get on."""
        self.arena.counters.busy(self.me.worker, strand.seat.uid, strand.seat.node.round)

    def _end(self, strand: Strand) -> None:
        strand.ended = True
        self._active -= 1
        self._see_whether_ended(strand.seat)

    def _see_whether_ended(self, seat: Seat) -> None:
        if all(strand.ended for strand in seat.strands):
            slot = self._slots[seat.uid]
            seat.ended = True
            done = max(seat.node.round, seat.saved, self.arena.counters.rounds[slot])
            self._note_progress(seat, done)
            seat.mailbox.clear()
            if self.averaging is not None:
                self.averaging.leave(seat.uid)
            self.evaluations.leave([seat.uid])
            self.saver.save_ended(seat, done)

    def _note_progress(self, seat: Seat, iterations: int) -> None:
        """Show the supervisor how many iterations a node has done."""
        self.arena.counters.rounds[self._slots[seat.uid]] = iterations

    def _sleep(self, strand: Strand, effect: Sleep) -> Any:
        when = self.clock.now() + max(effect.seconds, 0.0)
        self.timers.set(when, partial(self._wake, strand), strand.seat.uid)
        return _PARKED

    def _resume(self, strand: Strand, answer: Any) -> None:
        self._ready.append((strand, answer))

    def _wake(self, strand: Strand) -> None:
        if not strand.seat.lost:
            self._ready.append((strand, None))

    def _now(self, strand: Strand, effect: Now) -> float:
        return self.clock.now()

    def _forget(self, strand: Strand, effect: Forget) -> None:
        strand.seat.mailbox.forget(effect.round)

    def _timers_due(self) -> bool:
        if self.timers.next is None:
            return bool(self._ready)
        for happen in self.timers.due(self.clock.now()):
            happen()
        return bool(self._ready)

    # ----------------------------------------------------------------- sending

    def _send(self, strand: Strand, effect: Send) -> Any:
        return self._send_on(strand, iter(effect.outgoing), effect.round, False)

    def _ask(self, strand: Strand, effect: Ask) -> Any:
        kind = type(strand.seat.node)
        if kind.answer is Node.answer:
            raise TypeError(f"Ask: {kind.__name__} defines no answer(self, message) to reply with")
        outgoing = iter([(tuple(effect.receivers), effect.message)])
        return self._send_on(strand, outgoing, effect.round, True)

    def _send_on(
        self, strand: Strand, outgoing: Outgoing, round_: tuple[int, int], asks: bool
    ) -> Any:
        """Send what a program says; it is held while a receiver's machine has no room."""
        self._sent = max(self._sent, round_[0])
        seat = strand.seat
        uid, router, carry = seat.node.uid, self.router, self.carrier.carry
        for item in outgoing:
            uids, message = said_to(item)
            if not router.may_send(uid, uids):
                self._held.append((strand, chain([(uids, message)], outgoing), round_, asks))
                return _PARKED
            message = message.stamped(uid, round_, asks)
            if self.sent_models is not None:
                self.sent_models.see(seat, uids, message)
            carry(seat, uids, message)
        return None

    def average_together(self) -> None:
        """From now on do rounds of plain gossip for many nodes at once."""
        self.averaging = Averaging(
            self.me, self.placement, self.arena, self.pool, self.router, self.seats,
            self._go_on, self.stopwatch,
        )  # fmt: skip

    def _average(self, strand: Strand, effect: Average) -> Any:
        joined = self.averaging is not None and self.averaging.join(strand, effect)
        return _PARKED if joined else False

    def _settle_patiently(self, averaging: Averaging) -> None:
        """Where nodes train together, those that could go on alone wait a moment for others."""
        patient = self.trainer.takes_groups and self.sockets is not None
        if patient:
            averaging.flush()  # others wait for it
            self.router.take_in()  # often all that is missing has come by now
        averaging.settle(patient)
        if averaging.postponed:
            self._impatient = monotonic() + _PATIENCE_MS / 1000

    def _retry_held(self) -> bool:
        for _ in range(len(self._held)):
            strand, outgoing, round_, asks = self._held.popleft()
            try:
                if self._send_on(strand, outgoing, round_, asks) is not _PARKED:
                    self._ready.append((strand, None))
            except RunError:
                raise
            except Exception as error:  # what is sent is computed lazily, here
                raise self.failures.of(strand.seat, error, standing(strand.program)) from error
        return bool(self._ready)

    # --------------------------------------------------------------- messages

    def _deliver(self, uids: Sequence[int], message: Message) -> None:
        """Give a message to nodes of this worker: into their mailboxes, and on to who waits."""
        seats, asks = self.seats, message.asks
        for uid in uids:
            seat = seats.get(uid)
            if seat is None or seat.lost:
                continue
            mine = message.own() if message.meta else message
            if asks:
                self._reply(seat, mine)
            elif not seat.ended and seat.mailbox.put(mine):
                if message.round[0] < seat.saved and message.sender not in self._gone:
                    self.saver.tell_unread(seat, message.round[0])
                for strand in seat.strands:
                    if strand.waiting is not None and strand.heard(mine, self._gone):
                        self._answer(strand)
                        break

    def _reply(self, seat: Seat, question: Message) -> None:
        """Have a node answer a question, whatever it is doing."""
        try:
            reply = seat.node.answer(question)
            if reply is not None:
                check_message(reply, f"{type(seat.node).__name__}.answer")
                stamped = reply.stamped(seat.uid, question.round)
                self.carrier.carry(seat, (question.sender,), stamped)
        except RunError:
            raise
        except Exception as error:  # the fault of who answers, not of who asks
            raise self.failures.of(seat, error) from error

    def _receive(self, strand: Strand, wanted: Receive) -> Any:
        strand.seat.has_deadlines = strand.seat.has_deadlines or wanted.deadline is not None
        if strand.expect(wanted, self._gone, self.stopwatch()):
            return self._heard(strand)
        if strand.absent and wanted.sources is not ANY:
            self.placement.check(strand.absent)
        if wanted.deadline is not None:
            if wanted.deadline <= 0:
                return self._poll(strand, wanted)
            over = partial(self._deadline, strand, wanted)
            when = self.clock.now() + wanted.deadline
            strand.timer = self.timers.set(when, over, strand.seat.uid)
        return _PARKED

    def _poll(self, strand: Strand, wanted: Receive) -> Any:
        """Give what is there; whoever asks again and again in vain does so when all that is due
        was done."""
        heard = self._heard(strand, "deadline")
        if any(type(one) is not Missing for one in heard):
            strand.polls = 0
            return heard
        strand.polls += 1
        if strand.polls < _POLLS:
            return heard
        if self._simulation is not None and strand.polls > _POLLS_IN_VAIN:
            raise self.failures.polls_for_ever(strand)
        self._blame(strand)
        strand.expect(wanted, self._gone, self.stopwatch())
        self._polling.append((strand, wanted))
        return _PARKED

    def _poll_again(self) -> None:
        """Answer programs that poll; in simulated time once nothing else is left to happen now."""
        if self._ready and self._simulation is not None:
            return
        for _ in range(len(self._polling)):
            strand, wanted = self._polling.popleft()
            if strand.waiting is not wanted:  # it has heard something, or is lost
                continue
            strand.seat.seconds.wait += self.stopwatch() - strand.since
            self._go_on(strand, self._heard(strand, "deadline"), strand.polls)

    def _deadline(self, strand: Strand, wanted: Receive) -> None:
        if strand.waiting is wanted:
            self._answer(strand, "deadline")

    def _heard(self, strand: Strand, reason: str = "lost") -> list[Any]:
        """What a program asked for; it waits no longer. ``reason`` is why a source is missing."""
        wanted, strand.waiting = strand.waiting, None
        assert wanted is not None
        if strand.timer is not None:
            strand.timer.cancel()
            strand.timer = None
        return strand.seat.mailbox.take(wanted, reason)

    def _answer(self, strand: Strand, reason: str = "lost") -> None:
        """Give a waiting program what it asked for."""
        strand.seat.seconds.wait += self.stopwatch() - strand.since
        self._ready.append((strand, self._heard(strand, reason)))

    def _collective(self, kind: str, message: Message) -> None:
        if kind == "Q":
            self.rest.take(message)
        elif kind == "R":
            if self.averaging is not None:
                self.averaging.take_private(message)
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
        self._tell(NodesLost((seat.uid,), seat.node.round + 1))

    def _drop(self, seat: Seat) -> None:
        why = f"node {seat.uid} was lost in iteration {seat.node.round + 1}"
        nodes = range(self.placement.mapping.n)
        if (self.membership.left | {seat.uid}).issuperset(nodes):
            raise RunError(f"{self.me}: {why}; no node is left")
        self._leave(Leaving(self._sent + 1, (seat.uid,), why, ()))
        self._tell(NodesLeft(self.membership.epochs[-1]))

    def _abandon(self, seat: Seat) -> None:
        self._active -= sum(not strand.ended for strand in seat.strands)
        seat.lost = True
        for strand in seat.strands:
            strand.program.close()
            strand.ended, strand.waiting = True, None
        seat.mailbox.clear()
        self.workload.drop(seat)
        self._ready = deque(item for item in self._ready if item[0].seat is not seat)
        self._held = deque(item for item in self._held if item[0].seat is not seat)
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
                self._tell(WorkerPaused(order.number, self._sent))
            elif isinstance(order, Leave):
                self._leave(order.who)
                self._paused = False

    def _leave(self, who: Leaving) -> None:
        """A membership epoch: nodes leave; nobody has sent anything of its first iteration yet."""
        self.membership.add(who.epoch)
        self._gone = self.membership.left
        workers = {WorkerId(*pair) for pair in who.workers}
        for seat in [seat for uid, seat in self.seats.items() if uid in self._gone]:
            self._vacate(seat)
        self.router.leave(self._gone, workers)
        empty = (w for w in self.placement.all() if self._gone.issuperset(self.placement.uids(w)))
        self.meeting.leave(workers.union(empty))
        self.rest.leave(workers)
        for seat in self.seats.values():
            for strand in seat.waits:
                if strand.lost(self._gone):
                    self._answer(strand)

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
            if self.averaging is not None:
                self.averaging.flush()
            self.sockets.flush()  # others may be waiting for it: they work while we do
            self.router.take_in()
            if self._held:
                self._retry_held()

    def _make_way(self) -> None:
        """Programs go on and on: see to what else waits until none can."""
        self._exchange()
        if self.averaging is not None and self.averaging.postponed:
            self.averaging.settle()

    def _do_work(self, at_once: bool) -> None:
        """Do a piece of work, unless a message lets programs go on, or ``at_once``."""
        self._exchange()
        if self._ready and not at_once and self.sockets is not None:
            return
        work = self.workload.next()
        if work is None:
            return
        seat, effect = work.strand.seat, work.effect
        self._idle_since = None
        self.arena.counters.busy(self.me.worker, seat.uid, effect.t)
        if isinstance(effect, Train | Gradient):
            self._trains = True
            self.workload.train(work)
            self._trains = False
            return
        if isinstance(effect, Report):
            self._measure(seat, effect)
        else:
            self.saver.save(seat, effect.t)
        self._ready.append((work.strand, None))

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
        return _PARKED

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
        return _PARKED

    def _measure(self, seat: Seat, effect: Report) -> None:
        own, elapsed, before = effect.metrics or {}, self.clock.now(), seat.seconds.evaluate
        try:
            self.evaluations.evaluate(seat, effect.t, own, self.stopwatch, elapsed)
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
            strand.rest(effect, self.stopwatch())
        elif self._simulation is not None:  # takes no simulated time
            self.saver.save(strand.seat, effect.t)
            return None
        else:
            self.workload.add(Work(strand, effect))
        return _PARKED

    def _drain(self, strand: Strand, effect: Drain) -> Any:
        strand.rest(effect, self.stopwatch())
        return _PARKED

    def _position(self) -> Position:
        """Where this worker is, for finding out whether the whole run is at rest."""
        settled = not self._ready and not self._polling
        settled = settled and not self._trains and self.workload.empty
        settled = settled and not self.carrier.in_flight and self.timers.next is None
        averaging = self.averaging
        settled = settled and not (averaging and (averaging.stirred or averaging.postponed))
        live = [[s for s in seat.strands if not s.ended] for seat in self.seats.values()]
        strands = [strand for of_node in live for strand in of_node]
        # of a node one program is enough: others may wait for messages that nobody will send
        wants_rest = all(
            any(strand.resting is not None for strand in of_node) for of_node in live if of_node
        )
        resting = settled and wants_rest and not self._held
        saving = any(isinstance(strand.resting, Checkpoint) for strand in strands)
        waits = self._stuck() if settled else Stuck()
        sent, received = (
            {self.rest.number[worker]: n for worker, n in counts.items()}
            for counts in self._counts()
        )
        return Position(settled, resting, saving, sent, received, waits)

    def _counts(self) -> tuple[Counter[WorkerId], Counter[WorkerId]]:
        """What was sent to, and received from, each other worker: messages, and room for them."""
        sent, received = self.router.sent, self.router.received
        if self.sockets is None or self.sockets.wire is None:
            return sent, received
        given, got = self.sockets.wire.credits()
        return sent + given, received + got

    def _stuck(self) -> Stuck:
        sending = {strand for strand, *_ in self._held}
        faults = self.faults.held() if self.faults is not None else ()
        return stuck(self.seats.values(), self.averaging, sending, faults)

    def _look_for_rest(self) -> None:
        """Nothing to do, and nothing has come: perhaps nobody has."""
        now = monotonic()
        self._idle_since = now if self._idle_since is None else self._idle_since
        idle_s = now - self._idle_since
        # most of the time others answer within a moment, and asking takes a look at every node
        self._asked_for_rest = self.sockets is None or 1000 * idle_s >= _MOMENT_MS
        if self._asked_for_rest:
            self.rest.check(idle_s)

    def _save_resting(self) -> None:
        """Save the nodes that wait at a checkpoint, with their mail."""
        for seat in self.seats.values():
            for strand in seat.strands:
                if isinstance(strand.resting, Checkpoint):
                    strand.rested(self.stopwatch())  # a resumed run knows of it
                    self.saver.save(seat, strand.resting.t)

    def _go_on_rested(self, saved: bool) -> None:
        """All go on that were saved at a checkpoint; or all that wait for the end."""
        for seat in self.seats.values():
            for strand in seat.strands:
                if strand.resting is not None and isinstance(strand.resting, Checkpoint) == saved:
                    strand.rested(self.stopwatch())
                    strand.resting = None
                    self._ready.append((strand, None))
        self._idle_since = None


def _iteration(seat: Seat, effect: Any) -> int:
    """The iteration (0-based) that a node is in as it yields an effect."""
    return effect.t if type(effect) is Train else seat.node.round


_PERFORM: Final[Mapping[type, Callable[[Worker, Strand, Any], Any]]] = {
    Train: Worker._train,
    Gradient: Worker._train,
    Send: Worker._send,
    Average: Worker._average,
    Ask: Worker._ask,
    Receive: Worker._receive,
    Forget: Worker._forget,
    Drain: Worker._drain,
    Sleep: Worker._sleep,
    Now: Worker._now,
    Report: Worker._report,
    Checkpoint: Worker._checkpoint,
}


def weights(worker: Worker) -> Mapping[int, dict[str, Tensor]]:
    """The final ``state_dict`` of every node of a worker, servers included."""
    layout = worker.trainer.template.layout
    return {
        uid: layout.state_dict(seat.node.x, seat.learner.counters)
        for uid, seat in worker.seats.items()
    }
