"""A sweep from its JSON to one comparison: reserve once, run cell after cell, give back, compare.

Every cell is an ordinary run in an ordinary run folder, whose machines are lent. Its name has a
digest of all that decides what comes out, so the same command finds what is done already.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.files import write_json
from decentralizepy.interrupts import Interrupted
from decentralizepy.text import bytes_text, plural, seconds_text
from orchestrator.backends.ports import width
from orchestrator.backends.process import describe_exit, environment, start, tail, wait_all
from orchestrator.errors import DetachedError, RefusedError, ReservationError
from orchestrator.running.experiment import (
    Outcome,
    Setting,
    backend_of,
    resume_experiment,
    run_experiment,
)
from orchestrator.running.hold import held
from orchestrator.running.ledger import Ledger, read_ledger
from orchestrator.running.record import read_record
from orchestrator.sweep.admission import Pace
from orchestrator.sweep.describe import as_dict, free_bytes, totals
from orchestrator.sweep.lent import Lent
from orchestrator.sweep.planned import (
    LIST,
    PlannedCell,
    PlannedSweep,
    can_resume,
    state_of,
    told_in,
)
from orchestrator.sweep.relay import Relay
from orchestrator.sweep.reserved import Reserved
from orchestrator.text import Screen

#: What may be wrong with one run while others go well.
FAILURES: Final = (ConfigError, RunError, ReservationError, OSError)
POLL_S: Final = 0.2
LOG: Final = "comparison.log"


@dataclass(frozen=True)
class Result:
    """How a sweep ended: states by cell, what is told of each, and the comparison's error."""

    sweep: PlannedSweep
    states: dict[str, str]
    told: dict[str, dict[str, Any]]
    compared: str | None = None  # why there is no comparison; empty: there is one

    def cells(self, *states: str) -> list[PlannedCell]:
        """Those in one of these states."""
        return [cell for cell in self.sweep.cells if self.states[cell.name] in states]

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, though the runs are done."""
        partial = [f"{cell.name}: {told}" for cell in self.cells("done")
                   if (told := self.told.get(cell.name, {}).get("problem"))]  # fmt: skip
        late = self.cells("new", "begun")
        left = f"{plural(len(late), 'run')} did not fit in the time left: give the command again"
        return [*partial, *([left] if late else []), *([self.compared] if self.compared else [])]

    def as_dict(self) -> dict[str, Any]:
        return as_dict(self.sweep, self.states, self.told)


def states_of(sweep: PlannedSweep) -> dict[str, str]:
    """How far each cell came."""
    told = told_in(sweep.ledger)
    return {cell.name: state_of(cell, told) for cell in sweep.cells}


def to_run(sweep: PlannedSweep, states: dict[str, str], retry: bool) -> list[PlannedCell]:
    """The cells that are not done; failed ones only on demand."""
    wanted = {"new", "begun", *(["failed"] if retry else [])}
    return [cell for cell in sweep.cells if states[cell.name] in wanted]


def check_room(sweep: PlannedSweep, todo: Sequence[PlannedCell]) -> None:
    """Raise `RefusedError` where the results have no room."""
    needed, free = totals(todo, sweep.parallel).disk_bytes, free_bytes(sweep.folder)
    if needed > free:
        raise RefusedError(
            f"{sweep.folder}: about {bytes_text(needed)} are needed and {bytes_text(free)} are "
            "free: make room, or set LOCAL_SAVE_DIR to a folder on another disk"
        )


def run_sweep(sweep: PlannedSweep, setting: Setting, screen: Screen, retry: bool) -> Result:
    """Run what is left; raises `ReservationError` where there are no machines, and what ends a
    command. A run that fails is told in the result."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    with held(sweep.ledger, setting.patience_s):
        began = "resumed" if read_ledger(sweep.ledger) else "planned"
        Ledger(sweep.ledger).append(began, config=str(sweep.path), cells=len(sweep.cells))
        states = states_of(sweep)
        todo = to_run(sweep, states, retry)
        driver = Driver(sweep, setting, screen, states)
        driver.write_list()
        if todo:
            driver.run(todo)
        compared = compare(sweep, driver.result().cells("done"), setting, screen)
        return replace(driver.result(), compared=compared)


