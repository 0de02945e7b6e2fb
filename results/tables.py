"""Tables of runs: the wide CSV people open, and a comparison's runs and settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from results.csvfile import write_csv
from results.curves import BYTES, SECONDS
from results.interval import half_width_95
from results.load import Run
from results.metrics import is_evaluation, is_mark, is_own
from results.privacy import by_iteration, noise
from results.reference_columns import settings_of, with_statistics
from results.settings import Setting
from results.targets import Target, as_targets, costs, reached, window_mean

#: metric -> its name in the wide table, where it keeps the reference system's
WIDE_METRICS: Final[dict[str, str]] = {
    "train_loss": "train_loss",
    "test_loss": "test_loss",
    "test_acc": "test_acc",
    "validation_loss": "validation_loss",
    "validation_acc": "validation_acc",
    "total_bytes": "total_bytes",
    "total_meta": "total_meta",
    "total_data": "total_data_per_n",
}
#: Statistics over the nodes, in the wide table's order; std has ddof = 1.
WIDE_STATISTICS: Final = ("mean", "std", "sum", "min", "max", "percentile_50", "percentile_95")


def wide(run: Run) -> pd.DataFrame:
    """One row per evaluated iteration of a run.

    Columns: iteration; ``<metric> <statistic>`` for the metrics that were recorded, those of
    `WIDE_METRICS` first, and the `WIDE_STATISTICS` over the nodes; what was sampled of the
    machines (`results.usage`); experience_name; number_agents;
    then the run's attributes, also in the words of the reference system's notebooks.
    """
    statistics = run.over_nodes
    columns: dict[str, Any] = {"iteration": statistics.index}
    for metric in _wide_order(run):
        for statistic in WIDE_STATISTICS:
            name = f"{WIDE_METRICS.get(metric, metric)} {statistic}"
            columns[name] = statistics[metric, statistic].to_numpy()
    table = with_statistics(_with_attacks(_with_usage(pd.DataFrame(columns), run), run))
    constants = {"experience_name": run.experiment, "number_agents": run.nodes,
                 **run.attributes, **noise(run.attributes), **settings_of(run)}  # fmt: skip
    return table.assign(**{key: v for key, v in constants.items() if key not in table.columns})


def _with_usage(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The table with what all machines had taken by then (`results.usage`)."""
    taken = run.usage
    return table.merge(taken, left_on="iteration", right_index=True, how="left")


