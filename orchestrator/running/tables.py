"""The third room, started as a command: a run folder becomes tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from decentralizepy.runfolder import RunFolder
from orchestrator.backends.process import describe_exit, environment, start, tail, wait_all
from orchestrator.running.room import scarce

LOG: Final = "results.log"
TABLES: Final = frozenset({".csv", ".parquet"})
FIGURES: Final = frozenset({".pdf", ".html"})


@dataclass(frozen=True)
class Tables:
    """What the results room left in the run folder; ``error`` is empty if all went well."""

    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    error: str

    @property
    def ok(self) -> bool:
        return not self.error


def make_tables(command: Sequence[str], folder: RunFolder, ours: Mapping[str, str]) -> Tables:
    """Run the results room on a run folder; its failure is told, and loses nothing."""
    log = folder.root / LOG
    code = wait_all([start([*command, str(folder.root)], log, log, environment(ours))])[0]
    told = [describe_exit(code), *scarce(folder.root), tail(log, 15)] if code else []
    error = "\n".join(told)
    return Tables(_found(folder, TABLES), _found(folder, FIGURES), error)


def _found(folder: RunFolder, suffixes: frozenset[str]) -> tuple[Path, ...]:
    """Files of these kinds, those of the machines left out."""
    machines = {machine.root for machine in folder.machines().values()}
    found = (path for path in folder.root.rglob("*") if path.suffix in suffixes)
    return tuple(sorted(path for path in found if not machines & set(path.parents)))
