"""One OS process that drives any number of nodes: runs whichever can go on, then trains the rest.

The loop has one rule: programs first, heavy work (training, evaluation, saving) when none can go
on, waiting when there is no work. Nodes are trained in the order in which they asked.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from time import perf_counter, sleep
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from decentralizepy.engine.clock import Clock, RealClock, Timers
from decentralizepy.engine.mailbox import Parcel
from decentralizepy.engine.report import (
    Evaluator,
    Meeting,
    Pending,
    Reporter,
    costs,
    effort,
)
from decentralizepy.engine.seat import Seat
from decentralizepy.errors import RunError
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.memory.arena import Arena
from decentralizepy.memory.rows import RowPool
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import (
    Checkpoint,
    Now,
    Receive,
    Report,
    Send,
    Sleep,
    Train,
)
from decentralizepy.node.membership import Epoch, Membership
from decentralizepy.node.node import Node
from decentralizepy.training.trainer import Learner, LocalWork, Trainer
from decentralizepy.transport.local import Links
from decentralizepy.transport.rings import fence
from decentralizepy.transport.router import Post

_PARKED: Final = object()
#: what is left of a `Send`
Outgoing = Iterator[tuple[Sequence[int], Message]]
#: how long to wait for the network before looking at timers and the supervisor again
_IDLE_MS: Final = 200
#: a worker that found no free row looks again after this
_STARVED_MS: Final = 1


class NodeFailedError(RunError):
    """A node program raised; the text names node and round and holds the traceback."""


class Injector(Protocol):
    """Injects faults, see `decentralizepy.engine.faults`; a run without any has none."""

    def begins(self, seat: Seat, t: int) -> bool:
        """A node starts an iteration; True if that kills it."""

    def carry(self, seat: Seat, uids: Sequence[int], message: Message) -> None:
        """Take a message from a node, in place of `Worker.transmit`."""

    def held(self) -> list[str]:
        """Messages that are held back, in words."""


class Worker:
    """Drives the nodes of one worker from start to end."""

    def __init__(
        self,
        me: WorkerId,
        placement: Placement,
        arena: Arena,
        trainer: Trainer,
        evaluator: Evaluator,
        reporter: Reporter,
        *,
        links: Links | None = None,
        clock: Clock | None = None,
        tell: Callable[[dict[str, Any]], None] = lambda news: None,
        orders: Callable[[], Iterable[dict[str, Any]]] = tuple,
        membership: Membership | None = None,
        save: Callable[[Worker, Seat, int], int] = lambda worker, seat, t: 0,
    ) -> None:
        self.me, self.placement, self.arena = me, placement, arena
        self.trainer, self.evaluator, self.reporter = trainer, evaluator, reporter
        self.clock: Clock = clock or RealClock()
        #: what the seconds of the records are measured with
        self.stopwatch: Callable[[], float] = perf_counter
        self.timers = Timers()
        self.faults: Injector | None = None
        self.pool = RowPool(arena, me.worker)
        self.post = Post(me, placement, arena, self.pool, self._deliver, links)
        self.links, self._tell, self._orders, self._save = links, tell, orders, save
        self.membership = membership or Membership(placement.mapping.n)
        self._gone = self.membership.left
        self._called = arena.control.calls(me.worker)
        self._paused = False
        self._sent = -1
        self.meeting = Meeting(
            me, placement, trainer.template.layout.n_parameters,
            self.post.send_collective, self._mean_arrived,
        )  # fmt: skip
        self.post.collective = self.meeting.take
        self.seats: dict[int, Seat] = {}
        self._first_uid = placement.mapping.uids(me.machine).start
        self._ready: deque[tuple[Seat, Any]] = deque()
        self._work: deque[tuple[Seat, Train | Report | Checkpoint]] = deque()
        self._starved: deque[Seat] = deque()
        self._held: deque[tuple[Seat, Outgoing, tuple[int, int]]] = deque()
        self._pending: dict[int, Pending] = {}
        self._active = 0

    # ------------------------------------------------------------------ life

    def add(self, node: Node, learner: Learner, initial: Tensor) -> None:
        """Seat a node, starting from the row ``initial``."""
        row = self.pool.acquire()
        assert row is not None, "an arena always has more rows than nodes"
        node.x = self.pool.tensor(row)
        node.x.copy_(initial)
        node.membership = self.membership
        self.seats[node.uid] = Seat(node, learner, row, node.program())

    def run(self) -> None:
        """Run all nodes to their ends."""
        self._active = len(self.seats)
        self._ready.extend((seat, None) for seat in self.seats.values())
        control, me = self.arena.control, self.me.worker
        while self._active:
            control.beat(me)
            if control.calls(me) != self._called:
                self._obey()
            if self._paused:
                self._rest()
                continue
            while self._ready:
                self._go_on(*self._ready.popleft())
            if self._work:
                self._do_work()
            elif self._active:
                self._idle()
        if self.links is not None:
            self.links.flush()

    def serve(self) -> None:
        """Keep the sockets going after the end, until told to stop (``orders`` raises)."""
        while True:
            self._rest()

    def _rest(self) -> None:
        """Do nothing but let messages through and listen to the supervisor."""
        if self.links is not None:
            self.links.flush()
        self._wait(self._patience(self.timers.next))
        self.post.take_in(idle=True)
        self._timers_due()  # a message that was held back leaves although its node is done

    def _idle(self) -> None:
        """Nothing can go on: let messages go, wait for others, or for time to pass."""
        if self.links is not None:
            self.links.flush()
        arrived = self.post.take_in(idle=True)
        if self._retry_starved() or self._retry_held() or arrived or self._timers_due():
            return
        next_timer = self.timers.next
        if next_timer is not None and self.links is None and self.clock.advance(next_timer):
            self._timers_due()
            return
        if self.links is None and next_timer is None and not self._starved:
            raise RunError(f"{self.me}: no node can go on; {self._who_waits()}")
        self._wait(self._patience(next_timer))

    def _patience(self, next_timer: float | None) -> int:
        if self._starved:
            return _STARVED_MS
        if next_timer is None:
            return _IDLE_MS
        return max(0, min(_IDLE_MS, int(1000 * (next_timer - self.clock.now())) + 1))

    def _wait(self, milliseconds: int) -> None:
        if self.links is None:
            sleep(milliseconds / 1000)
        else:
            control, me = self.arena.control, self.me.worker
            control.set_idle(me, True)
            fence()  # either we see a notice now, or its sender sees that we sleep
            if self.post.rings.quiet:
                self.links.sleep(_STARVED_MS if self.post.rings.behind else milliseconds)
            control.set_idle(me, False)
        self.arena.control.beat(self.me.worker)
        self._obey()

    def _who_waits(self) -> str:
        waits = [
            f"node {seat.uid} waits in iteration {seat.node.round + 1} for {seat.waiting.sources}"
            for seat in self.seats.values()
            if seat.waiting is not None
        ]
        held = self.faults.held() if self.faults is not None else []
        return "; ".join(waits[:5] + held)

    # ------------------------------------------------------- programs and effects

    def _go_on(self, seat: Seat, answer: Any) -> None:
        """Run a program until it has to wait or work."""
        while True:
            started = self.stopwatch()
            try:
                effect = seat.program.send(answer)
            except StopIteration:
                seat.consume()
                seat.ended = True
                seat.drop_mail()  # others wait until what they sent is read
                self._active -= 1
                return
            except RunError:
                raise
            except Exception as error:
                raise self._failure(seat, error) from error
            seat.adopt(self.pool)
            answer = self._perform(seat, effect)
            seat.seconds.share += self.stopwatch() - started
            if answer is _PARKED:
                return

    def _failure(self, seat: Seat, error: Exception) -> NodeFailedError:
        text = "".join(traceback.format_exception(error))
        self.reporter.log(seat.uid, text, "ERROR")
        return NodeFailedError(
            f"{self.me}: node {seat.uid} failed in iteration {seat.node.round + 1}: "
            f"{type(error).__name__}: {error}\n{text}"
        )

    def _perform(self, seat: Seat, effect: Any) -> Any:
        if isinstance(effect, Train):
            seat.consume()
            if self.faults is None or not self.faults.begins(seat, effect.t):
                self._start_training(seat, effect)
            return _PARKED
        if isinstance(effect, Send):
            return self._send(seat, iter(effect.outgoing), effect.round)
        if isinstance(effect, Receive):
            return self._receive(seat, effect)
        if isinstance(effect, Report):
            return self._report(seat, effect)
        if isinstance(effect, Checkpoint):
            return self._checkpoint(seat, effect)
        if isinstance(effect, Now):
            return self.clock.now()
        if isinstance(effect, Sleep):
            self._after(effect.seconds, seat)
            return _PARKED
        raise RunError(f"node {seat.uid} yielded {effect!r:.80}, which is no effect")

    def _after(self, seconds: float, seat: Seat) -> None:
        """Let a node go on after some seconds of the clock."""
        self.timers.set(self.clock.now() + seconds, partial(self._wake, seat), seat.uid)

    def _wake(self, seat: Seat) -> None:
        if not seat.lost:
            self._ready.append((seat, None))

    def _send(self, seat: Seat, outgoing: Outgoing, round_: tuple[int, int]) -> Any:
        """Send what a program says; it is held while a receiver's machine has no room."""
        self._sent = max(self._sent, round_[0])
        carry = self.transmit if self.faults is None else self.faults.carry
        try:
            for uids, message in outgoing:
                if not self.post.may_send(seat.uid, uids):
                    self._held.append((seat, chain([(uids, message)], outgoing), round_))
                    return _PARKED
                carry(seat, uids, message.stamped(seat.uid, round_))
        except RunError:
            raise
        except Exception as error:  # what is sent is computed lazily, here
            raise self._failure(seat, error) from error
        return None

    def _retry_held(self) -> bool:
        for _ in range(len(self._held)):
            seat, outgoing, round_ = self._held.popleft()
            if self._send(seat, outgoing, round_) is not _PARKED:
                self._ready.append((seat, None))
        return bool(self._ready)

    def transmit(self, seat: Seat, uids: Sequence[int], message: Message) -> None:
        """Put a node's message on its way."""
        self.post.send(uids, message, seat.row, seat.traffic)

    def transmit_slowly(
        self, seat: Seat, uid: int, message: Message, factor: float, delay: float
    ) -> None:
        """The same over a slow link: here it waits for ``delay`` seconds before it leaves."""
        late = partial(self.transmit, seat, [uid], message.copied())
        self.timers.set(self.clock.now() + delay, late, seat.uid)

    def lose(self, seat: Seat) -> None:
        """Abandon a node without a word to the others: it never says or does anything again."""
        self._abandon(seat)
        self._tell({"lost": [seat.uid], "round": seat.node.round + 1})

    def _abandon(self, seat: Seat) -> None:
        seat.lost = True
        seat.program.close()
        seat.consume()
        seat.drop_mail()
        seat.waiting = None
        self._work = deque(item for item in self._work if item[0] is not seat)
        self._ready = deque(item for item in self._ready if item[0] is not seat)
        self._starved = deque(other for other in self._starved if other is not seat)
        self._held = deque(item for item in self._held if item[0] is not seat)
        self._active -= not seat.ended

    def ask_for_death(self) -> None:
        """Have the supervisor kill itself, as a machine that fails does; this worker goes too."""
        self._tell({"kill": "machine"})
        while True:  # the supervisor's end of the line closes, and that ends us
            sleep(_IDLE_MS / 1000)
            self._orders()

    # --------------------------------------------------------------- messages

    def _deliver(self, uid: int, parcel: Parcel) -> None:
        seat = self.seats.get(uid)
        if seat is None or seat.lost or seat.ended:
            parcel.let_go()
            return
        seat.mailbox.put(parcel)
        if seat.waiting is not None and seat.mailbox.complete(seat.waiting, self._gone):
            self._answer(seat)

    def _receive(self, seat: Seat, wanted: Receive) -> Any:
        seat.waiting, seat.waiting_since = wanted, self.stopwatch()
        if seat.mailbox.complete(wanted, self._gone):
            self._answer(seat)
        elif wanted.deadline is not None:
            over = partial(self._deadline, seat, wanted)
            self.timers.set(self.clock.now() + wanted.deadline, over, seat.uid)
        return _PARKED

    def _deadline(self, seat: Seat, wanted: Receive) -> None:
        if seat.waiting is wanted:
            self._answer(seat, "deadline")

    def _answer(self, seat: Seat, reason: str = "") -> None:
        """Give a waiting node what it asked for, and a row to merge into."""
        if not seat.lend_spare(self.pool):
            if seat not in self._starved:
                self._starved.append(seat)
            return
        assert seat.waiting is not None
        heard, seat.heard = seat.mailbox.take(seat.waiting, reason)
        seat.waiting = None
        seat.seconds.wait += self.stopwatch() - seat.waiting_since
        self._ready.append((seat, heard))

    def _retry_starved(self) -> bool:
        for _ in range(len(self._starved)):
            seat = self._starved.popleft()
            if seat.waiting is not None:
                self._answer(seat)
        return bool(self._ready)

    def _timers_due(self) -> bool:
        for happen in self.timers.due(self.clock.now()):
            happen()
        return bool(self._ready)

    # ------------------------------------------------------------- who is lost

    def _obey(self) -> None:
        """Follow what the supervisor says: pause, and go on without those that were lost."""
        self._called = self.arena.control.calls(self.me.worker)
        for order in self._orders():
            if "pause" in order:
                self._paused = True
                self._tell({"paused": order["pause"], "round": self._sent})
            elif "epoch" in order:
                self._leave(order["epoch"])
                self._paused = False

    def _leave(self, value: dict[str, Any]) -> None:
        """A membership epoch: nodes leave; nobody has sent anything of its first iteration yet."""
        self.membership.add(Epoch(value["before"], tuple(value["left"]), value["why"]))
        self._gone = self.membership.left
        workers = {WorkerId(*pair) for pair in value["workers"]}
        mine = [seat for uid, seat in self.seats.items() if uid in self._gone]
        for seat in mine:
            self._vacate(seat)
        self.post.leave(self._gone, workers)
        empty = (w for w in self.placement.all() if self._gone.issuperset(self.placement.uids(w)))
        for t in list(self._pending) if mine else ():
            self._join(t)
        self.meeting.leave(workers.union(empty))
        for seat in self.seats.values():
            if seat.waiting is not None and seat.mailbox.complete(seat.waiting, self._gone):
                self._answer(seat, "lost")

    def _vacate(self, seat: Seat) -> None:
        """A node of this worker has left for good; its rows are given back."""
        if not seat.lost:
            self._abandon(seat)
        del self.seats[seat.uid]
        seat.give_back(self.pool)
        for pending in self._pending.values():
            pending.rows.pop(seat.uid, None)
            pending.records.pop(seat.uid, None)

    # ------------------------------------------------------------------- work

    def _do_work(self) -> None:
        if self.links is not None:
            self.links.flush()  # others may be waiting for it: they work while we do
            self.post.take_in()
            if self._held:
                self._retry_held()
            if self._ready:
                return
        seat, effect = self._work.popleft()
        if isinstance(effect, Report):
            self._evaluate(seat, effect)
        elif isinstance(effect, Checkpoint):
            crc32 = self._save(self, seat, effect.t)
            self._tell({"saved": effect.t + 1, "uid": seat.uid, "crc32": crc32})
            self._ready.append((seat, None))
        else:
            self._train(seat, effect)

    def _start_training(self, seat: Seat, effect: Train) -> None:
        self._work.append((seat, effect))

    def _train(self, seat: Seat, effect: Train) -> None:
        group = self._together(seat, effect)
        for one in group:
            if not one.thaw(self.pool):
                raise RunError(f"{self.me}: no free row for node {one.uid}")
        self.arena.control.busy(self.me.worker, seat.uid, effect.t)
        started = self.stopwatch()
        self.trainer.train([LocalWork(one.learner, one.node.x, effect.t) for one in group])
        spent = (self.stopwatch() - started) / len(group)
        for one in group:
            one.seconds.train += spent
            if one.learner.nan == effect.t + 1:
                self._diverged(one)
            self._trained(one, effect.t)

    def _together(self, seat: Seat, effect: Train) -> list[Seat]:
        """The node and all that wait for training and that the trainer takes with it."""
        if not self.trainer.takes_groups:
            return [seat]
        waiting = [seat, *(one for one, other in self._work if other == effect)]
        work = [LocalWork(one.learner, one.node.x, effect.t) for one in waiting]
        chosen = [waiting[i] for i in self.trainer.together(work)]
        taken = {one.uid for one in chosen}
        self._work = deque(
            item for item in self._work if item[1] != effect or item[0].uid not in taken
        )
        return chosen

    def _trained(self, seat: Seat, t: int) -> None:
        self._ready.append((seat, None))

    def _diverged(self, seat: Seat) -> None:
        """A node's row has become NaN or infinite: end the run, or say so in the node's log."""
        training, iteration = self.trainer.training, seat.learner.nan
        text = f"node {seat.uid}: parameters are not finite after the local steps of iteration "
        text += f"{iteration}"
        self.reporter.log(seat.uid, text, "WARNING" if training.on_nan == "continue" else "ERROR")
        if training.on_nan == "stop":
            raise RunError(
                f"{self.me}: {text}; lower lr or set clipping_norm (on_nan = continue in "
                "[TRAIN_PARAMS] records it and goes on)"
            )

    # ---------------------------------------------------------------- reports

    def _report(self, seat: Seat, effect: Report) -> Any:
        if not self._iterated(seat, effect.t):
            return None
        self._work.append((seat, effect))
        return _PARKED

    def _checkpoint(self, seat: Seat, effect: Checkpoint) -> Any:
        if not self.evaluator.intervals.save(effect.t + 1):
            return None
        self._work.append((seat, effect))
        return _PARKED

    def _iterated(self, seat: Seat, t: int) -> bool:
        """A node has done iteration ``t``; whether it is to be evaluated."""
        seat.consume()
        self.arena.control.rounds[seat.uid - self._first_uid] = t + 1
        self.reporter.digest(seat.uid, t + 1, seat.node.x)
        return self.evaluator.intervals.due(t + 1)

    def _evaluate(self, seat: Seat, effect: Report) -> None:
        self.arena.control.busy(self.me.worker, seat.uid, effect.t)
        started = self.stopwatch()
        values = self.evaluator.measure(effect.t + 1, seat.node.x, seat.learner)
        seat.seconds.evaluate += self.stopwatch() - started
        pending = self._pending.setdefault(effect.t, Pending())
        pending.records[seat.uid] = values
        pending.rows[seat.uid] = seat.node.x
        self._join(effect.t)

    def _join(self, t: int) -> None:
        pending = self._pending[t]
        if len(pending.rows) == len(self.seats):
            self.meeting.join(t, pending.rows)

    def _mean_arrived(self, t: int, mean: Tensor) -> None:
        pending = self._pending.pop(t, None)
        if pending is None:  # said again after a loss
            return
        elapsed = self.clock.now()
        for uid, row in pending.rows.items():
            seat = self.seats[uid]
            values = pending.records[uid] | {"consensus_distance": distance(row, mean)}
            values |= effort(seat.learner) | costs(seat.traffic, seat.seconds, elapsed)
            self._tell({"record": self.reporter.record(uid, t + 1, values)})
            self._ready.append((seat, None))


def distance(row: Tensor, mean: Tensor) -> float:
    """l2 distance of a row's parameters from their mean over the nodes, in float64."""
    return float(torch.dist(row[: len(mean)].double(), mean))


def weights(worker: Worker) -> Mapping[int, dict[str, Tensor]]:
    """The final ``state_dict`` of every node of a worker."""
    layout = worker.trainer.template.layout
    return {
        uid: layout.state_dict(seat.node.x, seat.learner.counters)
        for uid, seat in worker.seats.items()
    }
