"""One experiment from its JSON to tables and figures.

Read the files, plan, check before anything is started, get the machines, run, bring everything
home, give the machines back whatever happened, and turn the records into tables and figures.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError, RunError
from decentralizepy.files import write_atomic, write_json
from decentralizepy.interrupts import Interrupts
from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import RESERVED, MachineFolder, RunFolder, is_reserved
from orchestrator.backends.base import Backend, require
from orchestrator.backends.choice import backend_for
from orchestrator.config import Config
from orchestrator.emulation.service import checks
from orchestrator.errors import DetachedError
from orchestrator.monitoring.power import fetch_power
from orchestrator.planning.change import NO_CHANGE, Change
from orchestrator.planning.costs import cache_path, read_costs, remember
from orchestrator.planning.data import absolute
from orchestrator.planning.describe import headline
from orchestrator.planning.inputs import Inputs, read_inputs, save_folder
from orchestrator.planning.placed import INI, Placed, placed
from orchestrator.planning.plan import Plan, graph_name, plan
from orchestrator.planning.render import ADDRESSES
from orchestrator.planning.scenario import free_name, read_scenario
from orchestrator.planning.task import read_task
from orchestrator.running.advice import hidden, what_next, with_notes
from orchestrator.running.hold import PATIENCE_S, held
from orchestrator.running.machines import Ask, Machines
from orchestrator.running.reality import Reality, measure, measured_cost, read_rows, read_story
from orchestrator.running.record import read_record
from orchestrator.running.rehearsal import rehearse
from orchestrator.running.resume import as_resumed, former_offset, open_run, tidy, uncollected
from orchestrator.running.room import room_in
from orchestrator.running.tables import Tables, make_tables
from orchestrator.text import Screen

RESULTS: Final = (sys.executable, "-m", "results")
#: First port of a plan as long as no machine is known.
NOMINAL_OFFSET: Final = 9000


@dataclass(frozen=True)
class Setting:
    """What an experiment takes from outside, so that tests can give something else."""

    backend: Backend | None = None  # by default as the configuration says
    results: tuple[str, ...] = RESULTS
    costs: Path = field(default_factory=cache_path)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    now: Callable[[], datetime] = datetime.now
    patience_s: float = PATIENCE_S
    interrupts: Interrupts = field(default_factory=Interrupts)
    ask: Ask | None = None  # whether an interrupted run shall end; None: it does


@dataclass(frozen=True)
class Outcome:
    """How a run ended: where it lies, what it took, its tables, and what is missing."""

    folder: RunFolder
    plan: Placed
    reality: Reality
    tables: Tables
    missing: tuple[str, ...]
    #: from the command to the last figure; those of ``reality`` are of the machines alone
    total_s: float = 0.0

    @property
    def complete(self) -> bool:
        return self.tables.ok and not self.missing


def run_experiment(
    path: Path,
    setting: Setting,
    screen: Screen,
    given: Sequence[str] = (),
    change: Change = NO_CHANGE,
    folder: RunFolder | None = None,
) -> Outcome:
    """Everything; raises `ConfigError` or `RunError`, with nothing left running.

    ``given``: keys of the INI after ``--set``. ``folder``: the run's own (default: a new one).
    """
    began = time.monotonic()
    inputs, planned = make_plan(path, setting, given, change)
    shown = _rehearsed(inputs, planned, setting, screen)
    if folder is None:
        folder = create_run_folder(planned, setting.now())
    else:
        folder.root.mkdir(parents=True, exist_ok=True)
    screen.say(f"run folder {folder.root}")
    with _room(folder), held(folder.ledger) as hold:
        write_inputs(folder, inputs, preview(inputs, planned, setting, folder, shown.offset))
        run = Run(inputs, planned, folder, shown.offset)
        outcome = _carried_out(run, setting, screen, hold)
    return replace(outcome, total_s=time.monotonic() - began)


def resume_experiment(path: Path, setting: Setting, screen: Screen) -> Outcome:
    """Go on with the run in a folder; raises as `run_experiment`, and ends the same."""
    began = time.monotonic()
    with held(open_run(path).ledger, setting.patience_s) as hold:
        outcome = _resumed(path, setting, screen, hold)
    return replace(outcome, total_s=time.monotonic() - began)


def _resumed(path: Path, setting: Setting, screen: Screen, hold: int) -> Outcome:
    folder, inputs, planned = make_resumed_plan(path, setting)
    seconds = uncollected(folder)
    if seconds is not None:
        run = Run(inputs, planned, folder, former_offset(folder))
        return _collected_again(run, setting, screen, hold, seconds)
    backend = backend_of(planned.config, planned.config_path, setting)
    if backend.remote and read_record(folder.ledger).under_way:
        former = former_offset(folder)
        screen.say(headline(planned))
    else:
        former = _rehearsed(inputs, planned, setting, screen, folder).offset
        tidy(folder)
    screen.say(f"run folder {folder.root}")
    with _room(folder):
        return _carried_out(Run(inputs, planned, folder, former), setting, screen, hold)


def _room(folder: RunFolder) -> AbstractContextManager[None]:
    """Tell of a full disk by the run folder."""
    return room_in(folder.root, "set LOCAL_SAVE_DIR to a folder on another one")


@dataclass(frozen=True)
class Run:
    """A plan with its inputs and its folder; ``former`` is the first port that is wished for."""

    inputs: Inputs
    plan: Plan
    folder: RunFolder
    former: int | None

    def machines(self, setting: Setting, hold: int) -> Machines:
        backend = backend_of(self.plan.config, self.plan.config_path, setting)
        return Machines(
            self.plan, self.inputs, self.folder, backend, setting.interrupts, hold, self.former,
            setting.ask,
        )  # fmt: skip


def _rehearsed(
    inputs: Inputs,
    planned: Plan,
    setting: Setting,
    screen: Screen,
    folder: RunFolder | None = None,
) -> Placed:
    """Tell what will happen, and whether it can; the plan as far as places are known."""
    screen.say(headline(planned))
    for note in planned.notes:
        screen.say(f"note: {note}")
    backend = backend_of(planned.config, planned.config_path, setting)
    former = None if folder is None else former_offset(folder)
    shown = preview(inputs, planned, setting, folder or example_folder(planned), former)
    require([*backend.check(shown), *checks(planned.config)])
    try:
        rehearse(shown, inputs.graph_path, setting.environment, screen, here=not backend.remote)
    except RunError as error:
        raise RunError("\n".join([str(error), *hidden(planned)])) from error
    return shown


def preview(
    inputs: Inputs,
    planned: Plan,
    setting: Setting,
    folder: RunFolder,
    former: int | None = None,
) -> Placed:
    """The plan on its machines, as far as they are known before anything is reserved."""
    backend = backend_of(planned.config, planned.config_path, setting)
    places, offset = backend.preview(planned, folder, former)
    return placed(planned, inputs, places, offset)


def backend_of(config: Config, path: Path, setting: Setting) -> Backend:
    """The place that the configuration names: the setting's own where that is of this kind."""
    if setting.backend is not None and setting.backend.name == config.backend:
        return setting.backend
    return backend_for(config, path)


