"""A sweep in words: the list of its runs, and what those that are left take."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentralizepy.text import bytes_text, plural, seconds_text
from orchestrator.sweep.planned import PlannedCell, PlannedSweep


@dataclass(frozen=True)
class Totals:
    """What some runs take together; ``bytes_sent`` is None where one of them is not known."""

    runs: int
    seconds: float
    node_hours: float
    bytes_sent: int | None
    disk_bytes: int


def totals(cells: Sequence[PlannedCell], parallel: int) -> Totals:
    """Sums over the cells; seconds as they run, ``parallel`` at a time."""
    sent = [cell.plan.traffic.total_bytes for cell in cells]
    known = [each for each in sent if each is not None]
    return Totals(
        runs=len(cells),
        seconds=sum(cell.estimated_s for cell in cells) / parallel,
        node_hours=round(sum(cell.plan.estimate.node_hours for cell in cells) / parallel, 4),
        bytes_sent=sum(known) if len(known) == len(sent) else None,
        disk_bytes=sum(cell.disk_bytes for cell in cells),
    )


def describe(sweep: PlannedSweep, states: Mapping[str, str], todo: Sequence[PlannedCell]) -> str:
    """The list with how far each run came, and what is to be done."""
    width = max(len(cell.cell.name) for cell in sweep.cells)
    lines = [f"sweep of {plural(len(sweep.cells), 'run')} in {sweep.folder}"]
    for cell in sweep.cells:
        sent = cell.plan.traffic.total_bytes
        told = "bytes not known" if sent is None else f"{bytes_text(sent)} sent"
        lines.append(
            f"  {cell.number:>3}  {cell.cell.name:<{width}}  {states[cell.name]:<6}  about "
            f"{seconds_text(cell.estimated_s)}, {told}"
        )
    return "\n".join([*lines, *_sums(sweep, todo)])


def _sums(sweep: PlannedSweep, todo: Sequence[PlannedCell]) -> list[str]:
    sums = totals(todo, sweep.parallel)
    sent = "a number of bytes that is not known" if sums.bytes_sent is None else (
        f"{bytes_text(sums.bytes_sent)}"
    )  # fmt: skip
    free = free_bytes(sweep.folder)
    return [
        f"to run    {plural(sums.runs, 'run')}, {sweep.parallel} at a time, in one reservation of "
        f"{plural(sweep.biggest.config.NB_MACHINE, 'machine')}",
        f"expected  about {seconds_text(sums.seconds)} and {sums.node_hours:g} node-hours, checks "
        f"and figures left out; {sent} sent",
        f"disk      about {bytes_text(sums.disk_bytes)} of {bytes_text(free)} that are free",
    ]


def free_bytes(folder: Path) -> int:
    """Free space where a folder is, or will be."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def as_dict(
    sweep: PlannedSweep, states: Mapping[str, str], told: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The same as JSON, with what is ``told`` of each cell beside: `sweep.json`, and ``--json``."""
    cells = [
        {
            **told.get(cell.name, {}),
            "number": cell.number,
            "name": cell.cell.name,
            "run_folder": str(cell.folder.root),
            "state": states[cell.name],
            "chosen": dict(cell.cell.chosen),
            "planned_seconds": cell.estimated_s,
            "planned_bytes": cell.plan.traffic.total_bytes,
            "disk_bytes": cell.disk_bytes,
        }
        for cell in sweep.cells
    ]
    value = {"sweep_folder": str(sweep.folder), "config_path": str(sweep.path), "cells": cells}
    plain: dict[str, Any] = json.loads(json.dumps(value, default=str))
    return plain
