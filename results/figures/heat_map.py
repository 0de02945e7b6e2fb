"""A sweep over two attributes as a heat map of a final metric."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from results.load import Run
from results.metrics import label
from results.plots import NothingToPlotError, RunFigure
from results.style import styled
from results.tables import final

ABOUT = "a sweep over two attributes: the final mean of a metric"


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure."""
    add.add_argument("--x", required=True, metavar="ATTRIBUTE", help="columns, as lr")
    add.add_argument("--y", required=True, metavar="ATTRIBUTE", help="rows, as noise_std")
    add.add_argument("--metric", default="test_acc", help="any column of the records (test_acc)")


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure."""
    return heat_map(runs, args.x, args.y, args.metric, args.width)


def heat_map(
    runs: Sequence[Run], x: str, y: str, metric: str = "test_acc", width: str = "single"
) -> RunFigure:
    """Means over nodes, and over runs of equal x and y; cells without a run are white.

    Raises `NothingToPlotError` unless a run has both attributes and the metric.
    """
    rows = []
    for run in runs:
        last = final(run, metric)
        if last is not None and x in run.attributes and y in run.attributes:
            rows.append({x: run.attributes[x], y: run.attributes[y], metric: last["mean"]})
    if not rows:
        raise NothingToPlotError(f"no run has the attributes {x} and {y} and recorded {metric}")
    data = pd.DataFrame(rows).groupby([y, x], as_index=False)[metric].agg(["mean", "count"])
    table = data.pivot(index=y, columns=x, values="mean")
    with styled():
        made = RunFigure(width, data)
        axes = made.add_subplot()
        colours = mpl.colormaps["viridis"]
        drawn = axes.imshow(table.to_numpy(), cmap=colours, aspect="auto", origin="lower")
        axes.grid(False)
        axes.set_xticks(range(table.shape[1]), [_said(value) for value in table.columns])
        axes.set_yticks(range(table.shape[0]), [_said(value) for value in table.index])
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _write_values(axes, table.to_numpy(dtype=float))
        made.colorbar(drawn, ax=axes, label=label(metric))
    return made


def _write_values(axes: Any, values: np.ndarray) -> None:
    low, high = np.nanmin(values), np.nanmax(values)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = high > low and (value - low) / (high - low) < 0.6
            axes.text(
                column, row, f"{value:.3g}", ha="center", va="center", fontsize=6,
                color="white" if dark else "black",
            )  # fmt: skip


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
