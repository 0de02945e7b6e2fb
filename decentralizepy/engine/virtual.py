"""A worker under the virtual clock: training really happens, time is calculated.

Each node is at its own place in simulated time. Training, messages and deadlines end at events of
one heap, in the order of (time, uid, setting); a program runs at the time of the event that let
it go on, and takes no time itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from decentralizepy.engine.clock import VirtualClock
from decentralizepy.engine.mailbox import Parcel
from decentralizepy.engine.report import Pending, costs, effort
from decentralizepy.engine.seat import Seat
from decentralizepy.engine.worker import Worker, distance
from decentralizepy.errors import RunError
from decentralizepy.messages.message import Message
from decentralizepy.node.effects import Report, Train
from decentralizepy.node.membership import Epoch
from decentralizepy.scenario.simulation import Network, Simulation


class SimulatedWorker(Worker):
    """Drives all nodes of a run in simulated time. The numbers are those of any other worker."""

    def __init__(
        self, *arguments: Any, simulation: Simulation, on_loss: str = "fail", **wiring: Any
    ) -> None:
        super().__init__(*arguments, clock=VirtualClock(), **wiring)
        assert self.links is None, "all nodes are on this worker"
        self.stopwatch = self.clock.now
        self._on_loss = on_loss
        self._paces, self._network = simulation.paces, Network(simulation)
        self._untrained: dict[int, tuple[Seat, Train]] = {}

    # ----------------------------------------------------------------- training

    def _start_training(self, seat: Seat, effect: Train) -> None:
        """The arithmetic can wait until the node is due to have done it."""
        self._untrained[seat.uid] = seat, effect
        when = self.clock.now() + self._paces[seat.uid].cost(effect.t)
        self.timers.set(when, partial(self._end_training, seat, effect), seat.uid)

    def _end_training(self, seat: Seat, effect: Train) -> None:
        """Train the node, and with it others that are at the same iteration, if that is faster."""
        if seat.uid in self._untrained:
            if self.trainer.takes_groups:
                self._work.extend(
                    item
                    for uid, item in self._untrained.items()
                    if uid != seat.uid and item[1] == effect
                )
            self._train(seat, effect)
        self._wake(seat)

    def _trained(self, seat: Seat, t: int) -> None:
        del self._untrained[seat.uid]
        seat.seconds.train += self._paces[seat.uid].cost(t)

    # ----------------------------------------------------------------- messages

    def transmit(self, seat: Seat, uids: Sequence[int], message: Message) -> None:
        message = self._travelling(seat, message)
        for uid in uids:
            self._launch(seat, uid, message, 1.0, 0.0)

    def transmit_slowly(
        self, seat: Seat, uid: int, message: Message, factor: float, delay: float
    ) -> None:
        self._launch(seat, uid, self._travelling(seat, message), factor, delay)

    def _travelling(self, seat: Seat, message: Message) -> Message:
        """A message that holds no row: many may be on long ways while their sender goes on."""
        return message.copied() if self.post.carries(message, seat.row) else message

    def _launch(self, seat: Seat, uid: int, message: Message, factor: float, delay: float) -> None:
        nbytes = self.post.count(message, 1, seat.traffic)
        now = self.clock.now()
        when = self._network.arrival(seat.uid, uid, nbytes, now, factor, delay)
        self.timers.set(when, partial(self._deliver, uid, Parcel(message)), uid)

    # ------------------------------------------------------------------ reports

    def _report(self, seat: Seat, effect: Report) -> Any:
        """Evaluate at once and go on: waiting for the other nodes would cost simulated time."""
        if not self._iterated(seat, effect.t):
            return None
        values = self.evaluator.measure(effect.t + 1, seat.node.x, seat.learner)
        values |= effort(seat.learner) | costs(seat.traffic, seat.seconds, self.clock.now())
        pending = self._pending.setdefault(effect.t, Pending())
        n_parameters = self.trainer.template.layout.n_parameters
        pending.records[seat.uid] = values
        pending.rows[seat.uid] = seat.node.x[:n_parameters].clone()
        self._join(effect.t)
        return None

    def lose(self, seat: Seat) -> None:
        """As ever; with ``drop`` the others know at once, for simulated time can't wait."""
        self._untrained.pop(seat.uid, None)
        if self._on_loss == "drop":
            why = f"node {seat.uid} was lost in iteration {seat.node.round + 1}"
            if len(self.membership.left | {seat.uid}) == self.placement.mapping.n:
                raise RunError(f"{self.me}: {why}; no node is left")
            self._leave(Epoch(self._sent + 1, (seat.uid,), why).value() | {"workers": []})
            self._tell({"left": self.membership.epochs[-1].value()})
            return
        super().lose(seat)
        for t in sorted(self._pending):
            self._join(t)

    def _join(self, t: int) -> None:
        """Write the records of an iteration once every node that is there has reached it."""
        rows = self._pending[t].rows
        alive = [uid for uid, seat in self.seats.items() if not seat.lost]
        if len(rows) >= len(alive) and all(uid in rows for uid in alive):
            self._mean_arrived(t, _mean(rows))

    def _mean_arrived(self, t: int, mean: Tensor) -> None:
        pending = self._pending.pop(t)
        for uid, row in sorted(pending.rows.items()):
            values = pending.records[uid] | {"consensus_distance": distance(row, mean)}
            self._tell({"record": self.reporter.record(uid, t + 1, values)})


def _mean(rows: dict[int, Tensor]) -> Tensor:
    """Mean of the nodes' parameters in float64, added in ascending uid as `Meeting` does."""
    total = torch.zeros(len(next(iter(rows.values()))), dtype=torch.float64)
    for uid in sorted(rows):
        total += rows[uid]
    return total.div_(len(rows))
