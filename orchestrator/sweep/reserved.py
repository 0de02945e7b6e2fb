"""The one reservation of a sweep: asked for, found again, lent, and given back."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from orchestrator.backends.base import Backend, Request, Reservation
from orchestrator.config import clock_text
from orchestrator.planning.plan import Plan
from orchestrator.running.ledger import Ledger, read_ledger
from orchestrator.running.record import read_record
from orchestrator.sweep.admission import Pace, walltime_s
from orchestrator.sweep.planned import PlannedSweep


class Reserved:
    """Machines for all runs of a sweep; the ledger is written ahead, as for a single run."""

    def __init__(self, sweep: PlannedSweep, backend: Backend) -> None:
        self._sweep, self._backend = sweep, backend
        self._ledger = Ledger(sweep.ledger)
        self._reservation: Reservation | None = None
        self._asked: Request | None = None
        self._ends: float | None = None

    def get(self, estimates: list[float]) -> Reservation:
        """The reservation that a former process left, or a new one for so many seconds of runs."""
        given = self._sweep.biggest.config.walltime_seconds
        left = read_record(self._sweep.ledger)
        if left.held and (found := self._left()) is not None:
            self._reservation = found
            self._ends = _after(given)
            return found
        seconds = given or walltime_s(estimates, self._sweep.parallel, Pace())
        plan = self._plan(seconds)
        self._asked = request = self._backend.request(plan, self._sweep.folder.name)
        self._ledger.append("reserving", name=request.name, hash=request.digest, seconds=seconds)
        try:
            self._reservation = self._backend.reserve(request, plan, self._note)
        except BaseException as error:
            self._ledger.append("failed", error=str(error) or type(error).__name__)
            self.release()
            raise
        self._ends = _after(given)
        return self._reservation

    def lent(self) -> Reservation:
        """What runs get."""
        assert self._reservation is not None, "got before it is lent"
        return self._reservation

    def live(self) -> bool:
        """Whether the scheduler still knows of it; raises `ReservationError` where it is silent."""
        return self._asked is not None and self._backend.find(self._asked) is not None

    def left_s(self) -> float | None:
        """Seconds until the machines are no longer ours; None: no limit."""
        ends = (self.lent().deadline, self._ends)
        known = [end - time.time() for end in ends if end is not None]
        return min(known, default=None)

    def release(self) -> None:
        """Give the machines back; one that may have been made all the same is looked for."""
        if self._reservation is None and self._asked is not None:
            self._reservation = self._backend.find(self._asked)
        if self._reservation is not None:
            self._backend.release(self._reservation)
        if self._reservation is not None or self._asked is not None:
            self._ledger.append("released")
        self._reservation = self._asked = None

    def leave(self, why: str) -> None:
        """The machines stay ours, for the same command to go on with."""
        self._ledger.append("detached", why=why)

    def _left(self) -> Reservation | None:
        """The live reservation of a former process, as soon as its machines are granted."""
        asked = _newest(read_ledger(self._sweep.ledger), "reserving")
        plan = self._plan(int(asked.get("seconds", 0)))
        request = self._backend.request(plan, self._sweep.folder.name)
        found = self._backend.find(request)
        if found is None:
            self._ledger.append("released", why="it is gone")
            return None
        self._asked = request
        if not found.hosts:
            found = self._backend.reserve(request, plan, self._note)
        return found

    def _note(self, reservation: Reservation) -> None:
        self._reservation = reservation
        self._ledger.append("reserved", reservation=reservation.as_dict())

    def _plan(self, seconds: int) -> Plan:
        plan = self._sweep.biggest
        config = plan.config.model_copy(update={"walltime": clock_text(seconds)})
        return replace(plan, config=config)


def _after(seconds: int | None) -> float | None:
    """That many seconds from now; None: never."""
    return None if seconds is None else time.time() + seconds


def _newest(entries: list[dict[str, Any]], event: str) -> dict[str, Any]:
    return next((entry for entry in reversed(entries) if entry["event"] == event), {})


def clear(sweep: PlannedSweep, backend: Backend) -> bool:
    """Give back what a former process may have left; whether there was anything."""
    if not read_record(sweep.ledger).held:
        return False
    reserved = Reserved(sweep, backend)
    found = reserved._left()
    reserved._reservation = found or read_record(sweep.ledger).reservation
    reserved.release()
    return True
