"""The few lines that tell how runs went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from results.load import Run
from results.metrics import ACCURACY, headlines, label, unit
from results.settings import Setting
from results.style import human_bytes
from results.tables import final, settings_table
from results.targets import Target


def summary(run: Run) -> str:
    """Nodes, length, final metrics and bytes of a run, what diverged, and whether it ended."""
    lines = [*_finals(run), *_bytes(run), *_diverged(run), *_outcome(run)]
    return "\n".join([_head(run), *lines])


def _head(run: Run) -> str:
    iterations = run.over_nodes.index
    return (
        f"{run.experiment}: {_nodes(run)} on {_count(run.machines, 'machine')}, "
        f"{_count(len(iterations), 'evaluation')} up to iteration {iterations[-1]}"
    )


def _nodes(run: Run) -> str:
    nodes = _count(run.nodes, "node")
    return nodes if run.nodes_left == run.nodes else f"{nodes} ({run.nodes_left} at the end)"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _finals(run: Run) -> list[str]:
    tested = [m for m in headlines(run.metrics) if m.startswith(("test_", "validation_"))]
    lines = [_final(run, metric) for metric in tested if final(run, metric) is not None]
    return lines or ["  no test accuracy was recorded"]


def _final(run: Run, metric: str) -> str:
    last = final(run, metric)
    assert last is not None
    sign = unit(metric)
    values = "   ".join(
        f"{name} {shown(last[name], metric)}{sign}" for name in ("mean", "min", "max")
    )
    by_nodes = pc.any(pc.and_(run.records[metric].is_valid(), _is_node(run))).as_py()
    by_all = last["count"] == run.nodes or not by_nodes  # else it is a server's alone
    of = "" if by_all else f" of {_count(int(last['count']), 'node')}"
    name = f"final {label(metric).removesuffix(' (%)').lower()}"
    return f"  {name:20}  {values}{of}   (iteration {last.name})"


def shown(number: float, metric: str) -> str:
    """A metric's value for people: percentages with two decimals, else four digits."""
    return f"{number:.2f}" if unit(metric) else f"{number:.4g}"


def _is_node(run: Run) -> pa.ChunkedArray:
    return pc.greater_equal(run.records["uid"], 0)


def _bytes(run: Run) -> list[str]:
    if "total_bytes" not in run.over_nodes:
        return []
    sent = run.over_nodes["total_bytes"].iloc[-1]
    each, together = human_bytes(sent["mean"]), human_bytes(sent["sum"])
    return [f"  bytes sent            {each} per node, {together} in all"]


def _diverged(run: Run) -> list[str]:
    lines = []
    for metric in run.metrics:
        finite = pc.is_finite(run.records[metric])
        bad = run.records.filter(pc.invert(finite))  # null, where nothing was reported, is neither
        if len(bad):
            lines.append(
                f"  not finite            {metric} of "
                f"{_count(pc.count_distinct(bad['uid']).as_py(), 'node')}, first at iteration "
                f"{pc.min(bad['iteration']).as_py()}; left out of means and curves"
            )
    return lines


def _outcome(run: Run) -> list[str]:
    if run.outcome in ("", "done"):
        return []
    said = "still running, or killed" if run.outcome == "running" else run.outcome
    error = run.provenance.get("error")
    return [f"  outcome               {said}{f': {error}' if error else ''}"]


def reached(times: pd.DataFrame) -> list[str]:
    """The rows of `results.tables.time_to_accuracy`, one line each."""
    return [
        f"  {Target(row['target'], row['metric']).words}".ljust(24) + _when(row)
        for _, row in times.iterrows()
    ]


def _when(row: pd.Series) -> str:
    if np.isnan(row["iteration"]):
        return f"{row['run']}: not reached"
    kind = "simulated seconds" if row["simulated"] else "s"
    took = "" if np.isnan(row["seconds"]) else f"after {row['seconds']:.4g} {kind}, "
    return f"{row['run']}: {took}iteration {row['iteration']:.0f}"


def overview(runs: Sequence[Run]) -> str:
    """One line per run with its final value of what is measured; of 16 nodes, 8 left is ``8/16``.

    That is the test accuracy, or the first metric of `results.metrics.headlines` that a run has.
    """
    every = dict.fromkeys(metric for run in runs for metric in run.metrics)
    metric = ACCURACY if ACCURACY in every else next(iter(headlines(every)), ACCURACY)
    width = max(max(len(run.name), 4) for run in runs)
    what = f"final {label(metric).replace(' (%)', '').lower()}"
    sign = " (%)" if unit(metric) else ""
    lines = [f"{'run':{width}}  nodes  iteration  {what + ': mean':>25}    min    max{sign}"]
    return "\n".join(lines + [_overview_line(run, metric, width) for run in runs])


def _overview_line(run: Run, metric: str, width: int) -> str:
    last = final(run, metric)
    nodes = f"{run.nodes_left}/" * (run.nodes_left < run.nodes) + str(run.nodes)
    start = f"{run.name:{width}}  {nodes:>5}  {run.over_nodes.index[-1]:9}"
    if last is None:
        return f"{start}  {'not tested':>25}"
    mean, low, high = (shown(last[name], metric) for name in ("mean", "min", "max"))
    return f"{start}  {mean:>25}  {low:>5}  {high:>5}"


def seeds(compared: Sequence[Setting]) -> list[str]:
    """The mean over seeds of each setting with several, with half of its 95 % interval."""
    several = [setting for setting in compared if len(setting.runs) > 1]
    every = dict.fromkeys(m for s in several for run in s.runs for m in run.metrics)
    metric = next(iter(headlines(every)), None)
    if metric is None or not several:
        return []
    table = settings_table(several)
    return [_seeds_line(row, metric) for _, row in table.iterrows()]


def _seeds_line(row: pd.Series, metric: str) -> str:
    name = label(metric).removesuffix(" (%)").lower()
    mean, high = row[f"{metric} mean"], row[f"{metric} ci95_high"]
    return (
        f"  {row['setting']}: {name} {shown(mean, metric)} ± {shown(high - mean, metric)}"
        f"{unit(metric)} over {row[f'{metric} n']} seeds (95 %, iteration {row['iteration']})"
    )
