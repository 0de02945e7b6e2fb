"""Folders of the reference system, which hold ``<rank>_results.json`` and no records.

Such a file maps each metric to ``{iteration as text: value}``. It carries no node id: nodes are
numbered by machine, then rank, as that system's mappings do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import LEGACY_RESULTS, MachineFolder, Records

#: uid of the server of a federated run (its rank is negative too)
SERVER: Final = -1
_COLUMNS: Final = {name: column for column, name in LEGACY_RESULTS.items()}


def legacy_records(machines: Mapping[int, MachineFolder]) -> Records:
    """The results files of a run as records; ``broken`` counts files that are cut or no results."""
    rows: list[dict[str, Any]] = []
    broken = 0
    for machine, first_uid in _first_uids(machines).items():
        for rank, path in _results(machines[machine]):
            uid = rank if rank < 0 else first_uid + rank
            place = {"uid": uid, "machine": machine, "rank": rank}
            found = list(_node_rows(read_object(path), place))
            broken += not found
            rows += found
    return Records(rows, broken)


def has_results(folder: MachineFolder) -> bool:
    return any(True for _ in _results(folder))


def _results(folder: MachineFolder) -> Iterator[tuple[int, Path]]:
    """(rank, file) of a machine, in order; the server of a federated run has a negative rank."""
    found = ((re.fullmatch(r"(-?\d+)_results", p.stem), p) for p in folder.all_results())
    return iter(sorted((int(match.group(1)), path) for match, path in found if match))


def _first_uids(machines: Mapping[int, MachineFolder]) -> dict[int, int]:
    """The uid of rank 0 of every machine, from the placement in ``args.json`` or by counting."""
    first: dict[int, int] = {}
    counted = 0
    for machine in sorted(machines):
        args = read_object(machines[machine].args)
        planned = _planned_first_uid(args.get("procs_per_machine"), machine)
        first[machine] = counted if planned is None else planned
        ranks = [rank for rank, _ in _results(machines[machine]) if rank >= 0]
        counted = first[machine] + max(ranks, default=-1) + 1
    return first


def _planned_first_uid(procs: Any, machine: int) -> int | None:
    counts = procs if isinstance(procs, list) else [procs]
    if not counts or not all(type(count) is int for count in counts):
        return None
    if len(counts) == 1:
        return int(counts[0]) * machine
    return sum(counts[:machine]) if machine < len(counts) else None


def _node_rows(results: Mapping[str, Any], place: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    series = {_COLUMNS.get(name, name): dict(_points(points)) for name, points in results.items()}
    for iteration in sorted(set().union(*series.values())):
        values = {name: points[iteration] for name, points in series.items() if iteration in points}
        yield {"iteration": iteration, **place, **values}


def _points(points: Any) -> Iterable[tuple[int, float]]:
    if not isinstance(points, dict):
        return
    for iteration, value in points.items():
        if iteration.isdecimal() and len(iteration) < 19 and isinstance(value, int | float):
            yield int(iteration), value
