"""Targets: a value of a metric, and when, and at what cost, a run first reached it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from results.curves import BYTES, SECONDS
from results.load import Run
from results.metrics import ACCURACY
from results.usage import ENERGY, joules

#: what it took -> its column of the statistics over nodes
COSTS: Final = {
    SECONDS: ("elapsed_s", "max"),
    BYTES: ("total_bytes", "mean"),
}


@dataclass(frozen=True)
class Target:
    """A value that the mean of ``metric`` over the nodes is to reach."""

    value: float
    metric: str = ACCURACY

    @property
    def upwards(self) -> bool:
        """Whether more is better: of accuracies; of losses and other errors less is."""
        return self.metric.endswith("_acc")

    @property
    def label(self) -> str:
        """``80`` for an accuracy of the test set, else with the metric: ``test_loss 0.5``."""
        plain = f"{self.value:g}"
        return plain if self.metric == ACCURACY else f"{self.metric} {plain}"

    @property
    def words(self) -> str:
        """For people: ``80 % accuracy``, ``test_loss 0.5``."""
        return f"{self.label} % accuracy" if self.metric == ACCURACY else self.label


def as_targets(given: Sequence[float | Target]) -> list[Target]:
    """Numbers are accuracies in per cent."""
    return [one if isinstance(one, Target) else Target(float(one)) for one in given]


def parse_target(text: str) -> Target:
    """``80`` or ``METRIC=VALUE``, for argparse."""
    metric, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r}: a number of per cent, or METRIC=NUMBER")
    return Target(value, metric or ACCURACY)


def reached(run: Run, target: Target) -> dict[str, float]:
    """Iteration, `COSTS` and joules when a run first was as good; empty if it never was."""
    over = run.over_nodes
    if target.metric not in over:
        return {}
    means = over[target.metric, "mean"]
    good = over[means >= target.value if target.upwards else means <= target.value]
    if good.empty:
        return {}
    found = {"iteration": float(good.index[0])}
    there = {name: column for name, column in COSTS.items() if column in over}
    found |= {name: float(good.iloc[0][column]) for name, column in there.items()}
    taken = joules(run)
    if good.index[0] in taken.index:
        found[ENERGY] = float(taken[good.index[0]])
    return found


def costs(runs: Sequence[Run]) -> list[str]:
    """The columns of tables of targets; joules only where some run recorded them."""
    names = [SECONDS, "iteration", BYTES]
    return [*names, ENERGY] if any(len(joules(run)) for run in runs) else names


def window_mean(run: Run, metric: str, window: int) -> float:
    """The mean over the last ``window`` evaluations of the mean over the nodes."""
    if metric not in run.over_nodes:
        return math.nan
    means = run.over_nodes[metric, "mean"].dropna().to_numpy()[-window:]
    return float(np.mean(means)) if len(means) else math.nan
