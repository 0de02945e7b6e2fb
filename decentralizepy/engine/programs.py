"""Runs the programs of a worker's nodes: what they yield, what they say and what they hear.

A program runs until it has to wait or to work. One that is always ready, or that asks again and
again whether something is there, makes way for all the others now and then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from time import perf_counter
from typing import Any, Final, Protocol

from decentralizepy.engine.averaging import Averaging
from decentralizepy.engine.carrier import Carrier, DirectCarrier, SimulatedCarrier
from decentralizepy.engine.clock import Clock, Timers
from decentralizepy.engine.failures import Failures
from decentralizepy.engine.seat import Seat, Strand
from decentralizepy.engine.sent_models import SentModels
from decentralizepy.engine.standing import standing
from decentralizepy.errors import RunError
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory.shared import Counters
from decentralizepy.messages.message import Message, Missing
from decentralizepy.node.checks import check_message, said_to
from decentralizepy.node.effects import ANY, Ask, Average, Forget, Now, Receive, Send, Sleep
from decentralizepy.node.node import Node
from decentralizepy.scenario.simulation import Network
from decentralizepy.transport.router import Deliver, Router

#: the answer of an effect whose program has to wait
PARKED: Final = object()
#: performs an effect that a program has yielded: gives the program's answer, or `PARKED`
Perform = Callable[[Strand, Any], Any]
#: what is left of a `Send`
Outgoing = Iterator[tuple[Sequence[int], Message]]
#: effects that a program is given before others get their turn
_TURN: Final = range(1000)
#: turns for each program, and seconds, after which programs make way for work
_TURNS: Final = 8
_ALONE_S: Final = 0.01
#: polls that find nothing, one after the other, are answered at once up to this many
_POLLS: Final = 100
#: in simulated time, where a poll takes none: so many in vain, with nobody else left, never end
_POLLS_IN_VAIN: Final = 10_000


class Injector(Carrier, Protocol):
    """Injects faults, see `decentralizepy.engine.faults`; a run without any has none."""

    def begins(self, seat: Seat, t: int) -> bool:
        """A node is in iteration ``t`` and about to do something; True if that kills it."""

    def held(self) -> list[str]:
        """Messages that are held back, in words."""

    def unfired(self) -> list[str]:
        """Kills that did not come to pass, in words."""


class Programs:
    """The programs of one worker's nodes, and those that can go on (``ready``).

    ``others`` perform the effects that are more than messages and time. ``ended`` is told of each
    node one of whose programs has ended, ``unread`` of mail that a checkpoint lacks.
    """

    def __init__(
        self,
        me: WorkerId,
        placement: Placement,
        counters: Counters,
        clock: Clock,
        timers: Timers,
        network: Network | None,
        failures: Failures,
        router: Callable[[Deliver], Router],
        others: Mapping[type, Perform],
        ended: Callable[[Seat], None],
        unread: Callable[[Seat, int], None],
    ) -> None:
        self._me, self._placement, self._counters = me.worker, placement, counters
        self.clock, self._timers, self._failures = clock, timers, failures
        self._simulated = network is not None
        #: what the seconds of the records are measured with
        self.stopwatch: Callable[[], float] = clock.now if self._simulated else perf_counter
        self.router = router(self.deliver)
        self.carrier = self._carrier(network)
        self.faults: Injector | None = None
        self.sent_models: SentModels | None = None
        self.averaging: Averaging | None = None
        self.seats: dict[int, Seat] = {}
        #: when nodes start, by uid, in a simulation that is resumed
        self.begins: dict[int, float] = {}
        #: programs that have not ended
        self.active = 0
        self.ready: deque[tuple[Strand, Any] | tuple[Strand, Any, int]] = deque()
        #: what waits for room on other machines
        self.held: deque[tuple[Strand, Outgoing, tuple[int, int], bool]] = deque()
        #: programs that have asked in vain whether something is there, and ask again
        self.polling: deque[tuple[Strand, Receive]] = deque()
        #: the newest iteration in which anything was sent
        self.sent = -1
        #: nodes that have left
        self.gone: frozenset[int] = frozenset()
        self._ended, self._unread = ended, unread
        self._perform: Mapping[type, Perform] = {
            Send: self._send, Average: self._average, Ask: self._ask, Receive: self._receive,
            Forget: self._forget, Sleep: self._sleep, Now: self._now, **others,
        }  # fmt: skip

    def _carrier(self, network: Network | None) -> Carrier:
        if network is None:
            return DirectCarrier(self.router, lambda: self.clock, self._timers)
        return SimulatedCarrier(
            self.router, lambda: self.clock, self._timers, network, self.deliver
        )

    # -------------------------------------------------------- whose turn it is

    def start(self, seat: Seat) -> None:
        """Make the programs of a node; they run at the next `let_go_on`."""
        seat.start()
        self.active += len(seat.strands)
        for strand in seat.strands:
            self._begin(strand)

    def _begin(self, strand: Strand) -> None:
        uid = strand.seat.uid
        if uid in self.begins:
            self._timers.set(self.begins[uid], partial(self._wake, strand), uid)
        else:
            self.ready.append((strand, None))

    def let_go_on(self) -> bool:
        """Run programs until none can go on; True if some could for ever, as it seems."""
        started = perf_counter()
        while self.ready:
            for _ in range(_TURNS * self.active):
                if not self.ready:
                    return False
                self.go_on(*self.ready.popleft())
            if perf_counter() - started > _ALONE_S:
                return bool(self.ready)
        return False

    def go_on(self, strand: Strand, answer: Any, polls: int = 0) -> None:
        """Run a program until it has to wait or work; its last ``polls`` have found nothing."""
        seat, send = strand.seat, strand.program.send
        started, effect, strand.polls = self.stopwatch(), None, polls
        try:
            for _ in _TURN:
                effect = send(answer)
                perform = self._perform.get(type(effect))
                if perform is None:
                    raise self._failures.no_effect(strand, effect)
                if self.faults is not None and self.faults.begins(seat, seat.during(effect)):
                    return
                answer = perform(strand, effect)
                if answer is PARKED:
                    break
            else:
                self._interrupt(strand, answer)
        except StopIteration:
            self._end(strand)
        except RunError:
            raise
        except (Exception, SystemExit) as error:  # a program's exit is not the worker's
            raise self._failures.of(seat, error, standing(strand.program, effect)) from error
        seat.seconds.share += self.stopwatch() - started

    def _interrupt(self, strand: Strand, answer: Any) -> None:
        """A program does not wait for anything: others first, but in simulated time, where who
        comes first may decide about numbers."""
        self._blame(strand)
        put = self.ready.append if not self._simulated else self.ready.appendleft
        put((strand, answer, strand.polls))

    def _blame(self, strand: Strand) -> None:
        """Have the supervisor name this node, should nothing get on."""
        self._counters.busy(self._me, strand.seat.uid, strand.seat.node.round)

    def _end(self, strand: Strand) -> None:
        strand.ended = True
        self.active -= 1
        self._ended(strand.seat)

    def resume(self, strand: Strand, answer: Any) -> None:
        """A program has what it waited for, and goes on when its turn comes."""
        self.ready.append((strand, answer))

    def drop(self, seat: Seat) -> None:
        """A node is lost: its programs end where they are."""
        self.active -= sum(not strand.ended for strand in seat.strands)
        for strand in seat.strands:
            strand.program.close()
            strand.ended, strand.waiting = True, None
        self.ready = deque(item for item in self.ready if item[0].seat is not seat)
        self.held = deque(item for item in self.held if item[0].seat is not seat)

    def leave(self, gone: frozenset[int]) -> None:
        """Nodes have left for good: nobody waits for them any more."""
        self.gone = gone
        for seat in self.seats.values():
            for strand in seat.waits:
                if strand.lost(gone):
                    self._answer(strand)

    # -------------------------------------------------------------------- time

    def _sleep(self, strand: Strand, effect: Sleep) -> Any:
        when = self.clock.now() + max(effect.seconds, 0.0)
        self._timers.set(when, partial(self._wake, strand), strand.seat.uid)
        return PARKED

    def _wake(self, strand: Strand) -> None:
        if not strand.seat.lost:
            self.ready.append((strand, None))

    def _now(self, strand: Strand, effect: Now) -> float:
        return self.clock.now()

    # ----------------------------------------------------------- what they say

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
        self.sent = max(self.sent, round_[0])
        seat = strand.seat
        uid, router, carry = seat.node.uid, self.router, self.carrier.carry
        for item in outgoing:
            uids, message = said_to(item)
            if not router.may_send(uid, uids):
                self.held.append((strand, chain([(uids, message)], outgoing), round_, asks))
                return PARKED
            message = message.stamped(uid, round_, asks)
            if self.sent_models is not None:
                self.sent_models.see(seat, uids, message)
            carry(seat, uids, message)
        return None

    def retry_held(self) -> bool:
        """Send what was held as far as there is room now; True if programs can go on."""
        for _ in range(len(self.held)):
            strand, outgoing, round_, asks = self.held.popleft()
            try:
                if self._send_on(strand, outgoing, round_, asks) is not PARKED:
                    self.ready.append((strand, None))
            except RunError:
                raise
            except Exception as error:  # what is sent is computed lazily, here
                raise self._failures.of(strand.seat, error, standing(strand.program)) from error
        return bool(self.ready)

    def _average(self, strand: Strand, effect: Average) -> Any:
        joined = self.averaging is not None and self.averaging.join(strand, effect)
        return PARKED if joined else False

    # ---------------------------------------------------------- what they hear

    def deliver(self, uids: Sequence[int], message: Message) -> None:
        """Give a message to nodes of this worker: to who waits for it alone at once, else into
        their mailboxes, and from there to who has waited for the last one."""
        seats, asks = self.seats, message.asks
        shared = asks or message.meta  # who hears it may write there
        for uid in uids:
            seat = seats.get(uid)
            if seat is None or seat.lost:
                continue
            mine = message.own() if shared else message
            if asks:
                self._reply(seat, mine)
            elif seat.ended:
                pass
            elif message.round[0] >= seat.saved and seat.waits_just_for(mine):
                self._give(seat.strands[0], [mine])
            elif seat.mailbox.put(mine):
                if message.round[0] < seat.saved and message.sender not in self.gone:
                    self._unread(seat, message.round[0])
                for strand in seat.strands:
                    if strand.waiting is not None and strand.heard(mine, self.gone):
                        self._answer(strand)
                        break
            if shared:
                mine.lease = None  # a mailbox has it: who keeps what it has heard holds nobody up

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
            raise self._failures.of(seat, error) from error

    def _receive(self, strand: Strand, wanted: Receive) -> Any:
        strand.seat.has_deadlines = strand.seat.has_deadlines or wanted.deadline is not None
        if strand.expect(wanted, self.gone, self.stopwatch()):
            return self._heard(strand)
        if strand.absent and wanted.sources is not ANY:
            self._placement.check(strand.absent)
        if wanted.deadline is not None:
            if wanted.deadline <= 0:
                return self._poll(strand, wanted)
            over = partial(self._deadline, strand, wanted)
            when = self.clock.now() + wanted.deadline
            strand.timer = self._timers.set(when, over, strand.seat.uid)
        return PARKED

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
        if self._simulated and strand.polls > _POLLS_IN_VAIN:
            raise self._failures.polls_for_ever(strand)
        self._blame(strand)
        strand.expect(wanted, self.gone, self.stopwatch())
        self.polling.append((strand, wanted))
        return PARKED

    def poll_again(self) -> None:
        """Answer programs that poll; in simulated time once nothing else is left to happen now."""
        if self.ready and self._simulated:
            return
        for _ in range(len(self.polling)):
            strand, wanted = self.polling.popleft()
            if strand.waiting is not wanted:  # it has heard something, or is lost
                continue
            strand.seat.seconds.wait += self.stopwatch() - strand.since
            self.go_on(strand, self._heard(strand, "deadline"), strand.polls)

    def _deadline(self, strand: Strand, wanted: Receive) -> None:
        if strand.waiting is wanted:
            self._answer(strand, "deadline")

    def _heard(self, strand: Strand, reason: str = "lost") -> list[Any]:
        """What a program asked for; it waits no longer. ``reason`` is why a source is missing."""
        wanted = strand.waiting
        assert wanted is not None
        strand.waits_no_longer()
        return strand.seat.mailbox.take(wanted, reason)

    def _answer(self, strand: Strand, reason: str = "lost") -> None:
        """Give a waiting program what it asked for."""
        assert strand.waiting is not None
        self._give(strand, strand.seat.mailbox.take(strand.waiting, reason))

    def _give(self, strand: Strand, heard: list[Any]) -> None:
        strand.seat.seconds.wait += self.stopwatch() - strand.since
        strand.waits_no_longer()
        self.ready.append((strand, heard))

    def _forget(self, strand: Strand, effect: Forget) -> None:
        strand.seat.mailbox.forget(effect.round)
