"""The cells of a sweep, planned: what each takes, where it lies, and how far it came."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from decentralizepy.errors import ConfigError
from decentralizepy.overrides import from_flags
from decentralizepy.runfolder import RunFolder
from orchestrator.planning.estimate import evaluations
from orchestrator.planning.inputs import Inputs, read_config, save_folder
from orchestrator.planning.plan import Plan
from orchestrator.planning.render import communication
from orchestrator.planning.task import render_ini
from orchestrator.running.experiment import Setting, make_plan
from orchestrator.running.ledger import read_ledger
from orchestrator.running.record import read_record
from orchestrator.sweep.expansion import Cell, expand

#: Keys of the JSON that change nothing of what comes out. CONFIG_NAME and GRAPH_FILE count by what
#: is in the files.
NOT_COUNTED: Final = frozenset({
    "BACKEND", "CLUSTERS", "COLLECT_AFTER", "CONFIG_NAME", "CONTAINER", "DOWNLOAD_ALL",
    "ENVIRONMENT", "ENV_NAME", "FAULTS", "GRAPH_FILE", "HOSTS", "HOST_DIR", "HOST_TIMEOUT",
    "LOCAL_SAVE_DIR", "LOG_LEVEL", "MARGIN", "MODULES", "MONITOR", "NETWORK", "OFFSET",
    "PROGRESS_LIMIT", "PROJECT", "PYTHON", "SBATCH", "SERVERS", "SETUP", "SIMULATE", "SSH_OPTIONS",
    "START_TIMEOUT", "STORAGE", "USAGE_AFTER", "WAIT", "WAIT_LIMIT", "WORKERS", "cluster",
    "description", "job_name", "job_type", "queue", "reservation", "sweep", "walltime",
})  # fmt: skip
MOST_NAME_BYTES: Final = 150
#: Stands for a first port, to see whether an INI takes it.
PROBED: Final = 1
#: A record, and its share of the tables; figures and logs of a run.
RECORD_BYTES: Final = 1_000
FIGURES_BYTES: Final = 1_000_000
#: Checkpoint sets that are kept, and rows of a node in each.
CHECKPOINTS: Final = 2
ROWS_SAVED: Final = 2
#: File of a sweep's folder that lists its cells.
LIST: Final = "sweep.json"


@dataclass(frozen=True)
class PlannedCell:
    """A cell with its plan and its run folder; ``number`` counts from 1."""

    number: int
    cell: Cell
    inputs: Inputs
    plan: Plan
    folder: RunFolder

    @property
    def name(self) -> str:
        return self.folder.root.name

    @property
    def estimated_s(self) -> float:
        return self.plan.estimate.seconds

    @property
    def disk_bytes(self) -> int:
        """About what the run leaves."""
        return disk_bytes(self.plan)


@dataclass(frozen=True)
class PlannedSweep:
    """All cells of a JSON, and the folder that they lie in."""

    path: Path
    folder: Path
    cells: tuple[PlannedCell, ...]
    parallel: int
    given: tuple[str, ...] = ()

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.jsonl"

    @property
    def biggest(self) -> Plan:
        """The plan with the most machines, for which the reservation is made."""
        return max((cell.plan for cell in self.cells), key=lambda plan: plan.config.NB_MACHINE)


def plan_sweep(path: Path, setting: Setting, given: Sequence[str] = ()) -> PlannedSweep:
    """Read, expand and lay out everything; raises `ConfigError`. Starts and writes nothing."""
    config = read_config(path)
    assert config.sweep is not None, "a configuration with a sweep"
    if config.sweep.parallel > 1 and config.NETWORK_EMULATION is not None:
        raise ConfigError(f"{path}: sweep: runs at the same time would share the emulated network: "
                          "set parallel to 1")  # fmt: skip
    if config.sweep.parallel > 1 and config.OFFSET is not None:
        raise ConfigError(f"{path}: sweep: runs at the same time need ports of their own: leave "
                          "out OFFSET, or set parallel to 1")  # fmt: skip
    try:
        cells = expand(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    _check_given(cells, given)
    folder = save_folder(config) / f"sweep_{_plain(config.job_name)}"
    planned = [_planned(number, cell, path, folder, setting, given)
               for number, cell in enumerate(cells, 1)]  # fmt: skip
    if config.sweep.parallel > 1:
        _check_ports(planned)
    return PlannedSweep(path, folder, tuple(planned), config.sweep.parallel, tuple(given))


def _check_ports(cells: Sequence[PlannedCell]) -> None:
    """Refuse an INI with a first port of its own, which all runs would take at the same time."""
    for cell in cells:
        inputs, path = cell.inputs, cell.inputs.ini_path
        text, _ = render_ini(inputs, PROBED, 1, inputs.overrides)
        if communication(text, path).get("offset") != str(PROBED):
            raise ConfigError(f"{path}: [COMMUNICATION] offset: runs at the same time need ports "
                              "of their own: leave it out, or set parallel to 1")  # fmt: skip


def _check_given(cells: Sequence[Cell], given: Sequence[str]) -> None:
    swept = {key for cell in cells for key in cell.change.ini}
    for one in from_flags(given):
        if one.name in swept:
            raise ConfigError(f"{one.where}: the sweep gives {one.name} its values")


def _planned(
    number: int, cell: Cell, path: Path, folder: Path, setting: Setting, given: Sequence[str]
) -> PlannedCell:
    try:
        inputs, plan = make_plan(path, setting, given, cell.change)
    except ConfigError as error:
        raise ConfigError(f"{cell.name}: {error}") from None
    label = f"{_plain(plan.config.job_name)}_{cell.name}"
    name = label.encode()[:MOST_NAME_BYTES].decode(errors="ignore")
    return PlannedCell(
        number, cell, inputs, plan, RunFolder(folder / f"{name}-{digest(cell, inputs, plan)}")
    )


def _plain(name: str) -> str:
    """A name that every file system likes."""
    return re.sub(r"[^\w.+=@-]+", "_", name)


def digest(cell: Cell, inputs: Inputs, plan: Plan) -> str:
    """Equal for experiments that come out the same, wherever and whenever they run."""
    resolved = plan.config.resolved().items()
    told: list[Any] = [
        {key: value for key, value in resolved if key not in NOT_COUNTED},
        dict(cell.change.values),
        inputs.ini_text,
        plan.graph.get("digest"),
        dict(plan.files),
        {name: hashlib.sha256(source.read_bytes()).hexdigest()
         for name, source in inputs.modules.files.items()},
        {str(name): source.read_text(encoding="utf-8", errors="replace")
         for name, source in plan.task.experiment.own_files.items()},
    ]  # fmt: skip
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def disk_bytes(plan: Plan) -> int:
    """About what a run leaves: records and their tables, checkpoints, figures."""
    config, load = plan.config, plan.load
    often = max(evaluations(config.NB_ITERATION, every)
                for every in (config.TEST_AFTER, config.train_evaluate_after))  # fmt: skip
    records = often * load.evaluated * RECORD_BYTES
    checkpoints = CHECKPOINTS * ROWS_SAVED * config.NB_AGENTS * load.row_bytes
    return FIGURES_BYTES + records + (checkpoints if config.CHECKPOINT_AFTER else 0)


# ---------------------------------------------------------------------- how far


def state_of(cell: PlannedCell, told: Mapping[str, Mapping[str, Any]]) -> str:
    """``new``, ``begun``, ``failed`` or ``done``; ``told`` is `told_in` of the sweep's ledger."""
    record = read_record(cell.folder.ledger)
    if record.finished is not None and record.collected:
        return "done"
    if told.get(cell.name, {}).get("state") == "failed":
        return "failed"
    return "begun" if can_resume(cell.folder) else "new"


def can_resume(folder: RunFolder) -> bool:
    """Whether a run folder is complete enough to go on with."""
    needed = (folder.config, folder.ini, folder.plan)
    return bool(read_ledger(folder.ledger)) and all(file.is_file() for file in needed)


def told_in(ledger: Path) -> dict[str, dict[str, Any]]:
    """What the sweep's ledger told last of each cell, by name: its state, and what goes with it."""
    cells = (entry for entry in read_ledger(ledger) if entry["event"] == "cell")
    return {str(entry.get("name")): _details(entry) for entry in cells}


def _details(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("time", "event", "name")}
