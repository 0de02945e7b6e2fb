"""A run that was interrupted, killed or that failed goes on in its run folder.

The run folder is a configuration with its files beside it (``g5k_config.json``), so it is planned
again as it was, with the same ports if they are still free. Machines that have begun are told to
go on (``--resume``); the newest checkpoint that all of them have decides from where.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from decentralizepy.errors import ConfigError
from decentralizepy.ini import without_port
from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import MachineFolder, RunFolder
from orchestrator.planning.inputs import Inputs, read_text
from orchestrator.planning.plan import Plan
from orchestrator.planning.render import communication
from orchestrator.running.record import read_record

REMEDY: Final = "name a run folder that g5k_execution.py has made (--resume)"


def open_folder(path: Path) -> RunFolder:
    """A run folder of ours; raises `ConfigError` for what is none."""
    folder = RunFolder(path.absolute())
    if not path.is_dir():
        raise ConfigError(f"{path} is not a folder: {REMEDY}")
    needed = (folder.config, folder.ini, folder.plan, folder.ledger)
    missing = [file.name for file in needed if not file.is_file()]
    if missing:
        raise ConfigError(f"{path} has no {', '.join(missing)}: {REMEDY}")
    return folder


def open_run(path: Path) -> RunFolder:
    """The run folder to be resumed; raises `ConfigError` if there is nothing to go on with."""
    folder = open_folder(path)
    if read_record(folder.ledger).finished is not None and uncollected(folder) is None:
        raise ConfigError(
            f"{path}: this run is complete; its tables are made anew by: python -m results {path}"
        )
    return folder


def uncollected(folder: RunFolder) -> float | None:
    """The seconds taken by a run that has finished, but was not collected, or still holds
    machines."""
    record = read_record(folder.ledger)
    return record.finished if record.held or not record.collected else None


def former_offset(folder: RunFolder) -> int | None:
    """First port of the former start."""
    offset = communication(read_text(folder.ini), folder.ini).get("offset", "")
    return int(offset) if offset.isdecimal() else None


def as_resumed(planned: Plan, inputs: Inputs, folder: RunFolder) -> Plan:
    """The plan, with the machines that go on; raises `ConfigError` where that cannot be."""
    if changed := _changed(planned, inputs, folder):
        raise ConfigError(
            f"{folder.root}: {', '.join(changed)} changed since this run began: undo that, or "
            f"start a new run with {folder.config}"
        )
    machines = (machine.machine for machine in planned.machines)
    resumed = frozenset(m for m in machines if folder.machine(m).holds_a_run())
    notes = planned.notes
    if uncollected(folder) is not None:
        notes += ("the run has finished: its files are collected and its tables made",)
    elif resumed and not planned.config.CHECKPOINT_AFTER:
        notes += ("there are no checkpoints (CHECKPOINT_AFTER): from the start",)
    return replace(planned, resumed=resumed, notes=notes)


def _changed(planned: Plan, inputs: Inputs, folder: RunFolder) -> list[str]:
    """What is not as machines that have begun had it; where the run listens may change."""
    told = [read_object(folder.machine(machine.machine).run) for machine in planned.machines]
    ini, digest = without_port(planned.task.experiment.text), planned.graph.get("digest")
    counted = planned.site.assumed and "WORKERS" in inputs.ini_text  # and may be another number
    differ = {
        "the INI": not counted
        and any(without_port(str(run["ini"])) != ini for run in told if "ini" in run),
        "the graph": any(
            run["graph"].get("sha256") != digest
            for run in told
            if isinstance(run.get("graph"), dict) and digest
        ),
    }
    return [name for name, different in differ.items() if different]


def tidy(folder: RunFolder) -> None:
    """Remove what would tell of the former start as if it were of this one."""
    for machine in folder.machines().values():
        machine.status.unlink(missing_ok=True)
        if _hardly_begun(machine):
            machine.args.unlink(missing_ok=True)


def _hardly_begun(machine: MachineFolder) -> bool:
    """Whether the machine was killed before it had written what it runs."""
    return not machine.run.exists() and not machine.all_records()
