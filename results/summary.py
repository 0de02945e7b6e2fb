"""The few lines that tell how a run went."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.load import Run
from results.style import human_bytes


def summary(run: Run) -> str:
    """Nodes, length, final accuracy and bytes of a run, what diverged, and whether it ended."""
    lines = [*_accuracy(run), *_bytes(run), *_diverged(run), *_outcome(run)]
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


def final_accuracy(run: Run) -> pd.Series | None:
    """Statistics over the nodes of the last test accuracy (per cent); None if never tested."""
    if "test_acc" not in run.over_nodes:
        return None
    accuracy = pd.DataFrame(run.over_nodes["test_acc"])
    tested = accuracy[accuracy["mean"].notna()]
    return None if tested.empty else tested.iloc[-1]


def _accuracy(run: Run) -> list[str]:
    final = final_accuracy(run)
    if final is None:
        return ["  no test accuracy was recorded"]
    values = "   ".join(f"{name} {final[name]:.2f} %" for name in ("mean", "min", "max"))
    metrics = run.frame.loc[run.frame["uid"] >= 0, "metric"]
    by_all = final["count"] == run.nodes or "test_acc" not in set(metrics)  # a server's alone
    of = "" if by_all else f" of {_count(int(final['count']), 'node')}"
    return [f"  final test accuracy   {values}{of}   (iteration {final.name})"]


def _bytes(run: Run) -> list[str]:
    if "total_bytes" not in run.over_nodes:
        return []
    sent = run.over_nodes["total_bytes"].iloc[-1]
    each, together = human_bytes(sent["mean"]), human_bytes(sent["sum"])
    return [f"  bytes sent            {each} per node, {together} in all"]


def _diverged(run: Run) -> list[str]:
    bad = run.frame[~np.isfinite(run.frame["value"])]
    return [
        f"  not finite            {metric} of {_count(rows['uid'].nunique(), 'node')}, first at "
        f"iteration {rows['iteration'].min()}; left out of means and curves"
        for metric, rows in bad.groupby("metric", sort=False)
    ]


def _outcome(run: Run) -> list[str]:
    outcome = run.provenance.get("outcome", "done")
    if outcome == "done":
        return []
    said = "still running, or killed" if outcome == "running" else str(outcome)
    error = run.provenance.get("error")
    return [f"  outcome               {said}{f': {error}' if error else ''}"]


def reached(times: pd.DataFrame) -> list[str]:
    """The rows of `results.tables.time_to_accuracy`, one line each."""
    return [f"  {row['target']:g} % accuracy".ljust(24) + _when(row) for _, row in times.iterrows()]


def _when(row: pd.Series) -> str:
    if np.isnan(row["iteration"]):
        return f"{row['run']}: not reached"
    kind = "simulated seconds" if row["simulated"] else "s"
    took = "" if np.isnan(row["seconds"]) else f"after {row['seconds']:.4g} {kind}, "
    return f"{row['run']}: {took}iteration {row['iteration']:.0f}"


def overview(runs: Sequence[Run]) -> str:
    """One line per run: its final test accuracy; of 16 nodes, 8 left at the end are ``8/16``."""
    names = {run.name: max(len(run.name), 4) for run in runs}
    width = max(names.values())
    lines = [f"{'run':{width}}  nodes  iteration  final test accuracy: mean    min    max (%)"]
    return "\n".join(lines + [_overview_line(run, width) for run in runs])


def _overview_line(run: Run, width: int) -> str:
    final = final_accuracy(run)
    nodes = f"{run.nodes_left}/" * (run.nodes_left < run.nodes) + str(run.nodes)
    start = f"{run.name:{width}}  {nodes:>5}  {run.over_nodes.index[-1]:9}"
    if final is None:
        return f"{start}  {'not tested':>20}"
    return f"{start}  {final['mean']:25.2f}  {final['min']:5.2f}  {final['max']:5.2f}"
