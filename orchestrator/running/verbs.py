"""What can be done with a run folder at any time: look, watch, collect, free."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.runfolder import RunFolder
from decentralizepy.text import plural
from orchestrator.backends.base import Backend
from orchestrator.emulation.service import emulated, unemulate
from orchestrator.planning.inputs import Inputs
from orchestrator.planning.placed import placed
from orchestrator.planning.plan import Plan
from orchestrator.running.execution import Execution
from orchestrator.running.experiment import Setting, backend_of, make_run_plan
from orchestrator.running.fleet import Fleet
from orchestrator.running.hold import held
from orchestrator.running.ledger import Ledger
from orchestrator.running.progress import line, progress_for
from orchestrator.running.record import Record, read_record
from orchestrator.running.resume import open_folder
from orchestrator.running.tables import make_tables
from orchestrator.status import Status, overview, read_status
from orchestrator.text import Screen

#: Between two looks at a run that another process supervises.
LOOK_S: Final = 1.0


@dataclass(frozen=True)
class Found:
    """A run folder with its plan, its place, and what its ledger says."""

    folder: RunFolder
    inputs: Inputs
    plan: Plan
    backend: Backend
    record: Record

    @property
    def total(self) -> int:
        return self.plan.config.NB_ITERATION


def find_run(path: Path, setting: Setting) -> Found:
    """Read a run folder; raises `ConfigError` for what is none."""
    folder = open_folder(path)
    inputs, plan = make_run_plan(folder, setting)
    backend = backend_of(plan.config, plan.config_path, setting)
    return Found(folder, inputs, plan, backend, read_record(folder.ledger))


@contextmanager
def fleet_of(run: Found) -> Iterator[Fleet | None]:
    """The machines of a run as its ledger says; None where none are held."""
    record = run.record
    if record.reservation is None or not record.places or not run.backend.remote:
        yield None
        return
    hosts = run.backend.hosts(record.reservation, run.plan, None)
    plan = placed(run.plan, run.inputs, record.places, record.offset)
    execution = Execution(plan, run.folder, hosts, run.backend, record.number)
    execution.losses += record.losses
    fleet = Fleet(execution)
    try:
        yield fleet
    finally:
        fleet.close()


# ---------------------------------------------------------------------- status


def status(run: Found) -> dict[str, Any]:
    """How a run is now, as JSON; machines that are elsewhere are asked."""
    record = run.record
    with fleet_of(run) as fleet:
        seen = fleet.look() if fleet is not None and record.finished is None else {}
    machines = {
        str(m): "silent" if one is None else (one.state if one.code is None else f"{one.code}")
        for m, one in seen.items()
    }
    at = overview(statuses(run), run.total)
    return {
        "run_folder": str(run.folder.root),
        "backend": run.backend.name,
        "state": state_of(run),
        "supervised": is_supervised(run.folder),
        "iteration": at.done,
        "iterations": run.total,
        "accuracy": at.accuracy,
        "reservation": None if record.reservation is None else record.reservation.as_dict(),
        "machines": machines,
        "losses": [str(loss) for loss in record.losses],
    }


def state_of(run: Found) -> str:
    """One word for how far the run came."""
    record = run.record
    if record.finished is not None:
        return "complete" if record.collected else "finished, not collected"
    if record.under_way:
        return "running" if is_supervised(run.folder) or run.backend.remote else "interrupted"
    if record.held:
        return "waiting for machines"
    return "interrupted" if record.number else "not started"


def is_supervised(folder: RunFolder) -> bool:
    """Whether a process holds the run folder."""
    try:
        with held(folder.ledger, 0.0):
            return False
    except ConfigError:
        return True


def status_lines(told: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """The same for people."""
    yield f"run       {told['run_folder']}"
    done = f"iteration {told['iteration']} of {told['iterations']}"
    accuracy = "" if told["accuracy"] is None else f", accuracy {told['accuracy']:.3f}"
    yield f"state     {told['state']}, {done}{accuracy}"
    who = "a process supervises it" if told["supervised"] else "nobody supervises it"
    yield f"place     {told['backend']}; {who}"
    if told["reservation"] is not None:
        reservation = told["reservation"]
        ids = " ".join(reservation["ids"]) or reservation["name"]
        until = reservation["deadline"]
        ends = "" if until is None else time.strftime(", until %F %T", time.localtime(until))
        yield f"held      {ids}: {', '.join(reservation['hosts']) or 'no machine yet'}{ends}"
    for machine, how in told["machines"].items():
        yield f"machine {machine} {how}"
    yield from (f"loss      {loss}" for loss in told["losses"])
    yield from (f"{what:<9} python g5k_execution.py {what} {folder}" for what in helps(told))


def helps(told: Mapping[str, Any]) -> list[str]:
    """The verbs that make sense now."""
    held_ = told["reservation"] is not None
    if told["supervised"]:
        return ["attach"]
    going = ["attach"] if held_ and told["state"] == "running" else ["resume"]
    return [*(going if told["state"] != "complete" else []), *(["collect", "clean"] * held_)]


# ---------------------------------------------------------------------- attach


def statuses(run: Found) -> list[Status]:
    """What is here of what the machines tell."""
    return [read_status(folder.status, m) for m, folder in run.folder.machines().items()]


def follow(run: Found, screen: Screen) -> None:
    """The live view of a run that another process supervises, until that lets go of it."""
    with progress_for(screen, run.total) as progress:
        while is_supervised(run.folder):
            progress.update(statuses(run))
            time.sleep(LOOK_S)
        progress.update(statuses(run))
    record = read_record(run.folder.ledger)
    screen.say(f"the process that supervised it has ended; its last event was {record.last!r}")


# ---------------------------------------------------------------------- collect and clean


def collect(run: Found, setting: Setting, screen: Screen) -> list[str]:
    """Bring home what is there now, and make tables of it; what is missing, in words."""
    with fleet_of(run) as fleet:
        if fleet is None:
            missing = [] if not run.backend.remote else ["no machine is held: all there is is here"]
        else:
            missing = fleet.collect(finished=False)
    seen = overview(statuses(run), run.total)
    screen.say(f"  {line(seen)}")
    tables = make_tables(setting.results, run.folder, setting.environment)
    if not tables.ok:
        raise RunError(f"tables and figures failed: {tables.error}")
    screen.say(f"tables    {plural(len(tables.tables), 'file')} in {run.folder.root}")
    return missing


def clean(run: Found, screen: Screen) -> None:
    """End what runs, bring home what is there, and free all that the ledger says is held."""
    with held(run.folder.ledger, 0.0):
        ledger, record = Ledger(run.folder.ledger), run.record
        with fleet_of(run) as fleet:
            if fleet is not None:
                _end(fleet, ledger, record, screen)
        request = run.backend.request(run.plan, run.folder.root.name)
        may_be_ours = record.held or emulated(run.folder.ledger)
        reservation = run.backend.find(request) if may_be_ours else None
        if reservation is not None:
            unemulate(ledger, screen.say)
        reservation = reservation or record.reservation
        if reservation is not None:
            run.backend.release(reservation)
        (run.folder.root / "run.key").unlink(missing_ok=True)
        if record.held:
            ledger.append("released", why="clean")
        screen.say("nothing is held any more" if record.held else "nothing was held")


def _end(fleet: Fleet, ledger: Ledger, record: Record, screen: Screen) -> None:
    fleet.stop()
    screen.say("  all machines have ended")
    try:
        missing = fleet.collect(finished=record.finished is not None)
    except RunError as error:
        screen.say(f"  not collected: {error}")
        ledger.append("failed", error=f"collecting: {error}")
        return
    ledger.append("collected", missing=missing)
    screen.say("  collected" + (f", but: {'; '.join(missing)}" if missing else ""))
    for told in fleet.forget():
        screen.say(f"  {told}")
