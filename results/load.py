"""Run folders, ours and those of the reference system, as tidy frames.

A tidy frame has one row per node, iteration and metric, in the columns of `TIDY_COLUMNS`. Metrics
are the value columns of `decentralizepy.runfolder.RECORD_COLUMNS`; what a node did not report has
no row, what it reported as not a number has a row with NaN.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from decentralizepy.runfolder import (
    RECORD_COLUMNS,
    MachineFolder,
    Records,
    RunFolder,
    machine_records,
)
from results.attributes import Attributes, read_attributes, read_json
from results.legacy import has_results, legacy_records
from results.spread import RunWarning, spread

#: Columns of a tidy frame, in order.
TIDY_COLUMNS: Final[dict[str, str]] = {
    "run": "name of the run folder",
    "machine": "machine that hosted the node",
    "uid": "node, 0 to n - 1; -1 is the server of a federated run",
    "iteration": "1-based training iteration after which the node was evaluated",
    "metric": "what was measured",
    "value": "its value, in the metric's unit",
}
_KEYS: Final = ("iteration", "uid", "machine", "rank")
_LARGEST: Final = 2**63 - 1


class NothingRecordedError(ValueError):
    """A run that has ended well without an evaluation, as it was told to."""


@dataclass(frozen=True)
class Run:
    """One run: its tidy frame and what its folder says about it."""

    name: str
    folder: Path
    experiment: str
    frame: pd.DataFrame
    attributes: Attributes
    provenance: dict[str, Any]

    @property
    def nodes(self) -> int:
        """How many nodes reported; a federated server is none."""
        return int(self.frame.loc[self.frame["uid"] >= 0, "uid"].nunique())

    @cached_property
    def gone(self) -> dict[int, int]:
        """Nodes that left during the run, each with the last iteration that it took part in."""
        return _departures(self.provenance)

    @cached_property
    def nodes_left(self) -> int:
        """How many of the nodes were still there at the end."""
        uids = self.frame["uid"]
        return int(uids[(uids >= 0) & ~uids.isin([*self.gone])].nunique())

    @property
    def machines(self) -> int:
        return int(self.frame["machine"].nunique())

    @property
    def simulated(self) -> bool:
        """Whether its seconds are simulated ones."""
        return bool(self.provenance.get("simulation"))

    @cached_property
    def over_nodes(self) -> pd.DataFrame:
        """Statistics over the nodes per iteration and metric: see `results.spread.spread`."""
        return spread(self.frame, self.name, self.gone)


def load(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Run folders as one tidy frame; raises ValueError for a folder that is none."""
    return tidy(load_runs(folders))


def tidy(runs: Sequence[Run]) -> pd.DataFrame:
    """The frames of some runs below one another."""
    return pd.concat([run.frame for run in runs], ignore_index=True)


