"""Two runs or settings against each other: how much a metric differs, and whether that is chance.

Settings with several seeds are compared over them, in pairs where they share seeds. Two single
runs can be compared over their nodes only, which says nothing of other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from results.load import Run
from results.metrics import headlines, label, unit
from results.privacy import attack_tables
from results.settings import Setting
from results.significance import Difference, holm, paired, welch
from results.summary import shown

COMPARE_COLUMNS: Final[dict[str, str]] = {
    "metric": "what is compared; `<attack>.<column>` for a column of an attack's table",
    "iteration": "the last one after which all of both were evaluated (attacked)",
    "baseline": "the setting that others are compared with",
    "setting": "the other setting",
    "over": "`seeds`, or `nodes` where both have one run only",
    "paired": "whether the test is on differences of pairs (equal seeds, equal nodes)",
    "n": "pairs, or the fewer of the two sides where there are no pairs",
    "baseline mean": "mean over seeds of the mean over nodes, or over the nodes",
    "mean": "the same of the other setting",
    "difference": "mean less baseline mean",
    "ci95_low": "lower end of the 95 % interval of the difference",
    "ci95_high": "upper end",
    "t": "Student's t of the pairs, or Welch's",
    "p_t": "its two-sided p-value",
    "p_wilcoxon": "that of Wilcoxon's signed-rank test; empty without pairs",
    "p_holm": "p_t, corrected for the number of settings and metrics in the table (Holm)",
}


@dataclass(frozen=True)
class Sample:
    """Values of a metric by seed or node, of one side."""

    values: dict[int, float]

    def of(self, keys: Sequence[int]) -> list[float]:
        return [self.values[key] for key in keys]


def compare(
    compared: Sequence[Setting], metrics: Sequence[str] = (), baseline: int = 0
) -> pd.DataFrame:
    """One row per metric and setting but the baseline's; columns of `COMPARE_COLUMNS`.

    ``metrics`` are the headlines of the runs without a choice. Raises ValueError for fewer than
    two settings, and for a metric that is not there.
    """
    if len(compared) < 2:
        raise ValueError(
            "all of these runs have one setting: nothing to compare (runs that differ only in "
            "random_seed are one)"
        )
    runs = [run for setting in compared for run in setting.runs]
    wanted = list(metrics) or headlines(dict.fromkeys(m for run in runs for m in run.metrics))
    first = compared[baseline]
    rows = [
        _row(metric, first, other) for metric in wanted for other in compared if other is not first
    ]
    frame = pd.DataFrame([row for row in rows if row])
    if frame.empty:
        raise ValueError(f"no two settings have {' or '.join(wanted)} at the same iteration")
    frame["p_holm"] = holm(frame["p_t"].tolist())
    return frame[[*COMPARE_COLUMNS]]


def _row(metric: str, first: Setting, other: Setting) -> dict[str, Any]:
    """Empty where a side has no value."""
    series = [[_by_iteration(run, metric) for run in side.runs] for side in (first, other)]
    there = [set(one) for side in series for one in side]
    shared = set.intersection(*there)
    if not shared:
        return {}
    iteration = max(shared)
    alone = len(first.runs) == len(other.runs) == 1
    if alone:
        a, b = (Sample(side[0][iteration]) for side in series)
    else:
        a, b = (
            Sample(_of_seeds(setting, [one[iteration] for one in side]))
            for setting, side in zip((first, other), series, strict=True)
        )
    common = sorted(set(a.values) & set(b.values))
    pairs = len(common) > 1 and (not alone or len(common) == len(a.values) == len(b.values))
    one, two = (x.of(common) if pairs else [*x.values.values()] for x in (a, b))
    return {
        "metric": metric, "iteration": iteration, "baseline": first.label, "setting": other.label,
        "over": "nodes" if alone else "seeds", "paired": pairs,
        "baseline mean": float(np.mean(one)), "mean": float(np.mean(two)),
        **_columns(paired(one, two) if pairs else welch(one, two)),
    }  # fmt: skip


def _columns(found: Difference) -> dict[str, float]:
    return {
        "n": found.n, "difference": found.mean, "ci95_low": found.low, "ci95_high": found.high,
        "t": found.t, "p_t": found.p_t, "p_wilcoxon": found.p_wilcoxon,
    }  # fmt: skip


def _of_seeds(setting: Setting, nodes: Sequence[dict[int, float]]) -> dict[int, float]:
    """The mean over nodes by seed; seeds that nobody knows get numbers that pair with none."""
    found = {}
    for number, (run, values) in enumerate(zip(setting.runs, nodes, strict=True)):
        seed = run.attributes.get("random_seed")
        key = seed if isinstance(seed, int) else -1 - number - 1000 * setting.number
        found[key] = float(np.mean([*values.values()]))
    return found


def _by_iteration(run: Run, metric: str) -> dict[int, dict[int, float]]:
    """Finite values by iteration and node."""
    attack, _, column = metric.rpartition(".")
    frame = _attacked(run, attack, column) if attack else _recorded(run, metric)
    frame = frame[np.isfinite(frame["value"])]
    groups = frame.groupby("iteration")
    return {
        int(iteration): dict(zip(group["uid"].astype(int), group["value"], strict=True))
        for iteration, group in groups
    }


def _recorded(run: Run, metric: str) -> pd.DataFrame:
    if metric not in run.over_nodes:
        return pd.DataFrame({"iteration": [], "uid": [], "value": []})
    records = run.records.select(["iteration", "uid", metric])
    records = records.filter(pc.is_valid(records[metric]))
    frame = records.rename_columns(["iteration", "uid", "value"]).to_pandas()
    nodes = frame[frame["uid"] >= 0]
    frame = nodes if len(nodes) else frame
    return frame[frame["iteration"].isin(run.over_nodes.index)]


def _attacked(run: Run, attack: str, column: str) -> pd.DataFrame:
    """The mean over receivers by node; an attack on all models at once counts as iteration 0."""
    frame = attack_tables(run.folder).get(attack)
    if frame is None or column not in frame:
        return pd.DataFrame({"iteration": [], "uid": [], "value": []})
    frame = frame if "iteration" in frame else frame.assign(iteration=0)
    means = frame.groupby(["iteration", "agent"])[column].mean().rename("value")
    return means.reset_index().rename(columns={"agent": "uid"})


def in_words(table: pd.DataFrame) -> list[str]:
    """A line for each row: the difference, its interval, p, and over what."""
    lines = [_line(row) for _, row in table.iterrows()]
    if (table["over"] == "nodes").any():
        lines.append(
            "  Over nodes: one run each. This tells these two runs apart, not their methods; nodes "
            "influence each other, so p is too small. Run several seeds for more."
        )
    return lines


def _line(row: pd.Series) -> str:
    metric = str(row["metric"])
    name = metric if "." in metric else label(metric).removesuffix(" (%)").lower()
    sign = " points" if unit(metric) else ""
    said = f"{shown(row['difference'], metric)}{sign}"
    start = f"  {row['setting']} against {row['baseline']}: {name} "
    values = f"{shown(row['baseline mean'], metric)} -> {shown(row['mean'], metric)}"
    if np.isnan(row["p_t"]):
        return f"{start}{values}, {said}; one value on a side: no test"
    low, high = shown(row["ci95_low"], metric), shown(row["ci95_high"], metric)
    kind = "paired t" if row["paired"] else "Welch's t"
    wilcoxon = f", Wilcoxon p = {row['p_wilcoxon']:.3g}" if row["paired"] else ""
    verdict = "significant" if row["p_holm"] < 0.05 else "not significant"
    pairs = f"{row['n']} {row['over']}"
    return (
        f"{start}{values}, {said} (95 %: {low} to {high}); {kind} over {pairs}: "
        f"p = {row['p_t']:.3g}{wilcoxon}; {verdict} at 5 % (Holm: {row['p_holm']:.3g})"
    )
