"""A run on its machines: get them, run, stop, bring everything home, and give the machines back.

The ledger is written ahead: whoever finds the run folder later knows what may be held, and goes on
where this process ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

from decentralizepy.errors import RunError
from decentralizepy.files import write_atomic, write_json
from decentralizepy.interrupts import Interrupted, Interrupts
from decentralizepy.runfolder import RunFolder, has_records
from orchestrator.backends.base import Backend, Reservation
from orchestrator.emulation.service import emulate, unemulate
from orchestrator.errors import DetachedError, ReservationError
from orchestrator.hosts.base import Host, HostError, Job, UnreachableError
from orchestrator.planning.inputs import Inputs
from orchestrator.planning.placed import Place, Placed, placed
from orchestrator.planning.plan import Plan
from orchestrator.running.advice import what_next
from orchestrator.running.execution import Execution, Loss
from orchestrator.running.fleet import Fleet, Watch
from orchestrator.running.ledger import Ledger, read_ledger
from orchestrator.running.progress import Progress, progress_for
from orchestrator.running.record import Record, read_record
from orchestrator.status import Status, read_status
from orchestrator.text import Screen

#: Machines that are nearly out of time are not told to train: this is kept to collect.
COLLECT_S = 60.0


#: Asks whether an interrupted run shall "end", be left to itself ("leave"), or "go on".
Ask = Callable[[], str]


class Machines:
    """What a place does for one run.

    ``ask`` is called at the first Ctrl-C, where somebody can be asked.
    """

    def __init__(
        self,
        plan: Plan,
        inputs: Inputs,
        folder: RunFolder,
        backend: Backend,
        interrupts: Interrupts,
        hold: int,
        former: int | None = None,
        ask: Ask | None = None,
    ) -> None:
        self._plan, self._inputs, self._folder = plan, inputs, folder
        self._backend, self._interrupts, self._hold = backend, interrupts, hold
        self._former, self._ask = former, ask
        self._ledger = Ledger(folder.ledger)
        self._record = read_record(folder.ledger)
        self._reservation: Reservation | None = None
        self._asked = False
        self._screen = Screen()
        self._fleet: Fleet | None = None
        self._keep = False  # the machines stay ours when we leave
        self.placed: Placed | None = None

    # ------------------------------------------------------------------ the whole way

    def run(self, screen: Screen) -> tuple[float, list[str]]:
        """Run to the end; the seconds taken, and what is missing of the files, in words."""
        self._screen = screen
        try:
            self._begin()
            if (seconds := self._ended_alone(screen)) is not None:
                return seconds, self._lost_for_good()
            self._get()
            seconds = self._finished(screen)
            return seconds, self._collected()
        finally:
            self._release()

    def collect(self, screen: Screen) -> list[str]:
        """Bring home what a run that has finished left; returns what is missing."""
        self._screen = screen
        try:
            self._reservation = self._found()
            if self._reservation is None and self._backend.remote:
                self._salvage(screen)
                self._ledger.append("collected", missing=(missing := self._lost_for_good()))
                return missing
            self._reservation = self._reservation or self._reserved()
            self._fleet_of(self._record)
            return self._collected()
        finally:
            self._release()

    def _ended_alone(self, screen: Screen) -> float | None:
        """The seconds of a run that ended well, with its job, before anybody came back to it."""
        if not (self._backend.remote and self._record.under_way):
            return None
        if self._found() is not None or not self._salvage(screen):
            return None
        told = [read_status(m.status, n) for n, m in self._folder.machines().items()]
        if len(told) < len(self._plan.machines) or any(one.state != "done" for one in told):
            return None
        seconds = max(one.elapsed_s for one in told)
        self._ledger.append("finished", seconds=round(seconds, 3))
        self._ledger.append("collected", missing=self._lost_for_good())
        return seconds

    def _salvage(self, screen: Screen) -> bool:
        """Bring home what machines have deposited whose hosts are gone."""
        places = self._record.places
        hosts = self._backend.deposits(places, self._plan.config)
        if not hosts:
            return False
        self.placed = placed(self._plan, self._inputs, places, self._record.offset)
        try:
            for machine, (host, place) in enumerate(zip(hosts, places, strict=True)):
                there = f"{place.deposit}/machine{machine}"
                job = Job("", (), place.deposit, there)
                host.fetch(job, self._folder.machine(machine).root)
            for host, place in zip(hosts, places, strict=True):
                host.remove(place.deposit)
        except (UnreachableError, HostError) as error:
            screen.say(f"  what was deposited could not be collected: {error}")
            return False
        finally:
            for host in hosts:
                host.close()
        return True

    def _lost_for_good(self) -> list[str]:
        """What is not here of a run whose machines are gone."""
        return [
            f"machine {m.machine} left no records, and its host is not ours any more"
            for m in self._plan.machines
            if not has_records(self._folder.machine(m.machine))
        ]

    # ------------------------------------------------------------------ get

    def _begin(self) -> None:
        began = "resumed" if read_ledger(self._folder.ledger) else "planned"
        config = str(self._plan.config_path)
        self._ledger.append(began, job_name=self._plan.config.job_name, config=config)

    def _get(self) -> None:
        """Machines that are ours: those of a former process if they are still held, else new."""
        try:
            found = self._found()
            if found is None:
                self._ledger.append("reserving", **self._asked_for())
            if found is None or not self._record.under_way:  # it may wait for its machines yet
                found = self._reserved()
            self._reservation = found
        except BaseException as error:
            self._leave_if_hung_up(error)
            self._ledger.append("failed", error=_told(error))
            raise

    def _found(self) -> Reservation | None:
        """What the ledger says may be held, if the place still knows of it."""
        if not self._record.held:
            return None
        request = self._backend.request(self._plan, self._folder.root.name)
        found = self._backend.find(request)
        if found is None:
            self._ledger.append("released", why="it is gone")
            self._record = replace(self._record, asked=False, reservation=None)
        return found

    def _asked_for(self) -> dict[str, str]:
        request = self._backend.request(self._plan, self._folder.root.name)
        return {"name": request.name, "hash": request.digest}

    def _reserved(self) -> Reservation:
        """The live reservation of our name, or a new one, once its machines are granted."""
        self._asked = True
        request = self._backend.request(self._plan, self._folder.root.name)
        return self._backend.reserve(request, self._plan, self._note)

    def _note(self, reservation: Reservation) -> None:
        self._reservation = reservation
        self._ledger.append("reserved", reservation=reservation.as_dict())

    # ------------------------------------------------------------------ run

    def _finished(self, screen: Screen) -> float:
        """Run, and collect what there is if that fails."""
        try:
            fleet = self._rejoined() or self._started(screen)
            seconds = self._watched(fleet, screen)
            self._ledger.append("finished", seconds=round(seconds, 3))
        except BaseException as error:
            self._leave_if_hung_up(error)
            self._ledger.append("failed", error=_told(error))
            self._stop()
            self._collect_remains()
            raise
        self._stop()
        return seconds

    def _watched(self, fleet: Fleet, screen: Screen) -> float:
        """Watch to the end; who presses Ctrl-C may think better of it."""
        while True:
            try:
                with progress_for(screen, self._plan.config.NB_ITERATION) as progress:
                    return fleet.watch(self._watch(fleet, progress))
            except DetachedError as error:  # no host answers
                self._leave(str(error))
            except Interrupted as signal:
                if self._decided(signal) != "go on":
                    raise
                self._interrupts.rearm()

    def _decided(self, signal: Interrupted) -> str:
        """What becomes of an interrupted run; raises `DetachedError` where we leave it."""
        if str(signal) != "SIGINT" or self._ask is None or not self._backend.remote:
            return "end"
        try:
            with self._interrupts.allowed():
                answer = self._ask()
        except KeyboardInterrupt:
            answer = "leave"
        if answer == "leave":
            self._leave("the run goes on without us")
        return answer

    def _leave_if_hung_up(self, error: BaseException) -> None:
        """A terminal that is closed, or a laptop that is, ends no run elsewhere."""
        if self._backend.remote and isinstance(error, Interrupted) and str(error) == "SIGHUP":
            self._leave("the terminal is gone; the run goes on without us")
        if isinstance(error, DetachedError):
            raise error

    def _leave(self, why: str) -> NoReturn:
        self._keep = True
        self._ledger.append("detached", why=why)
        raise DetachedError(why)

    def _rejoined(self) -> Fleet | None:
        """The fleet that a former process has started, if it runs or has ended well."""
        if not (self._backend.remote and self._record.under_way):
            return None
        fleet = self._fleet_of(self._record)
        seen = fleet.look().values()
        runs = any(one is None or one.state == "running" for one in seen)
        if not runs and any(one is None or one.code != 0 for one in seen):
            fleet.close()
            self._fleet = None
            return None
        if self._record.began is None:  # the rest of it, which nobody has started
            fleet.start()
            self._ledger.append("started", commands=len(self._plan.machines))
        return fleet

    def _fleet_of(self, record: Record) -> Fleet:
        """As it was left."""
        assert self._reservation is not None
        hosts = self._backend.hosts(self._reservation, self._plan, self._hold)
        execution = self._execution(hosts, list(record.places), record.offset, record.number)
        execution.losses += record.losses
        elapsed = 0.0 if record.began is None else max(time.time() - record.began, 0.0)
        self._fleet = Fleet(execution, elapsed, self._still_held)
        return self._fleet

    def _started(self, screen: Screen) -> Fleet:
        assert self._reservation is not None
        if self._backend.remote and self._record.number:  # also what has come home by now
            began = (m.machine for m in self._plan.machines)
            resumed = frozenset(m for m in began if self._folder.machine(m).holds_a_run())
            self._plan = replace(self._plan, resumed=self._plan.resumed | resumed)
        hosts = self._backend.hosts(self._reservation, self._plan, self._hold)
        try:
            places, offset = self._backend.place(self._plan, hosts, self._folder, self._former)
        except BaseException:
            for host in hosts:
                host.close()
            raise
        execution = self._execution(hosts, places, offset, self._record.number + 1)
        self._fleet = fleet = Fleet(execution, held=self._still_held)
        self._write(execution.plan)
        fleet.stage()
        plan = execution.plan
        emulate(plan, hosts, self._folder, self._ledger, screen.say)
        self._ledger.append(
            "submitted", backend=self._backend.name, addresses=plan.addresses,
            number=execution.number, offset=plan.offset, places=[vars(p) for p in plan.places],
        )  # fmt: skip
        execution.deadline = self._deadline()
        fleet.start()
        self._ledger.append("started", commands=len(plan.machines))
        return fleet

    def _execution(
        self, hosts: Sequence[Host], places: list[Place], offset: int, number: int
    ) -> Execution:
        self.placed = placed(self._plan, self._inputs, places, offset)
        return Execution(
            self.placed, self._folder, hosts, self._backend, number, deadline=self._deadline()
        )

    def _deadline(self) -> float | None:
        """When the hosts end the machines by themselves, so that there is time to collect."""
        assert self._reservation is not None
        limit, end = self._plan.config.walltime_seconds, self._reservation.deadline
        ends = [] if end is None else [end - COLLECT_S]
        ends += [] if limit is None else [time.time() + limit]
        return min(ends, default=None)

    def _write(self, plan: Placed) -> None:
        for name, text in plan.files.items():
            write_atomic(self._folder.root / name, text)
        write_json(self._folder.plan, plan.as_dict(self._folder))

    def _still_held(self) -> bool:
        """Whether our machines are ours, as far as anybody can tell."""
        end = None if self._reservation is None else self._reservation.deadline
        if end is not None and time.time() > end + COLLECT_S:
            return False
        request = self._backend.request(self._plan, self._folder.root.name)
        try:
            return self._backend.find(request) is not None
        except ReservationError:
            return True

    # ------------------------------------------------------------------ stop, collect, release

    def _stop(self) -> None:
        """End everything; on other computers a second Ctrl-C leaves it to be ended later."""
        if self._fleet is None:
            return
        if not self._backend.remote:
            self._fleet.stop()
            return
        try:
            with self._interrupts.allowed():
                self._fleet.stop()
        except KeyboardInterrupt:
            self._leave("interrupted while ending the run: its machines are still ours")

    def _collected(self) -> list[str]:
        assert self._fleet is not None
        try:
            with self._interrupts.allowed():
                missing = self._fleet.collect()
        except Exception as error:
            self._ledger.append("failed", error=f"collecting: {_told(error)}")
            self._keep = self._backend.remote and self._still_held()
            raise RunError(
                f"the run has finished, but collecting failed: {_told(error)}"
            ) from error
        except KeyboardInterrupt:
            if self._backend.remote:
                self._leave("interrupted while collecting: the machines are still ours")
            raise
        self._ledger.append("collected", missing=missing)
        return missing

    def _collect_remains(self) -> None:
        """Of a run that failed: why that is not possible must not hide why the run failed."""
        if self._fleet is None:
            return
        try:
            with self._interrupts.allowed():
                missing = self._fleet.collect(finished=False)
            self._ledger.append("collected", missing=missing)
        except (Exception, KeyboardInterrupt) as error:
            self._ledger.append("failed", error=f"collecting: {_told(error)}")
            if isinstance(error, KeyboardInterrupt) and self._backend.remote:
                self._leave("interrupted while collecting: the machines are still ours")
            self._keep = self._backend.remote and self._still_held()

    def _release(self) -> None:
        """Give back whatever was got, unless it has to stay until its files are collected."""
        if self._fleet is not None:
            if not self._keep:
                for told in self._fleet.forget():
                    self._screen.say(f"  {told}")
            self._fleet.close()
        if self._keep:
            return
        if self._reservation is not None:
            unemulate(self._ledger, self._screen.say)
        try:
            self._give_back()
        except ReservationError as error:  # it must not hide how the run ended
            self._ledger.append("failed", error=f"giving back: {error}")
            self._screen.say(
                f"  machines may still be reserved: {error}\n{what_next(self._folder)}"
            )

    def _give_back(self) -> None:
        request = self._backend.request(self._plan, self._folder.root.name)
        if self._reservation is None and self._asked:  # it may have been made all the same
            self._reservation = self._backend.find(request)
        if self._reservation is not None:
            self._backend.release(self._reservation)
        if self._reservation is not None or self._asked:
            self._ledger.append("released")

    # ------------------------------------------------------------------ tell

    def _watch(self, fleet: Fleet, progress: Progress) -> Watch:
        """Show where the machines are, and tell the ledger of those that were lost."""
        told: list[Loss] = list(fleet.execution.losses)

        def watch(statuses: Sequence[Status]) -> None:
            self._interrupts.check()
            for loss in fleet.execution.losses[len(told) :]:
                self._tell(loss)
                told.append(loss)
            progress.update(statuses, [str(loss) for loss in told])

        return watch

    def _tell(self, loss: Loss) -> None:
        event = "restarted" if loss.restart else "lost"
        more = {"restart": loss.restart, "most": loss.most} if loss.restart else {}
        more |= {"awaited": True} if loss.awaited else {}
        self._ledger.append(event, machine=loss.machine, cause=loss.cause, **more)


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__
