"""What machines took, joined to iterations: CPU, memory, network and energy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from decentralizepy.jsonfile import parse_object
from decentralizepy.runfolder import MachineFolder, RunFolder

if TYPE_CHECKING:
    from results.load import Run

#: Counters of ``usage.jsonl``: they begin at 0 with every command.
COUNTERS: Final = ("cpu_s", "sent_bytes", "received_bytes")
MEMORY: Final = "memory_bytes"
ENERGY: Final = "energy_j"
COLUMNS: Final = (*COUNTERS, MEMORY, ENERGY)


def usage(run: Run) -> pd.DataFrame:
    """One row per evaluated iteration; columns are those of `COLUMNS` that were sampled.

    Each is the sum over the machines: counters and energy since the first training step,
    memory the most since the iteration before. Empty without samples, and for simulated time.
    """
    ends = _ends(run)
    machines = RunFolder(run.folder).machines() or {0: MachineFolder(run.folder)}
    tables = [_of_machine(machine, ends) for machine in machines.values()]
    if run.simulated or not tables or any(table is None for table in tables):
        return pd.DataFrame(index=ends.index)
    found = [table for table in tables if table is not None]
    shared = [name for name in COLUMNS if all(name in table for table in found)]
    return pd.DataFrame(sum((table[shared] for table in found[1:]), start=found[0][shared]))


def joules(run: Run) -> pd.Series:
    """Joules since the start by iteration: as measured at the machines, else as recorded by nodes;
    empty without either."""
    if ENERGY in run.usage:
        return run.usage[ENERGY]
    if (ENERGY, "sum") in run.over_nodes:
        return run.over_nodes[ENERGY, "sum"]
    return pd.Series(dtype=float)


def _ends(run: Run) -> pd.Series:
    """Seconds since the first training step until the last node had done each iteration."""
    if ("elapsed_s", "max") not in run.over_nodes:
        return pd.Series(dtype=float)
    return run.over_nodes["elapsed_s", "max"].dropna()


def _of_machine(machine: MachineFolder, ends: pd.Series) -> pd.DataFrame | None:
    samples = _timed(_read(machine.usage, ("time", "elapsed_s", *COUNTERS, MEMORY)))
    if len(samples) < 2 or ends.empty:
        return None
    elapsed, at = samples["elapsed_s"].to_numpy(), ends.to_numpy()
    from_start = np.concatenate([[0.0], at])
    columns = {}
    for name in COUNTERS:
        counts = np.interp(from_start, elapsed, samples[name])
        columns[name] = counts[1:] - counts[0]
    memory, spans = samples[MEMORY].to_numpy(), zip(from_start[:-1], at, strict=True)
    columns[MEMORY] = np.array([_most(elapsed, memory, *span) for span in spans])
    power = _trained_power(_read(machine.power, ("time", "watts")).dropna(), samples)
    if len(power) > 1:
        columns[ENERGY] = energy(power["at"].to_numpy(), power["watts"].to_numpy(), from_start)[1:]
    return pd.DataFrame(columns, index=ends.index)


def _timed(samples: pd.DataFrame) -> pd.DataFrame:
    """Samples by growing ``elapsed_s``: those before training at negative seconds, none of those
    after its end, nor of what was done again after a restart. Counters go on over restarts."""
    samples = samples.dropna(subset=["time", *COUNTERS, MEMORY])
    samples = samples.assign(**{name: _total(samples[name]) for name in COUNTERS})
    trained = samples[samples["elapsed_s"].notna()]
    if trained.empty:
        return trained
    samples = samples[samples["elapsed_s"].notna() | (samples.index < trained.index[0])]
    before = samples["time"] - (trained["time"].iloc[0] - trained["elapsed_s"].iloc[0])
    elapsed = np.maximum.accumulate(samples["elapsed_s"].fillna(before).to_numpy())
    _, first = np.unique(elapsed, return_index=True)
    return samples.assign(elapsed_s=elapsed).iloc[first]


def _trained_power(power: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """Power by seconds of training (``at``); what was drawn between two starts is left out."""
    time, elapsed = samples["time"].to_numpy(), samples["elapsed_s"].to_numpy()
    when = power["time"].to_numpy()
    last = np.clip(np.searchsorted(time, when, side="right") - 1, 0, None)
    at = elapsed[last] + when - time[last]
    until = np.append(elapsed[1:], np.inf)[last]
    return power.assign(at=at)[at <= until + 0.1].sort_values("at")


def _total(counter: pd.Series) -> np.ndarray:
    """Growth since the first sample of a counter that may begin anew at 0."""
    values = counter.to_numpy(dtype=float)
    if not len(values):
        return values
    steps = np.diff(values)
    grown = np.where(steps < 0, values[1:], steps)
    return np.concatenate([[0.0], np.cumsum(grown)])


def _most(elapsed: np.ndarray, values: np.ndarray, begin: float, end: float) -> float:
    """The highest value between two times, both interpolated."""
    inside = values[(elapsed > begin) & (elapsed < end)]
    return float(max([*np.interp([begin, end], elapsed, values), *inside]))


def energy(time: np.ndarray, watts: np.ndarray, when: np.ndarray) -> np.ndarray:
    """Joules from ``when[0]`` to each of ``when``: the integral of power, linear in between.

    Before the first and after the last value, power is taken to be that value.
    """
    lowest, highest = min(time[0], when.min()) - 1.0, max(time[-1], when.max()) + 1.0
    time = np.concatenate([[lowest], time, [highest]])
    watts = np.concatenate([watts[:1], watts, watts[-1:]])
    at = np.union1d(time, when)
    power = np.interp(at, time, watts)
    joules = np.concatenate([[0.0], np.cumsum(np.diff(at) * (power[1:] + power[:-1]) / 2)])
    found = np.interp(when, at, joules)
    return np.asarray(found - found[0])


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """These numbers of each line, NaN where one is missing; a line that was cut is left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        lines = []
    rows = [
        [_number(row.get(name)) for name in columns]
        for line in lines
        if (row := parse_object(line))
    ]
    return pd.DataFrame(rows, columns=list(columns), dtype=float)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