@dataclass
class Driver:
    """Runs cells; ``states`` and ``told`` follow."""

    sweep: PlannedSweep
    setting: Setting
    screen: Screen
    states: dict[str, str]
    told: dict[str, dict[str, Any]] = field(init=False)
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        self._ledger, self.told = Ledger(self.sweep.ledger), told_in(self.sweep.ledger)
        self._lock = threading.Lock()
        plan = self.sweep.biggest
        self._real = backend_of(plan.config, plan.config_path, self.setting)
        self._reserved = Reserved(self.sweep, self._real)

    def result(self) -> Result:
        return Result(self.sweep, self.states, self.told)

    def run(self, todo: Sequence[PlannedCell]) -> None:
        """All of them in one reservation, which is given back in any case but when we leave."""
        try:
            self._reserved.get([cell.estimated_s for cell in todo])
            if self.sweep.parallel == 1:
                for cell in todo:
                    self._one(cell, self.setting, self.screen)
            else:
                self._at_once(todo)
            self._collect_again(todo)
        except DetachedError as error:
            why = str(error).partition("\n")[0]
            self._reserved.leave(why)
            raise DetachedError(
                f"{why}\nthe same command goes on with the sweep; to end it and free its machines:"
                f"\n  python g5k_execution.py clean {self.sweep.folder}"
            ) from error
        except BaseException:
            self._reserved.release()
            raise
        self._reserved.release()

    def _collect_again(self, todo: Sequence[PlannedCell]) -> None:
        """What could not be collected before; raises `DetachedError` where it still cannot."""
        for cell in todo:
            if self._real.remote and _uncollected(cell):
                self._one(cell, self.setting, self.screen, needed=True)
                if _uncollected(cell):
                    raise DetachedError(
                        f"{cell.name} has finished and was not collected: the machines are still "
                        "ours; give the command again"
                    )

    # ------------------------------------------------------------------ one cell

    def _one(
        self, cell: PlannedCell, setting: Setting, screen: Screen, needed: bool = False
    ) -> None:
        """Run a cell, or go on with it, if it is ``needed`` or fits in the time left."""
        title = f"cell {cell.number} of {len(self.sweep.cells)}: {cell.cell.name}"
        left = self._reserved.left_s()
        if left is not None and not needed and not self.pace.fits(cell.estimated_s, left):
            takes = seconds_text(self.pace.needed_s(cell.estimated_s))
            there = seconds_text(max(left, 0.0))
            self.screen.say(f"\n{title}: left out, as it may take {takes}; {there} are left")
            return
        self.screen.say(f"\n{title}")
        self._note(cell, "begun")
        try:
            outcome = self._outcome(cell, setting, screen)
        except (DetachedError, Interrupted):
            self._note(cell, "begun", why="interrupted")
            raise
        except FAILURES as error:
            self._note(cell, "failed", error=str(error))
            self.screen.say(f"{title}: failed: {error}")
        else:
            self._learn(cell, outcome)
        finally:
            self._real.claims.drop(cell.name)

    def _outcome(self, cell: PlannedCell, setting: Setting, screen: Screen) -> Outcome:
        before = read_record(cell.folder.ledger).reservation
        backend = Lent(self._real, self._reserved, None if before is None else before.ids)
        setting = replace(setting, backend=backend)
        if can_resume(cell.folder):
            return resume_experiment(cell.folder.root, setting, screen)
        sweep = self.sweep
        return run_experiment(
            sweep.path, setting, screen, sweep.given, cell.cell.change, cell.folder
        )

    def _learn(self, cell: PlannedCell, outcome: Outcome) -> None:
        more: dict[str, Any] = {"seconds": round(outcome.total_s, 3)}
        if accuracy := outcome.reality.accuracy:
            more["accuracy"] = accuracy.mean
        if not outcome.complete:
            more["problem"] = "; ".join([*outcome.missing, outcome.tables.error]).strip("; ")
        with self._lock:
            self.pace = self.pace.after(cell.estimated_s, outcome.reality.seconds, outcome.total_s)
        self._note(cell, "done", **more)
        reached = f", accuracy {more['accuracy']:.3f}" if "accuracy" in more else ""
        total = len(self.sweep.cells)
        self.screen.say(f"cell {cell.number} of {total}: done in "
                        f"{seconds_text(outcome.total_s)}{reached}")  # fmt: skip

    def _note(self, cell: PlannedCell, state: str, **more: Any) -> None:
        with self._lock:
            self.states[cell.name], self.told[cell.name] = state, {"state": state, **more}
            self._ledger.append("cell", name=cell.name, state=state, **more)
            self.write_list()

    def write_list(self) -> None:
        """Keep `LIST` true."""
        write_json(self.sweep.folder / LIST, self.result().as_dict())

    # ------------------------------------------------------------------ several at a time

    def _at_once(self, todo: Sequence[PlannedCell]) -> None:
        self._claim_ports(todo)
        relays = {cell.name: Relay() for cell in todo}
        with ThreadPoolExecutor(self.sweep.parallel) as pool:
            futures = [pool.submit(self._beside, cell, relays[cell.name]) for cell in todo]
            try:
                _await(futures)
            except BaseException as error:
                _end(futures, list(relays.values()), error)
                raise

    def _claim_ports(self, todo: Sequence[PlannedCell]) -> None:
        """For runs of a former process that may still go on, before others are given theirs."""
        for cell in todo:
            record = read_record(cell.folder.ledger)
            if record.under_way and record.offset:
                workers = max(place.workers for place in record.places)
                self._real.claims.take(cell.name, record.offset, width(workers))

    def _beside(self, cell: PlannedCell, relay: Relay) -> None:
        """In a thread of its own, what it says in a file."""
        relay.check()
        logs = self.sweep.folder / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{cell.name}.log").open("a", encoding="utf-8") as log:
            own = replace(self.setting, interrupts=relay, ask=None)
            self._one(cell, own, Screen(log))