def load_runs(folders: Iterable[str | Path]) -> list[Run]:
    """Read run folders, each once; the name of a run is as much of its path as tells it apart."""
    paths = list(dict.fromkeys(Path(folder).resolve() for folder in folders))
    if not paths:
        raise ValueError("no run folder was given")
    return [load_run(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def load_run(folder: str | Path, name: str | None = None) -> Run:
    """Read a run folder, or the folder of a single machine.

    Warns (`RunWarning`) of what had to be left out; raises ValueError when nothing is left.
    """
    root = Path(folder).resolve()
    machines = _machines(root)
    name = name or _names([root])[0]
    rows = _rows(machines, name)
    if not rows and _ended_without_records(machines):
        raise NothingRecordedError(
            f"{folder}: the run has ended well and evaluated nothing, as it was told to: there is "
            "nothing to draw"
        )
    if not rows:
        raise ValueError(f"{folder}: no node has recorded anything yet (no complete record found)")
    run, first = RunFolder(root), next(iter(machines.values()))
    config = read_json(run.config)
    return Run(
        name=name,
        folder=root,
        experiment=str(config.get("job_name") or name),
        frame=_tidy_frame(rows, name),
        attributes=read_attributes(run, first),
        provenance=read_json(first.run),
    )


def _ended_without_records(machines: Mapping[int, MachineFolder]) -> bool:
    files = [f for m in machines.values() for f in (*m.all_records(), *m.all_results())]
    ends = [read_json(machine.run).get("outcome") for machine in machines.values()]
    return set(ends) == {"done"} and not any(file.stat().st_size for file in files)


def _departures(provenance: Mapping[str, Any]) -> dict[int, int]:
    """What ``membership`` of a ``run.json`` tells; its ``before`` counts iterations from 0."""
    epochs = provenance.get("membership")
    epochs = epochs if isinstance(epochs, list) else []
    sane = [
        (epoch["left"], epoch["before"])
        for epoch in epochs
        if isinstance(epoch, dict)
        and isinstance(epoch.get("left"), list)
        and type(epoch.get("before")) is int
    ]
    return {uid: before for left, before in sane for uid in left if type(uid) is int}


def _names(paths: Sequence[Path]) -> list[str]:
    depth = 1
    while True:
        names = ["-".join(_telling(path)[-depth:]) for path in paths]
        if len(set(names)) == len(names) or depth > max(len(path.parts) for path in paths):
            return names
        depth += 1


def _telling(path: Path) -> list[str]:
    """The parts of a path, where ``machine0`` alone would say nothing: that is ``run-machine0``."""
    parts = [part for part in path.parts if part != path.anchor] or ["run"]
    if len(parts) > 1 and re.fullmatch(r"machine\d+", parts[-1]):
        parts[-2:] = [f"{parts[-2]}-{parts[-1]}"]
    return parts


def _machines(root: Path) -> dict[int, MachineFolder]:
    if not root.is_dir():
        kind = "not a folder" if root.exists() else "no such folder"
        raise ValueError(f"{root}: {kind}")
    if machines := RunFolder(root).machines():
        return machines
    alone = MachineFolder(root)
    if alone.all_records() or has_results(alone) or alone.run.is_file():
        return {_machine_id(alone): alone}
    raise ValueError(_not_a_run(root))


def _machine_id(alone: MachineFolder) -> int:
    said = read_json(alone.args).get("machine_id")
    named = re.fullmatch(r"machine(\d+)", alone.root.name)
    if type(said) is int and 0 <= said <= _LARGEST:
        return said
    return int(named.group(1)) if named else 0


def _not_a_run(root: Path) -> str:
    inner = [child for child in sorted(root.iterdir()) if child.is_dir()]
    runs = [child.name for child in inner if RunFolder(child).machines()]
    what = "holds neither machine<m> folders nor records_<w>.jsonl or <rank>_results.json"
    if not runs:
        return f"{root}: not a run folder: it {what}"
    return f"{root}: not a run folder but {len(runs)} of them ({runs[0]}, ...): name these instead"


def _rows(machines: Mapping[int, MachineFolder], name: str) -> list[dict[str, Any]]:
    if any(machine.all_records() for machine in machines.values()):
        records, unit = _recorded(machines), "broken or cut line(s) in the records"
    else:
        records, unit = legacy_records(machines), "results file(s) that are cut or empty"
    if records.broken:
        _warn(f"{name}: left out {records.broken} {unit}")
    rows = {(row["uid"], row["iteration"]): row for row in records.rows}
    if len(rows) < len(records.rows):
        twice = len(records.rows) - len(rows)
        _warn(f"{name}: {twice} record(s) stand on two machines; the later machine's are used")
    return list(rows.values())


def _warn(message: str) -> None:
    warnings.warn(message, RunWarning, stacklevel=2)


def _recorded(machines: Mapping[int, MachineFolder]) -> Records:
    rows: list[dict[str, Any]] = []
    broken = 0
    for machine, folder in machines.items():
        found = machine_records(folder)
        sane = [row | {"machine": machine} for row in found.rows if _sane(row)]
        broken += found.broken + len(found.rows) - len(sane)
        rows += sane
    return Records(rows, broken)


def _sane(row: Mapping[str, Any]) -> bool:
    return 0 <= row["uid"] <= _LARGEST and 0 <= row["iteration"] <= _LARGEST


def _tidy_frame(rows: Sequence[Mapping[str, Any]], run: str) -> pd.DataFrame:
    keys = {key: np.array([row[key] for row in rows], np.int64) for key in _KEYS[:3]}
    parts = [_metric_part(rows, keys, metric) for metric in _metrics(rows)]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*TIDY_COLUMNS])
    frame["run"] = run
    return frame[[*TIDY_COLUMNS]]


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Value columns, in the order of `RECORD_COLUMNS`, then columns we do not know."""
    present = set().union(*(row.keys() for row in rows)).difference(_KEYS)
    known = [column for column in RECORD_COLUMNS if column in present]
    return known + sorted(present.difference(known))


def _metric_part(
    rows: Sequence[Mapping[str, Any]], keys: Mapping[str, np.ndarray], metric: str
) -> pd.DataFrame:
    values = [_number(row.get(metric)) for row in rows]
    there = np.array([value is not None for value in values])
    part = pd.DataFrame({key: column[there] for key, column in keys.items()})
    part["metric"] = metric
    part["value"] = np.array([value for value in values if value is not None], np.float64)
    return part.sort_values(["iteration", "uid"], ignore_index=True)


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON knows integers of any size
        return math.inf if value > 0 else -math.inf
