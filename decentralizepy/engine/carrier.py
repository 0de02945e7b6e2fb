"""How a node's messages get on their way: at once, or as the links of a simulation say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from decentralizepy.engine.clock import Clock, Timers
from decentralizepy.engine.seat import Seat
from decentralizepy.messages.message import Message
from decentralizepy.scenario.simulation import Network
from decentralizepy.transport.router import Router


class Carrier(Protocol):
    """Takes messages from nodes."""

    @property
    def in_flight(self) -> int:
        """Messages that have not left yet."""

    def carry(self, seat: Seat, uids: Sequence[int], message: Message) -> None:
        """Put a message on its way to each of ``uids``."""

    def carry_slowly(
        self, seat: Seat, uid: int, message: Message, factor: float, delay: float
    ) -> None:
        """The same over a slow link: ``factor`` times the time it takes, and ``delay`` seconds."""


class DirectCarrier:
    """Real links: a message leaves at once; over a slow one it waits before it leaves."""

    def __init__(self, router: Router, clock: Callable[[], Clock], timers: Timers) -> None:
        self._router, self._clock, self._timers = router, clock, timers
        self._late = 0

    @property
    def in_flight(self) -> int:
        return self._late

    def carry(self, seat: Seat, uids: Sequence[int], message: Message) -> None:
        self._router.send(uids, message, seat.traffic)

    def carry_slowly(
        self, seat: Seat, uid: int, message: Message, factor: float, delay: float
    ) -> None:
        self._late += 1
        late = partial(self._leave, seat, uid, self._router.kept(message))
        self._timers.set(self._clock().now() + delay, late, seat.uid)

    def _leave(self, seat: Seat, uid: int, message: Message) -> None:
        self._late -= 1
        self.carry(seat, [uid], message)


class SimulatedCarrier:
    """Simulated links: a message is delivered when the network says that it arrives."""

    def __init__(
        self,
        router: Router,
        clock: Callable[[], Clock],
        timers: Timers,
        network: Network,
        deliver: Callable[[Sequence[int], Message], None],
    ) -> None:
        self._router, self._clock, self._timers = router, clock, timers
        self._network, self._deliver = network, deliver
        self._under_way = 0

    @property
    def in_flight(self) -> int:
        return self._under_way

    def carry(self, seat: Seat, uids: Sequence[int], message: Message) -> None:
        message = self._router.kept(message).delivered(len(uids))
        for uid in uids:
            self._launch(seat, uid, message, 1.0, 0.0)

    def carry_slowly(
        self, seat: Seat, uid: int, message: Message, factor: float, delay: float
    ) -> None:
        message = self._router.kept(message).delivered(1)
        self._launch(seat, uid, message, factor, delay)

    def _launch(self, seat: Seat, uid: int, message: Message, factor: float, delay: float) -> None:
        nbytes = self._router.count(message, 1, seat.traffic)
        now = self._clock().now()
        when = self._network.arrival(seat.uid, uid, nbytes, now, factor, delay)
        self._under_way += 1
        self._timers.set(when, partial(self._arrive, uid, message), uid)

    def _arrive(self, uid: int, message: Message) -> None:
        self._under_way -= 1
        self._deliver((uid,), message)
