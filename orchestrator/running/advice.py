"""What can be done about a run that failed, and what is odd about one that has not begun."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from decentralizepy.runfolder import RunFolder
from decentralizepy.text import seconds_text
from orchestrator.planning.plan import Plan
from orchestrator.running.record import read_record
from orchestrator.running.resume import uncollected
from orchestrator.running.room import scarce


def what_next(folder: RunFolder) -> str:
    """The commands that help with a run that failed, was interrupted, or is left to itself."""
    record = read_record(folder.ledger)
    if record.held:
        return "\n".join(_while_held(folder))
    tables = shlex.join(["python", "-m", "results", str(folder.root)])
    again = shlex.join(["python", "g5k_execution.py", "--resume", str(folder.root)])
    if uncollected(folder) is not None:
        return f"to collect its files and make its tables: {again}"
    lines = [*scarce(folder.root), f"tables of what was recorded until then: {tables}"]
    if _has_checkpoint(folder):
        lines.append(f"to go on from its newest checkpoint: {again}")
    return "\n".join(lines)


def _while_held(folder: RunFolder) -> Iterator[str]:
    """Machines are still ours."""
    words = {
        "attach": "to watch it again, and collect and free everything at its end",
        "collect": "to bring home what there is now",
        "clean": "to end it, bring home what there is, and free its machines",
    }
    for verb, what in words.items():
        yield f"{what}: {shlex.join(['python', 'g5k_execution.py', verb, str(folder.root)])}"


def _has_checkpoint(folder: RunFolder) -> bool:
    """Whether machine 0, without which there is no run, knows of a set that all have saved."""
    return any(folder.machine(0).checkpoints.glob("*/set.json"))


def with_notes(planned: Plan) -> Plan:
    """The plan with notes about what is likely to go wrong."""
    return replace(planned, notes=(*planned.notes, *_walltime(planned), *hidden(planned)))


def _walltime(planned: Plan) -> Iterator[str]:
    limit, expected = planned.config.walltime_seconds, planned.estimate.seconds
    if limit is not None and expected > limit:
        yield (
            f"about {seconds_text(expected)} are expected, but the walltime of "
            f"{planned.config.walltime} ends the run before: raise it, or leave it out"
        )


def hidden(planned: Plan) -> Iterator[str]:
    """Notes on modules of Python that others import, and would get the user's file instead."""
    for folder in planned.task.search:
        with suppress(OSError):
            names = {path.stem for path in folder.glob("*.py")} & sys.stdlib_module_names
            for name in sorted(names):
                yield (
                    f"{folder / name}.py hides Python's own module {name!r} from everything that "
                    "imports it, which may fail with odd errors: rename it"
                )
