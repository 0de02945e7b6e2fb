"""The numbers behind the figures: pure functions from runs to curves.

One run gives one curve per metric, the mean over its nodes, with the spread over the nodes.
Several runs are put together when only their seeds differ: the mean over seeds of the mean over
nodes, with a 95 % band for the mean (Student's t over the seeds).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from results.load import Run

BYTES: Final = "bytes_per_node"
SECONDS: Final = "seconds"
_SEED: Final = "random_seed"
#: More differences than this do not fit a legend; the experiment's name does.
_MOST_SAID: Final = 3
#: 97.5 % points of Student's t for 1 to 10 degrees of freedom.
_STUDENT: Final = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


@dataclass(frozen=True)
class Curve:
    """A line of a figure.

    ``data`` has the columns iteration, bytes_per_node (mean over the nodes of the bytes sent
    since the start; only where they were recorded), seconds (when the last node had done the
    iteration, likewise), mean, the columns named in ``band`` and
    ``limits``, and how many nodes or seeds went in. ``about`` says what the band is.
    """

    label: str
    data: pd.DataFrame
    band: tuple[str, str] | None
    limits: tuple[str, str] | None
    about: str


def curves(runs: Sequence[Run], metric: str) -> list[Curve]:
    """The curves of a metric; runs that did not record it have none."""
    runs = [run for run in runs if metric in run.over_nodes]
    if len(runs) == 1:
        return [_node_curve(runs[0], metric, _whole(runs[0]))]
    groups = grouped(runs)
    if all(len(group) == 1 for group in groups.values()):
        return [_node_curve(group[0], metric, label) for label, group in groups.items()]
    return [_seed_curve(group, metric, label) for label, group in groups.items()]


def _whole(run: Run) -> str:
    if run.nodes_left < run.nodes:
        return f"mean of {run.nodes} nodes, {run.nodes_left} at the end"
    return f"mean of {run.nodes} nodes" if run.nodes > 1 else "1 node"


def _node_curve(run: Run, metric: str, label: str) -> Curve:
    statistics = run.over_nodes[metric]
    data = _start(run.over_nodes)
    data["mean"] = statistics["mean"].to_numpy()
    data["percentile_5"] = statistics["percentile_5"].to_numpy()
    data["percentile_95"] = statistics["percentile_95"].to_numpy()
    data["min"] = statistics["min"].to_numpy()
    data["max"] = statistics["max"].to_numpy()
    data["nodes"] = statistics["count"].to_numpy()
    data = data[data["nodes"].notna()].astype({"nodes": int}).reset_index(drop=True)
    if data["nodes"].max() <= 1:
        return Curve(label, data, None, None, "")
    about = "5–95 % of nodes"
    return Curve(label, data, ("percentile_5", "percentile_95"), ("min", "max"), about)


def _start(over_nodes: pd.DataFrame) -> pd.DataFrame:
    data = pd.DataFrame({"iteration": over_nodes.index})
    if "total_bytes" in over_nodes:
        data[BYTES] = over_nodes["total_bytes", "mean"].to_numpy()
    if "elapsed_s" in over_nodes:
        data[SECONDS] = over_nodes["elapsed_s", "max"].to_numpy()
    return data


def _seed_curve(runs: Sequence[Run], metric: str, label: str) -> Curve:
    """Over the iterations that all seeds share, so that no seed's end makes a jump."""
    per_seed = pd.concat([run.over_nodes[metric, "mean"] for run in runs], axis=1, join="inner")
    data = pd.DataFrame({"iteration": per_seed.index})
    if all("total_bytes" in run.over_nodes for run in runs):
        sent = [run.over_nodes["total_bytes", "mean"].reindex(per_seed.index) for run in runs]
        data[BYTES] = pd.concat(sent, axis=1).mean(axis=1).to_numpy()
    if all("elapsed_s" in run.over_nodes for run in runs):
        took = [run.over_nodes["elapsed_s", "max"].reindex(per_seed.index) for run in runs]
        data[SECONDS] = pd.concat(took, axis=1).mean(axis=1).to_numpy()
    mean = per_seed.mean(axis=1).to_numpy()
    half = half_width_95(per_seed.to_numpy())
    data["mean"], data["ci95_low"], data["ci95_high"] = mean, mean - half, mean + half
    data["seeds"] = len(runs)
    band = ("ci95_low", "ci95_high") if len(runs) > 1 else None
    return Curve(label, data, band, None, f"95 % band over {len(runs)} seeds" if band else "")


def half_width_95(values: np.ndarray) -> np.ndarray:
    """Half of the 95 % confidence interval of each row's mean; NaN for a single column."""
    count = values.shape[1]
    if count < 2:
        return np.full(values.shape[0], np.nan)
    with np.errstate(invalid="ignore"):  # a loss that diverged to infinity
        return student(count - 1) * values.std(axis=1, ddof=1) / np.sqrt(count)


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t, to four digits: SciPy is too much for one number."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ by their seed only, under a label that says what tells them apart.

    Runs without any settings, and groups in which a seed occurs twice, are not put together.
    """
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        groups.setdefault(_setting(run), []).append(run)
    split = [part for group in groups.values() for part in _distinct(group)]
    return dict(zip(_labels(split), split, strict=True))


def _setting(run: Run) -> Hashable:
    known = {key: value for key, value in run.attributes.items() if key != _SEED}
    return tuple(sorted(known.items())) if known else run.name


def _distinct(group: list[Run]) -> list[list[Run]]:
    seeds = {run.attributes.get(_SEED) for run in group}
    return [group] if len(seeds) == len(group) else [[run] for run in group]


def _labels(groups: Sequence[list[Run]]) -> list[str]:
    """The shortest of: what differs, the experiments' names, the runs' names, that is unique."""
    candidates = [
        [said(group[0].attributes, _differing(groups)) for group in groups],
        [group[0].experiment for group in groups],
    ]
    for labels in candidates:
        if all(labels) and max(Counter(labels).values(), default=0) <= 1:
            return labels
    return [group[0].name for group in groups]


def _differing(groups: Sequence[list[Run]]) -> list[str]:
    first = [group[0].attributes for group in groups]
    keys = dict.fromkeys(key for attributes in first for key in attributes if key != _SEED)
    differing = [key for key in keys if len({attributes.get(key) for attributes in first}) > 1]
    settings = [key for key in differing if not key.endswith("_file")]
    return settings or differing  # a graph's file name follows from the number of agents


def said(attributes: dict[str, Any], keys: Sequence[str]) -> str:
    """The attributes named ``keys`` in words; empty when they are too many for a legend."""
    if len(keys) > _MOST_SAID:
        return ""
    there = {key: attributes[key] for key in keys if key in attributes}
    parts = [v if isinstance(v, str) else f"{key} = {v}" for key, v in there.items()]
    return ", ".join(parts)