def _with_attacks(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The table with the statistics of attacks, also of iterations without an evaluation."""
    found = by_iteration(run)
    if found.empty:
        return table
    return table.merge(found.reset_index(), on="iteration", how="outer").sort_values("iteration")


def _wide_order(run: Run) -> list[str]:
    recorded = [m for m in run.metrics if m in run.over_nodes and not is_mark(m)]
    known = [metric for metric in WIDE_METRICS if metric in recorded]
    return known + [metric for metric in recorded if metric not in WIDE_METRICS]


def final(run: Run, metric: str) -> pd.Series | None:
    """Statistics over the nodes when a metric was last recorded; None if it never was.

    The series' name is the iteration.
    """
    if metric not in run.over_nodes:
        return None
    statistics = pd.DataFrame(run.over_nodes[metric])
    there = statistics[statistics["mean"].notna()]
    return None if there.empty else there.iloc[-1]


def compared_metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics of a comparison's tables: evaluations, consensus distance, programs' own."""
    every = dict.fromkeys(metric for run in runs for metric in run.metrics)
    return [m for m in every if is_evaluation(m) or is_own(m) or m == "consensus_distance"]


def runs_table(compared: Sequence[Setting]) -> pd.DataFrame:
    """One row per run of a comparison.

    Columns: run, experiment, setting (its label), outcome, error, nodes, nodes_left, machines,
    evaluations, iteration (the last one); ``<metric> mean`` and ``<metric> std`` over the nodes at
    the end of it; bytes_per_node, bytes (of all nodes), wire_bytes (that crossed to other machines,
    of all nodes), seconds (until the last node had done the last iteration), simulated; then the
    runs' attributes. What was not recorded is NaN.
    """
    runs = [(setting.label, run) for setting in compared for run in setting.runs]
    metrics = compared_metrics([run for _, run in runs])
    rows = [_run_row(label, run, metrics) for label, run in runs]
    table = pd.DataFrame(rows)
    attributes = pd.DataFrame([run.attributes for _, run in runs], dtype=object)
    names = {name: f"{name} (setting)" for name in attributes if name in table}
    return table.join(attributes.rename(columns=names))


def _run_row(label: str, run: Run, metrics: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": run.name,
        "experiment": run.experiment,
        "setting": label,
        "outcome": run.outcome,
        "error": run.provenance.get("error"),
        "nodes": run.nodes,
        "nodes_left": run.nodes_left,
        "machines": run.machines,
        "evaluations": len(run.over_nodes),
        "iteration": run.over_nodes.index[-1],
    }
    for metric in metrics:
        last = final(run, metric)
        row[f"{metric} mean"] = np.nan if last is None else last["mean"]
        row[f"{metric} std"] = np.nan if last is None else last["std"]
    return row | _spent(run)


def _spent(run: Run) -> dict[str, Any]:
    """Bytes and seconds of a run when it was last evaluated."""
    wanted = {
        BYTES: ("total_bytes", "mean"),
        "bytes": ("total_bytes", "sum"),
        "wire_bytes": ("wire_bytes", "sum"),
        SECONDS: ("elapsed_s", "max"),
    }
    last = run.over_nodes.iloc[-1]
    spent = {name: last.get(column, np.nan) for name, column in wanted.items()}
    taken = run.usage
    more = {str(name): taken[name].iloc[-1] for name in taken} if len(taken) else {}
    return spent | more | {"simulated": run.simulated}


def settings_table(
    compared: Sequence[Setting], targets: Sequence[float | Target] = (), window: int = 0
) -> pd.DataFrame:
    """One row per setting of a comparison.

    Columns: setting, n (runs, one per seed), runs (their names), seeds, iteration (the last one
    after which all were evaluated); ``<metric> mean``, ``ci95_low``, ``ci95_high`` and ``n``: the
    mean over the seeds of the mean over the nodes at that iteration, its 95 % confidence interval
    (Student's t, NaN for one seed), and how many seeds have a finite number; the same for
    bytes_per_node and seconds. With ``window``, the same for ``<metric> last<window>``, each
    seed's mean over its last so many evaluations. For each target (numbers are per cent of test
    accuracy), the same for seconds, iteration, bytes_per_node and, where recorded, energy_j (of
    all nodes) when a seed first reached it, over the n seeds that did.
    """
    runs = [run for setting in compared for run in setting.runs]
    asked = _Asked(compared_metrics(runs), as_targets(targets), costs(runs), window)
    return pd.DataFrame([_setting_row(setting, asked) for setting in compared])


@dataclass(frozen=True)
class _Asked:
    metrics: Sequence[str]
    targets: Sequence[Target]
    costs: Sequence[str]
    window: int


def _setting_row(setting: Setting, asked: _Asked) -> dict[str, Any]:
    runs = setting.runs
    row: dict[str, Any] = {
        "setting": setting.label,
        "n": len(runs),
        "runs": " ".join(run.name for run in runs),
        "seeds": " ".join(str(run.attributes.get("random_seed", "?")) for run in runs),
        "iteration": setting.shared[-1],
    }
    wanted = {metric: (metric, "mean") for metric in asked.metrics}
    wanted |= {BYTES: ("total_bytes", "mean"), SECONDS: ("elapsed_s", "max")}
    for name, column in wanted.items():
        row |= _interval(name, [_last_shared(setting, run, column) for run in runs])
    for metric in asked.metrics if asked.window else ():
        means = [window_mean(run, metric, asked.window) for run in runs]
        row |= _interval(f"{metric} last{asked.window}", means)
    for target in asked.targets:
        each = [reached(run, target) for run in runs]
        for what in asked.costs:
            row |= _interval(f"{what} to {target.label}", [one.get(what, np.nan) for one in each])
    return row


def _last_shared(setting: Setting, run: Run, column: tuple[str, str]) -> float:
    """A run's value at the last shared iteration at which it was recorded."""
    if column not in run.over_nodes:
        return np.nan
    values = run.over_nodes[column].loc[setting.shared].to_numpy()
    recorded = values[run.over_nodes[column[0], "count"].loc[setting.shared].notna().to_numpy()]
    return float(recorded[-1]) if len(recorded) else np.nan


def _interval(name: str, values: Sequence[float]) -> dict[str, float]:
    finite = np.array([value for value in values if np.isfinite(value)])
    mean = finite.mean() if len(finite) else np.nan
    half = half_width_95(finite[None, :])[0]
    return {
        f"{name} mean": mean,
        f"{name} ci95_low": mean - half,
        f"{name} ci95_high": mean + half,
        f"{name} n": len(finite),
    }


def time_to_accuracy(runs: Sequence[Run], targets: Sequence[float | Target]) -> pd.DataFrame:
    """When each run first had a mean, over its nodes, as good as each target.

    One row per run and target; numbers are per cent of test accuracy. Columns: run; target;
    seconds since the first training step until the last node had done the iteration (simulated
    ones in a simulated run); iteration; bytes_per_node, the mean over the nodes of what they had
    sent; energy_j of all nodes, where it was recorded; simulated; metric. A target that was never
    reached, or a column that was not recorded, is NaN.
    """
    rows = [
        {"run": run.name, "target": target.value, "simulated": run.simulated,
         "metric": target.metric, **reached(run, target)}
        for run in runs
        for target in as_targets(targets)
    ]  # fmt: skip
    columns = ["run", "target", *costs(runs), "simulated", "metric"]
    return pd.DataFrame(rows, columns=columns)


def write_wide(run: Run, path: Path) -> Path:
    """Write the wide table of a run as CSV."""
    return write_csv(wide(run), path)


def file_name(title: str) -> str:
    """What an experiment or a run is called, as a file may be."""
    return re.sub(r"[^\w.=+-]+", "_", title).strip(".") or "run"
