"""Run folders, ours and those of the reference system, as records and settings.

`Run.records` has one row per node and iteration (see `results.records`). Metrics are whatever
numbers the records carry: null is what a node did not report, NaN what it reported as no number.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import MachineFolder, RunFolder
from results.attributes import Attributes, read_attributes
from results.legacy import has_results, legacy_records
from results.records import Recorded, from_rows, metrics, read_machines
from results.spread import RunWarning, spread
from results.usage import usage

_LARGEST: Final = 2**63 - 1
#: What `results` itself leaves in a folder.
_OUTPUT: Final = ("tables", "figures")


class NothingRecordedError(ValueError):
    """A run that has ended well without an evaluation, as it was told to."""


class OutputFolderError(ValueError):
    """A folder with tables and figures of runs, and no run in it."""


@dataclass(frozen=True)
class Run:
    """One run: its records, sorted by iteration and node, and what its folder says about it."""

    name: str
    folder: Path
    experiment: str
    records: pa.Table
    attributes: Attributes
    provenance: dict[str, Any]

    @property
    def metrics(self) -> list[str]:
        """The metrics that the run recorded, known ones first."""
        return metrics(self.records)

    @cached_property
    def uids(self) -> np.ndarray:
        """The nodes that reported, without servers."""
        uids = np.unique(self.records["uid"].to_numpy())
        return uids[uids >= 0]

    @property
    def nodes(self) -> int:
        """How many nodes reported; servers are none."""
        return len(self.uids)

    @cached_property
    def gone(self) -> dict[int, int]:
        """Nodes that left during the run, each with the last iteration that it took part in."""
        return _departures(self.provenance)

    @property
    def nodes_left(self) -> int:
        """How many of the nodes were still there at the end."""
        return int((~np.isin(self.uids, [*self.gone])).sum())

    @property
    def machines(self) -> int:
        return len(np.unique(self.records["machine"].to_numpy()))

    @property
    def outcome(self) -> str:
        """How it ended: done, failed or interrupted; running if it has not; empty if untold."""
        return str(self.provenance.get("outcome", ""))

    @property
    def simulated(self) -> bool:
        """Whether its seconds are simulated ones."""
        return bool(self.provenance.get("simulation"))

    @cached_property
    def over_nodes(self) -> pd.DataFrame:
        """Statistics over the nodes per iteration and metric: see `results.spread.spread`."""
        return spread(self.records, self.name, self.gone)

    @cached_property
    def usage(self) -> pd.DataFrame:
        """What machines took by each evaluated iteration: see `results.usage.usage`."""
        return usage(self)


@dataclass
class Loaded:
    """Runs that could be read, and why others could not, by folder."""

    runs: list[Run] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    skipped: dict[Path, str] = field(default_factory=dict)


def load_each(folders: Iterable[str | Path]) -> Loaded:
    """Read run folders like `load_runs`, but go on after one that cannot be read.

    ``skipped`` are folders with tables and figures only, as they lie among runs.
    """
    loaded = Loaded()
    for path, name in _named(folders).items():
        try:
            loaded.runs.append(load_run(path, name))
        except OutputFolderError as error:
            loaded.skipped[path] = str(error)
        except (ValueError, OSError) as error:
            loaded.failed[path] = str(error)
    return loaded


def load_runs(folders: Iterable[str | Path]) -> list[Run]:
    """Read run folders, each once; the name of a run is as much of its path as tells it apart."""
    return [load_run(path, name) for path, name in _named(folders).items()]


def _named(folders: Iterable[str | Path]) -> dict[Path, str]:
    paths = list(dict.fromkeys(Path(folder).resolve() for folder in folders))
    if not paths:
        raise ValueError("no run folder was given")
    return dict(zip(paths, _names(paths), strict=True))


def newest(folder: str | Path) -> Path:
    """The run folder in ``folder`` that was started last.

    Raises ValueError if there is none.
    """
    root = Path(folder).resolve()
    runs = [folder for folder in root.glob("*") if RunFolder(folder).machines()]
    if not runs:
        raise ValueError(f"{root} holds no run folder yet: `make run` makes one in half a minute")
    return max(runs, key=_started)


def _started(folder: Path) -> tuple[str, str]:
    first = next(iter(RunFolder(folder).machines().values()))
    return str(read_object(first.run).get("started", "")), folder.name


def load_run(folder: str | Path, name: str | None = None) -> Run:
    """Read a run folder, or the folder of a single machine.

    Warns (`RunWarning`) of what had to be left out; raises ValueError when nothing is left.
    """
    root = Path(folder).resolve()
    machines = _machines(root)
    name = name or _names([root])[0]
    records = _records(machines, name)
    if not records.num_rows and _ended_without_records(machines):
        raise NothingRecordedError(
            f"{folder}: the run has ended well and evaluated nothing, as it was told to: there is "
            "nothing to draw"
        )
    if not records.num_rows:
        raise ValueError(f"{folder}: no node has recorded anything yet (no complete record found)")
    run, first = RunFolder(root), next(iter(machines.values()))
    config = read_object(run.config)
    return Run(
        name=name,
        folder=root,
        experiment=str(config.get("job_name") or name),
        records=records,
        attributes=read_attributes(run, first),
        provenance=read_object(first.run),
    )


def _ended_without_records(machines: Mapping[int, MachineFolder]) -> bool:
    files = [f for m in machines.values() for f in (*m.all_records(), *m.all_results())]
    ends = [read_object(machine.run).get("outcome") for machine in machines.values()]
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
    if root.name in _OUTPUT or any((root / name).is_dir() for name in _OUTPUT):
        raise OutputFolderError(f"{root}: tables and figures only, no run")
    raise ValueError(_not_a_run(root))


def _machine_id(alone: MachineFolder) -> int:
    said = read_object(alone.args).get("machine_id")
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


def _records(machines: Mapping[int, MachineFolder], name: str) -> pa.Table:
    if any(machine.all_records() for machine in machines.values()):
        found, unit = read_machines(machines), "broken or cut line(s) in the records"
    else:
        found = from_rows(legacy_records(machines))
        unit = "results file(s) that are cut or empty"
    _tell(found, name, unit)
    return found.table


def _tell(found: Recorded, name: str, unit: str) -> None:
    if found.broken:
        _warn(f"{name}: left out {found.broken} {unit}")
    if found.twice:
        _warn(
            f"{name}: {found.twice} record(s) stand on two machines; the later machine's are used"
        )


def _warn(message: str) -> None:
    warnings.warn(message, RunWarning, stacklevel=2)
