"""Injects the faults of a plan into one worker, under either clock."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from decentralizepy.engine.records import append_line
from decentralizepy.engine.seat import Seat
from decentralizepy.engine.worker import Worker
from decentralizepy.messages.message import Message
from decentralizepy.runfolder import MachineFolder
from decentralizepy.scenario.faultplan import Fault, FaultPlan, Kill, Partition, SlowLink, describe


class Faults:
    """Stands between a worker's nodes and what they want to do: a carrier around another one.

    A kill comes at the first thing that a node does in its iteration or a later one. Every fault
    that fires leaves a line in ``faults.jsonl``, once per worker, and another one when what it held
    back is let go. What was killed once is not killed again when the run goes back.
    """

    def __init__(
        self, plan: FaultPlan, worker: Worker, folder: MachineFolder, *, virtual: bool
    ) -> None:
        self._plan, self._worker, self._path = plan, worker, folder.faults
        self._inner = worker.programs.carrier
        self._virtual = virtual
        self._logged: set[tuple[str, int]] = set()
        self._killed = _kills_before(folder.faults)
        self._kills = [fault for fault in plan.faults if isinstance(fault, Kill)]
        #: sender -> partition by rounds, receiver, message: waiting for the sender to get past it
        self._held: dict[int, list[tuple[Partition, int, Message]]] = {}

    # -------------------------------------------------------------------- kills

    def begins(self, seat: Seat, t: int) -> bool:
        """A node is in iteration ``t``: what it held back may go, and it may have to die."""
        seat.done = max(seat.done, t)
        if seat.uid in self._held:
            self._let_go(seat, t)
        for fault in self._kills:
            due = fault.t <= t and fault.hits(seat.uid, self._worker.me)
            if due and not seat.lost and fault.number not in self._killed:
                self._killed.add(fault.number)
                self._log("fired", fault, uid=seat.uid, round=t + 1)
                self._kill(fault, seat)
        return seat.lost

    def unfired(self) -> list[str]:
        """Kills that concern nodes of this worker and did not come to pass, in words."""
        uids = self._worker.placement.uids(self._worker.me)
        return [
            describe(fault)
            for fault in self._kills
            if fault.number not in self._killed
            and any(fault.hits(uid, self._worker.me) for uid in uids)
        ]

    def _kill(self, fault: Kill, seat: Seat) -> None:
        if fault.kind == "node":
            self._worker.lose(seat)
        elif self._virtual:  # a virtual machine is no process: all of its nodes are lost
            for other in tuple(self._worker.seats.values()):  # who is lost may leave its seat
                if other.uid in fault.uids and not other.lost:
                    self._worker.lose(other)
        elif fault.kind == "worker":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            self._worker.ask_for_death()

    # ----------------------------------------------------------------- messages

    def carry(self, seat: Seat, uids: Sequence[int], message: Message) -> None:
        """Send a message, but for what is held back or slowed down; in the given order."""
        now = self._worker.clock.now()
        events = self._plan.events_at(seat.uid, seat.iteration, home=self._worker.me, now=now)
        free: list[int] = []
        for uid in uids:
            fault = next((event for event in events if _hinders(event, uid, seat.uid)), None)
            if fault is None:
                free.append(uid)
                continue
            self._send(seat, free, message)
            free = []
            self._hinder(fault, seat, uid, message)
        self._send(seat, free, message)

    def _send(self, seat: Seat, uids: Sequence[int], message: Message) -> None:
        if uids:
            self._inner.carry(seat, uids, message)

    def _hinder(self, fault: Fault, seat: Seat, uid: int, message: Message) -> None:
        self._log("fired", fault, uid=seat.uid, round=seat.iteration + 1)
        if isinstance(fault, SlowLink):
            self._inner.carry_slowly(seat, uid, message, fault.factor, fault.delay)
            return
        assert isinstance(fault, Partition)
        copy = message.copied()  # the node goes on writing its row
        if fault.window.seconds:
            late = partial(self._healed, fault, seat, uid, copy)
            self._worker.timers.set(fault.window.last, late, seat.uid)
        else:
            self._held.setdefault(seat.uid, []).append((fault, uid, copy))

    def _let_go(self, seat: Seat, t: int) -> None:
        """Send what partitions held back that ended before iteration ``t``."""
        waiting = self._held.pop(seat.uid, [])
        still = [item for item in waiting if t <= item[0].window.last]
        if still:
            self._held[seat.uid] = still
        for fault, uid, message in waiting:
            if t > fault.window.last:
                self._healed(fault, seat, uid, message)

    def _healed(self, fault: Partition, seat: Seat, uid: int, message: Message) -> None:
        if seat.lost:
            return
        self._log("healed", fault, uid=seat.uid, round=seat.iteration + 1)
        self._inner.carry(seat, [uid], message)

    def carry_slowly(
        self, seat: Seat, uid: int, message: Message, factor: float, delay: float
    ) -> None:
        """As the links that faults are put on do."""
        self._inner.carry_slowly(seat, uid, message, factor, delay)

    @property
    def in_flight(self) -> int:
        """Messages that have not left yet, but for those that are held back until a round."""
        return self._inner.in_flight

    def held(self) -> list[str]:
        """What is held back until its sender gets past the rounds of a partition."""
        numbers = Counter(
            describe(fault) for waiting in self._held.values() for fault, _, _ in waiting
        )
        return [f"{name} holds back {count} message(s)" for name, count in numbers.items()]

    # ---------------------------------------------------------------------- log

    def _log(self, event: str, fault: Fault, **where: Any) -> None:
        """One line with one write: also what is killed right after has left it."""
        if (event, fault.number) in self._logged:
            return
        self._logged.add((event, fault.number))
        me = self._worker.me
        line = {
            "fault": fault.number + 1, "event": event, **where, "machine": me.machine,
            "worker": me.worker, "elapsed_s": round(self._worker.clock.now(), 6),
            "plan": fault.text,
        }  # fmt: skip
        append_line(self._path, json.dumps(line, separators=(",", ":")))


def _kills_before(path: Path) -> set[int]:
    """Numbers of the kills that fired before this start of the worker."""
    found: set[int] = set()
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):  # a line that a kill has cut
            entry = json.loads(line)
            if "kill" in entry["plan"]:
                found.add(int(entry["fault"]) - 1)
    return found


def _hinders(fault: Fault, receiver: int, sender: int) -> bool:
    """Whether a fault that is in force for the sender stands in the way of a message."""
    if isinstance(fault, SlowLink):
        return fault.receiver == receiver
    return isinstance(fault, Partition) and fault.cuts(sender, receiver)
