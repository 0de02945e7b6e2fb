"""Why a run failed, in words: which machine is to blame, and what it said at last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from decentralizepy.errors import EXIT_INTERRUPTED, EXIT_USAGE, ConfigError, RunError
from orchestrator.backends import process
from orchestrator.hosts.base import OUT_OF_TIME, STDOUT, HostError, UnreachableError
from orchestrator.running.sight import FORGOTTEN, SILENT, Sight
from orchestrator.status import read_status

#: Lines of a failed machine's output that are shown.
TOLD_LINES: Final = 15


def failure(
    sight: Sight, first: Mapping[int, int], codes: Mapping[int, int]
) -> ConfigError | RunError:
    """Which machine failed, why, and the end of what it printed; the others' ends in a line.

    ``first`` are the exit codes of those that failed at once, ``codes`` of all that did. One that
    refused what it was given says so by its exit code: then trying again is no help.
    """
    blamed = _blame(first, codes)
    lines = [_why(sight, blamed, codes[blamed])]
    lines += [f"before, {loss}" for loss in sight.execution.losses]
    lines += [
        f"machine {machine} ended too, {_cause(sight, machine, code)}"
        for machine, code in codes.items()
        if machine != blamed
    ]
    text = "\n".join(lines)
    return ConfigError(text) if codes[blamed] == EXIT_USAGE else RunError(text)


def _why(sight: Sight, machine: int, code: int) -> str:
    where, told = _tail(sight, machine)
    shown = "\n".join(f"    {line}" for line in told.splitlines())
    named = sight.execution.named(machine)
    return f"{named} failed, {_cause(sight, machine, code)}\n  end of {where}:\n{shown}"


def _tail(sight: Sight, machine: int) -> tuple[str, str]:
    """Where a machine's output lies, and its last lines; of a silent host what is home."""
    execution, job = sight.execution, sight.jobs[machine]
    if machine in sight.silent_since:
        home = execution.folder.machine(machine).root / STDOUT
        return str(home), process.tail(home, TOLD_LINES)
    log = f"{job.folder}/{STDOUT}"
    where = f"{execution.plan.places[machine].host}:{log}" if sight.remote else log
    try:
        return where, execution.hosts[machine].tail(job, TOLD_LINES)
    except (UnreachableError, HostError) as error:
        return where, f"(not to be had: {error})"


def _cause(sight: Sight, machine: int, code: int) -> str:
    """How a machine ended, and what it said of it."""
    error = read_status(sight.execution.folder.machine(machine).status, machine).error
    return describe(code) + (f": {error}" if error else "")


def _blame(first: Mapping[int, int], codes: Mapping[int, int]) -> int:
    """A machine that was killed caused the others' failures; else the first that failed."""
    dead = [machine for machine, code in codes.items() if killed(code)]
    return (dead or list(first))[0]


def killed(code: int) -> bool:
    """Whether a machine ended without a chance to tell."""
    return code in (SILENT, FORGOTTEN) or (code > 128 and code != EXIT_INTERRUPTED)


def describe(code: int) -> str:
    """An exit code in words."""
    told = {
        SILENT: "its host does not answer",
        FORGOTTEN: "its host knows nothing of it (did it start anew?)",
        OUT_OF_TIME: "the time of the reservation or of walltime was over",
    }
    return told.get(code) or process.describe_exit(code)