def _carried_out(run: Run, setting: Setting, screen: Screen, hold: int) -> Outcome:
    """Run, measure, and make tables."""
    machines = run.machines(setting, hold)
    with _told_what_next(run.folder, screen):
        seconds, missing = machines.run(screen)
    assert machines.placed is not None
    return _measured(machines.placed, run.folder, setting, screen, seconds, missing)


def _collected_again(
    run: Run, setting: Setting, screen: Screen, hold: int, seconds: float
) -> Outcome:
    """Of a run that has finished, what could not be collected then; and make tables."""
    screen.say(f"run folder {run.folder.root}")
    machines = run.machines(setting, hold)
    with _told_what_next(run.folder, screen):
        missing = machines.collect(screen)
    shown = machines.placed or preview(run.inputs, run.plan, setting, run.folder, run.former)
    return _measured(shown, run.folder, setting, screen, seconds, missing)


@contextmanager
def _told_what_next(folder: RunFolder, screen: Screen) -> Iterator[None]:
    """Tell what can be done about a run that failed or was interrupted."""
    try:
        with _room(folder):
            yield
    except DetachedError as error:
        raise DetachedError(f"{error}\n{what_next(folder)}") from error
    except RunError as error:
        raise RunError(f"{error}\n{what_next(folder)}") from error
    except KeyboardInterrupt:
        screen.say(what_next(folder))
        raise


def _measured(
    planned: Placed,
    folder: RunFolder,
    setting: Setting,
    screen: Screen,
    seconds: float,
    missing: Sequence[str],
) -> Outcome:
    fetch_power(planned, folder, screen)
    reality = _learn(planned, folder, seconds, setting.costs)
    if not planned.config.records_nothing:
        screen.say("  making tables and figures")
    tables = make_tables(setting.results, folder, setting.environment)
    return Outcome(folder, planned, reality, tables, tuple(missing))


def make_resumed_plan(path: Path, setting: Setting) -> tuple[RunFolder, Inputs, Plan]:
    """Lay out again what lies in a run folder, on the same ports if they are free."""
    folder = open_run(path)
    return folder, *make_run_plan(folder, setting)


def make_run_plan(folder: RunFolder, setting: Setting) -> tuple[Inputs, Plan]:
    """Lay out what lies in a run folder."""
    inputs, planned = make_plan(folder.config, setting)
    return inputs, as_resumed(planned, inputs, folder)


