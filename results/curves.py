"""The numbers behind the figures: pure functions from settings to curves.

A setting of one run gives the mean over its nodes, with the spread over the nodes. One of several
seeds gives the mean over seeds of the mean over nodes, with a 95 % band for the mean (Student's t
over the seeds).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from results.interval import half_width_95
from results.load import Run
from results.settings import Setting
from results.spread import RunWarning
from results.usage import ENERGY, joules

ITERATION: Final = "iteration"
BYTES: Final = "bytes_per_node"
SECONDS: Final = "seconds"

#: Columns of a curve, and of the CSV beside a figure.
CURVE_COLUMNS: Final[dict[str, str]] = {
    "curve": "the line of the figure, as its legend says",
    ITERATION: "1-based training iteration after which the nodes were evaluated",
    BYTES: "bytes sent since the start, mean over the nodes (over seeds: the mean of that)",
    SECONDS: "when the last node had done the iteration, since the first training step "
    "(simulated ones in a simulated run; over seeds: the mean of that)",
    ENERGY: "joules since the first training step, of all machines or nodes, where power was "
    "measured or recorded (over seeds: the mean of that)",
    "mean": "the line: mean over the nodes that reported a finite number; over seeds: the mean of "
    "the seeds' means",
    "percentile_5": "lower end of the band of one run: 5 % of the nodes are below",
    "percentile_95": "upper end of the band of one run: 5 % of the nodes are above",
    "min": "lowest node",
    "max": "highest node",
    "nodes": "how many nodes reported a finite number",
    "ci95_low": "lower end of the band over seeds: 95 % confidence interval (Student's t)",
    "ci95_high": "upper end of the band over seeds",
    "seeds": "how many seeds the mean is over: those with a finite number",
}


@dataclass(frozen=True)
class Curve:
    """A line of a figure.

    ``data`` has those of `CURVE_COLUMNS` that apply, but for ``curve``, which is ``label``;
    ``band`` and ``limits`` name the columns around the line, ``about`` says what the band is.
    ``number`` is the setting's, so that it looks the same in all figures.
    """

    label: str
    data: pd.DataFrame
    band: tuple[str, str] | None
    limits: tuple[str, str] | None
    about: str
    number: int = 0


def curves(compared: Sequence[Setting], metric: str) -> list[Curve]:
    """The curves of a metric; settings that did not record it have none.

    All bands of a figure mean the same: if a setting has several seeds, no curve tells of nodes.
    """
    over_seeds = any(len(setting.runs) > 1 for setting in compared)
    draw = _seed_curve if over_seeds else _node_curve
    return [draw(setting, metric) for setting in compared if setting.seeds(metric)]


def _node_curve(setting: Setting, metric: str) -> Curve:
    (run,) = setting.runs
    label, number = setting.label, setting.number
    statistics = run.over_nodes[metric]
    data = _start(run)
    for name in ("mean", "percentile_5", "percentile_95", "min", "max"):
        data[name] = statistics[name].to_numpy()
    data["nodes"] = statistics["count"].to_numpy()
    data = data[data["nodes"].notna()].astype({"nodes": int}).reset_index(drop=True)
    if data["nodes"].max() <= 1:
        return Curve(label, data, None, None, "", number)
    band, limits = ("percentile_5", "percentile_95"), ("min", "max")
    return Curve(label, data, band, limits, "5–95 % of nodes", number)


def _start(run: Run) -> pd.DataFrame:
    data = pd.DataFrame({ITERATION: run.over_nodes.index})
    for name, values in _costs(run).items():
        data[name] = values.reindex(run.over_nodes.index).to_numpy()
    return data


def _costs(run: Run) -> dict[str, pd.Series]:
    """What a run had taken by each iteration, by column, as far as it was recorded."""
    over, found = run.over_nodes, {}
    for name, metric, statistic in ((BYTES, "total_bytes", "mean"), (SECONDS, "elapsed_s", "max")):
        if metric in over:
            found[name] = over[metric, statistic]
    if len(energy := joules(run)):
        found[ENERGY] = energy
    return found


def _seed_curve(setting: Setting, metric: str) -> Curve:
    """Over the iterations that all seeds share, so that no seed's end makes a jump."""
    seeds = setting.seeds(metric)
    if len(seeds) < len(setting.runs):
        warnings.warn(
            f"{setting.label}: {metric} was recorded by {len(seeds)} of "
            f"{len(setting.runs)} seeds only",
            RunWarning,
            stacklevel=2,
        )
    each = pd.concat([run.over_nodes[metric, "mean"] for run in seeds], axis=1)
    there = pd.concat([run.over_nodes[metric, "count"].notna() for run in seeds], axis=1)
    per_seed = each.loc[setting.shared][there.reindex(setting.shared).all(axis=1)]
    data = _seed_start(seeds, per_seed.index)
    mean, half = per_seed.mean(axis=1).to_numpy(), half_width_95(per_seed.to_numpy())
    data["mean"], data["ci95_low"], data["ci95_high"] = mean, mean - half, mean + half
    data["seeds"] = per_seed.notna().sum(axis=1).to_numpy()
    band = ("ci95_low", "ci95_high") if len(seeds) > 1 else None
    about = f"95 % band over {len(seeds)} seeds" if band else "no band for 1 seed"
    return Curve(setting.label, data, band, None, about, setting.number)


def _seed_start(seeds: Sequence[Run], iterations: pd.Index) -> pd.DataFrame:
    data = pd.DataFrame({ITERATION: iterations})
    costs = [_costs(run) for run in seeds]
    for name in costs[0]:
        if all(name in taken for taken in costs):
            each = [taken[name].reindex(iterations) for taken in costs]
            data[name] = pd.concat(each, axis=1).mean(axis=1).to_numpy()
    return data