def _uncollected(cell: PlannedCell) -> bool:
    """Whether the run has finished and what belongs to it is not here."""
    record = read_record(cell.folder.ledger)
    return record.finished is not None and not record.collected


def _await(futures: Sequence[Future[None]]) -> None:
    """Until all have ended, or one in a way that ends the sweep; signals get through."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()


def _end(futures: Sequence[Future[None]], relays: Sequence[Relay], error: BaseException) -> None:
    """End what runs; one that has left its machines to themselves decides that all stay ours."""
    for future in futures:
        future.cancel()
    for relay in relays:
        relay.tell(str(error) if isinstance(error, Interrupted) else "SIGTERM")
    for future in wait(futures).done:
        if not future.cancelled() and isinstance(left := future.exception(), DetachedError):
            raise left


def compare(
    sweep: PlannedSweep, done: Sequence[PlannedCell], setting: Setting, screen: Screen
) -> str | None:
    """One comparison over all runs that are done; None where there are none, else why it failed."""
    if not done or all(cell.plan.config.records_nothing for cell in done):
        return None
    screen.say(f"\ncomparing {plural(len(done), 'run')}")
    log: Path = sweep.folder / LOG
    folders = [str(cell.folder.root) for cell in done]
    command = [*setting.results, *folders, "--output", str(sweep.folder)]
    code = wait_all([start(command, log, log, environment(setting.environment))])[0]
    if not code:
        return ""
    return "\n".join([f"the comparison failed, {describe_exit(code)}", tail(log, 15)])