def make_plan(
    path: Path, setting: Setting, given: Sequence[str] = (), change: Change = NO_CHANGE
) -> tuple[Inputs, Plan]:
    """Read everything and lay it out; starts and writes nothing.

    ``given`` are keys of the INI after ``--set``; ``change`` is made to what the files say.
    """
    inputs = read_inputs(path, given, change)
    config = inputs.config
    site = backend_of(config, inputs.path, setting).site(config)
    task = read_task(inputs, config.OFFSET or NOMINAL_OFFSET, site.workers)
    cost = read_costs(setting.costs).lookup(task.model, task.row_length)
    files: dict[str, str] = {}
    for name, source in task.experiment.files.items():
        if not Path(name).is_absolute():  # beside the rendered INI, as beside the user's
            _check_name(name, inputs.ini_path)
            files[name] = source.read_text(encoding="utf-8")
    taken = {*files, INI, ADDRESSES, graph_name(config) or "", ini_name(inputs)}
    scenario = read_scenario(inputs, task.wiring, site.workers, taken)
    files |= scenario.files
    made = plan(config, task, inputs.graph, site, cost, files, inputs.path, scenario)
    return inputs, with_notes(made)


def ini_name(inputs: Inputs) -> str:
    """The name in the run folder of the INI as the user wrote it; never one that is taken there."""
    taken = {*RESERVED, graph_name(inputs.config) or ""}
    return free_name(inputs.ini_path.name, "original", taken)


def _check_name(name: str, ini: Path) -> None:
    """Refuse a file of numbers by node whose copy, which the INI names, has no room."""
    first = Path(name).parts[0]
    if is_reserved(first):
        raise ConfigError(
            f"{ini}: {name}: '{first}' means something else in a run folder: rename it"
        )


def _learn(planned: Placed, folder: RunFolder, seconds: float, costs: Path) -> Reality:
    """Put what the run took beside the plan, and remember it for the next one."""
    rows = read_rows(folder)
    reality = measure(planned, rows, seconds, read_story(folder))
    write_json(folder.plan, planned.as_dict(folder) | {"reality": reality.as_dict()})
    cost = measured_cost(planned, rows, reality)
    cpus = {str(told["cpu"]) for m in folder.machines().values() if (told := run_of(m)).get("cpu")}
    if cost is not None and len(cpus) < 2:  # of different ones it is the cost of none
        remember(costs, planned.task.model, cost, next(iter(cpus), None))
    return reality


def run_of(machine: MachineFolder) -> dict[str, Any]:
    """What a machine tells of itself."""
    return read_object(machine.run)


def run_name(planned: Plan, moment: str) -> str:
    """``<moment>_<job_name>``, with what no file system likes replaced."""
    name = re.sub(r"[^\w.+=@-]+", "_", planned.config.job_name)
    return f"{moment}_{name.encode()[:200].decode(errors='ignore')}"


def example_folder(planned: Plan) -> RunFolder:
    """The run folder as ``--dry-run`` shows it, before it has a time."""
    return RunFolder(save_folder(planned.config) / run_name(planned, "YYYYMMDD-HHMMSS"))


def create_run_folder(planned: Plan, now: datetime) -> RunFolder:
    """Make a folder that never was; ``mkdir`` decides between runs of the same second."""
    base = save_folder(planned.config)
    name = run_name(planned, now.strftime("%Y%m%d-%H%M%S"))
    try:
        base.mkdir(parents=True, exist_ok=True)
        return RunFolder(_fresh(base, name))
    except OSError as error:
        raise ConfigError(
            f"{planned.config_path}: LOCAL_SAVE_DIR: cannot make a folder in {base}: "
            f"{error.strerror}"
        ) from None


def _fresh(base: Path, name: str) -> Path:
    number = 1
    while True:
        folder = base / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def write_inputs(folder: RunFolder, inputs: Inputs, planned: Placed) -> None:
    """Everything that is needed to know what ran, and to repeat it: ``g5k_config.json`` of a run
    folder is a configuration whose files lie beside it."""
    (folder.root / ini_name(inputs)).write_text(inputs.ini_text, encoding="utf-8")
    for name, text in planned.files.items():
        write_atomic(folder.root / name, text)
    beside: dict[str, Any] = {"CONFIG_NAME": ini_name(inputs)}
    if inputs.graph_path is not None and planned.graph_name is not None:
        beside["GRAPH_FILE"] = planned.graph_name
        (folder.root / planned.graph_name).write_bytes(inputs.graph_path.read_bytes())
    beside["MODULES"] = planned.task.modules.names
    beside |= planned.scenario.keys | absolute(planned.config, inputs.path)
    write_json(folder.config, planned.config.resolved() | beside)
    own = {str(name): source for name, source in planned.task.experiment.own_files.items()}
    for relative, source in (own | dict(planned.task.modules.files)).items():
        (folder.root / relative).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / relative).write_bytes(source.read_bytes())
    write_json(folder.plan, planned.as_dict(folder))


def summary(outcome: Outcome) -> dict[str, Any]:
    """What ``--json`` prints at the end."""
    return {
        "run_folder": str(outcome.folder.root),
        "seconds": round(outcome.total_s, 3),
        "reality": outcome.reality.as_dict(),
        "planned_seconds": outcome.plan.estimate.seconds,
        "planned_bytes": outcome.plan.traffic.total_bytes,
        "tables": [str(path) for path in outcome.tables.tables],
        "figures": [str(path) for path in outcome.tables.figures],
        "notes": list(outcome.reality.notes),
        "missing": list(outcome.missing),
        "complete": outcome.complete,
    }
