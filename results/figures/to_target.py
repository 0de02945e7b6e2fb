"""What it takes to reach an accuracy or a loss: a bar per setting."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.load import Run
from results.plots import NothingToPlotError, RunFigure, legend_of, put_legend
from results.settings import settings
from results.style import COLOURS, byte_unit, styled
from results.tables import settings_table
from results.targets import ENERGY, Target, as_targets, parse_target

ABOUT = "bytes, seconds, iterations or joules until a mean accuracy or loss reaches a target"
COSTS = {"bytes": "bytes_per_node", "seconds": "seconds", "iterations": "iteration",
         "joules": ENERGY}  # fmt: skip
_WORDS = {"bytes": "Bytes sent per node", "seconds": "Time (s)", "iterations": "Iterations",
          "joules": "Energy of all nodes (J)"}  # fmt: skip
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure."""
    add.add_argument(
        "--target", dest="targets", action="append", type=parse_target, required=True,
        metavar="TARGET", help="per cent of test accuracy, or METRIC=VALUE; may be repeated",
    )  # fmt: skip
    add.add_argument("--cost", choices=COSTS, default="bytes", help="what it takes (bytes)")


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure."""
    return to_target(runs, args.targets, args.cost, args.width)


def to_target(
    runs: Sequence[Run],
    targets: Sequence[float | Target],
    cost: str = "bytes",
    width: str = "single",
) -> RunFigure:
    """Means over the seeds that reached it, with 95 % intervals; what never did has no bar.

    Raises `NothingToPlotError` if no run reached any target.
    """
    wanted = as_targets(targets)
    table = settings_table(settings(runs), wanted)
    if f"{COSTS[cost]} to {wanted[0].label} mean" not in table:
        raise NothingToPlotError(f"no run recorded {COSTS[cost]}")
    frames = [_of_target(table, target, COSTS[cost]) for target in wanted]
    data = pd.concat(frames, ignore_index=True)
    if not np.isfinite(data["mean"]).any():
        raise NothingToPlotError(f"no run reached {' or '.join(target.words for target in wanted)}")
    divisor, unit = byte_unit(float(np.nanmax(data["mean"]))) if cost == "bytes" else (1.0, "")
    labels = [*table["setting"]]
    with styled():
        made = RunFigure(width, data)
        axes = made.add_subplot()
        each = 0.8 / len(wanted)
        for number, (target, frame) in enumerate(zip(wanted, frames, strict=True)):
            places = np.arange(len(labels)) + (number - (len(wanted) - 1) / 2) * each
            values = frame["mean"].to_numpy() / divisor
            axes.barh(
                places, values, each * 0.9, color=COLOURS[number % len(COLOURS)], alpha=0.8,
                hatch=_HATCHES[number % len(_HATCHES)], label=target.words,
            )  # fmt: skip
            half = (frame["high"] - frame["low"]).to_numpy() / 2 / divisor
            axes.errorbar(values, places, xerr=np.nan_to_num(half), fmt="none", color="#333333",
                          linewidth=0.7)  # fmt: skip
            for place, value in zip(places, values, strict=True):
                if np.isnan(value):
                    axes.text(0, place, " not reached", va="center", fontsize=6, color="#666666")
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlabel(_WORDS[cost] + (f" ({unit})" if unit else ""))
        put_legend(made, *legend_of(made))
    return made


def _of_target(table: pd.DataFrame, target: Target, column: str) -> pd.DataFrame:
    name = f"{column} to {target.label}"
    return pd.DataFrame({
        "setting": table["setting"], "target": target.value, "metric": target.metric,
        "cost": column, "mean": table[f"{name} mean"], "low": table[f"{name} ci95_low"],
        "high": table[f"{name} ci95_high"], "n": table[f"{name} n"],
    })  # fmt: skip
