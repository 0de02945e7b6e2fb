"""A worker's nodes at rest: whether they are, and who is saved or goes on when the whole run is."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import Final

from decentralizepy.engine.clock import Timers
from decentralizepy.engine.deadlock import Stuck, stuck
from decentralizepy.engine.programs import Programs
from decentralizepy.engine.rest import Position, Rest
from decentralizepy.engine.saver import Saver
from decentralizepy.engine.workload import Workload
from decentralizepy.mappings.placement import Placement, WorkerId
from decentralizepy.node.effects import Checkpoint
from decentralizepy.transport.local import LocalSockets

#: how long a worker has nothing to do before it asks whether the run is at rest
MOMENT_MS: Final = 20


class Resting:
    """One worker's side of the question whether the run is at rest (`rest`).

    ``idle_since`` is when the worker had nothing to do for the first time since it did anything;
    ``asked`` says whether that was long enough to ask the others.
    """

    def __init__(
        self,
        me: WorkerId,
        placement: Placement,
        programs: Programs,
        workload: Workload,
        timers: Timers,
        saver: Saver,
        sockets: LocalSockets | None,
    ) -> None:
        self._programs, self._workload, self._timers = programs, workload, timers
        self._saver, self._sockets = saver, sockets
        self.rest = Rest(
            me, placement, programs.router.send_collective, self._position, self._save, self._go_on
        )
        self.idle_since: float | None = None
        self.asked = False

    def look(self) -> None:
        """Nothing to do, and nothing has come: perhaps nobody has."""
        now = monotonic()
        self.idle_since = now if self.idle_since is None else self.idle_since
        idle_s = now - self.idle_since
        # most of the time others answer within a moment, and asking takes a look at every node
        self.asked = self._sockets is None or 1000 * idle_s >= MOMENT_MS
        if self.asked:
            self.rest.check(idle_s)

    def _position(self) -> Position:
        """Where this worker is, for finding out whether the whole run is at rest."""
        programs = self._programs
        settled = not programs.ready and not programs.polling
        settled = settled and self._workload.empty
        settled = settled and not programs.carrier.in_flight and self._timers.next is None
        averaging = programs.averaging
        settled = settled and not (averaging and (averaging.stirred or averaging.postponed))
        live = [[s for s in seat.strands if not s.ended] for seat in programs.seats.values()]
        strands = [strand for of_node in live for strand in of_node]
        # of a node one program is enough: others may wait for messages that nobody will send
        wants_rest = all(
            any(strand.resting is not None for strand in of_node) for of_node in live if of_node
        )
        resting = settled and wants_rest and not programs.held
        saving = any(isinstance(strand.resting, Checkpoint) for strand in strands)
        waits = self._stuck() if settled else Stuck()
        sent, received = (
            {self.rest.number[worker]: n for worker, n in counts.items()}
            for counts in self._counts()
        )
        return Position(settled, resting, saving, sent, received, waits)

    def _counts(self) -> tuple[Counter[WorkerId], Counter[WorkerId]]:
        """What was sent to, and received from, each other worker: messages, and room for them."""
        sent, received = self._programs.router.sent, self._programs.router.received
        if self._sockets is None or self._sockets.wire is None:
            return sent, received
        given, got = self._sockets.wire.credits()
        return sent + given, received + got

    def _stuck(self) -> Stuck:
        programs = self._programs
        sending = {strand for strand, *_ in programs.held}
        held = programs.faults.held() if programs.faults is not None else ()
        return stuck(programs.seats.values(), programs.averaging, sending, held)

    def _save(self) -> None:
        """Save the nodes that wait at a checkpoint, with their mail."""
        for seat in self._programs.seats.values():
            for strand in seat.strands:
                if isinstance(strand.resting, Checkpoint):
                    strand.rested(self._programs.stopwatch())  # a resumed run knows of it
                    self._saver.save(seat, strand.resting.t)

    def _go_on(self, saved: bool) -> None:
        """All go on that were saved at a checkpoint; or all that wait for the end."""
        for seat in self._programs.seats.values():
            for strand in seat.strands:
                if strand.resting is not None and isinstance(strand.resting, Checkpoint) == saved:
                    strand.rested(self._programs.stopwatch())
                    strand.resting = None
                    self._programs.resume(strand, None)
        self.idle_since = None
