"""A metric against iterations, bytes, seconds or joules: an axis for each value of an attribute."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from results.curves import BYTES, ITERATION, SECONDS, Curve, curves
from results.load import Run
from results.metrics import label
from results.plots import AXES, NothingToPlotError, RunFigure, put_legend
from results.settings import settings
from results.style import byte_unit, line_style, styled, whole_numbers
from results.usage import ENERGY

ABOUT = "small multiples: a metric, one axis for each value of an attribute"
_WORDS = {ITERATION: "Iteration", BYTES: "Bytes sent per node", SECONDS: "Time (s)",
          ENERGY: "Energy of all nodes (J)"}  # fmt: skip
_HEIGHT, _WIDTH, _MOST_COLUMNS = 2.1, 2.2, 4


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure."""
    add.add_argument("--by", required=True, metavar="ATTRIBUTE", help="as nb_agents or alpha")
    add.add_argument("--metric", default="test_acc", help="any column of the records (test_acc)")
    add.add_argument("--against", choices=AXES, default="iteration", help="the x axis (iteration)")


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure."""
    return small_multiples(runs, args.by, args.metric, args.against)


def small_multiples(
    runs: Sequence[Run], by: str, metric: str = "test_acc", against: str = "iteration"
) -> RunFigure:
    """Axes share their scales; a setting looks the same on all of them.

    Raises `NothingToPlotError` where no run has the attribute and the metric.
    """
    groups = _groups(runs, by)
    compared = {
        value: curves(settings(_without(some, by)), metric) for value, some in groups.items()
    }
    compared = {value: drawn for value, drawn in compared.items() if drawn}
    if not compared:
        raise NothingToPlotError(f"no run has the attribute {by} and recorded {metric}")
    names = list(dict.fromkeys(curve.label for drawn in compared.values() for curve in drawn))
    x, columns = AXES[against], min(len(compared), _MOST_COLUMNS)
    rows = -(-len(compared) // columns)
    frames: list[pd.DataFrame] = []
    divisor, said = _scale(x, [curve for drawn in compared.values() for curve in drawn])
    with styled():
        made = RunFigure("double", pd.DataFrame())
        made.set_size_inches(max(3.33, _WIDTH * columns), _HEIGHT * rows + 0.3)
        grid = made.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (value, drawn) in zip(grid, compared.items(), strict=False):
            axes.set_title(f"{by} = {value}", fontsize=8)
            for curve in drawn:
                style = line_style(names.index(curve.label))
                if curve.band is not None:
                    low, high = (curve.data[name] for name in curve.band)
                    axes.fill_between(
                        curve.data[x] / divisor, low, high, color=style["color"], alpha=0.2,
                        linewidth=0,
                    )  # fmt: skip
                marks = max(1, len(curve.data) // 6)
                axes.plot(curve.data[x] / divisor, curve.data["mean"], markevery=marks, **style)
                frames.append(curve.data.assign(**{by: value, "curve": curve.label}))
            axes.label_outer()
        for axes in grid[len(compared) :]:
            axes.set_visible(False)
        if x == ITERATION:
            whole_numbers(grid[0])
        made.supxlabel(said, fontsize=8)
        made.supylabel(label(metric), fontsize=8)
        lines = [
            grid[0].plot([], [], label=name, **line_style(i))[0] for i, name in enumerate(names)
        ]
        if len(names) > 1:
            put_legend(made, lines, names)
        made.data = pd.concat(frames, ignore_index=True)
    return made


def _scale(x: str, drawn: Sequence[Curve]) -> tuple[float, str]:
    """What values of the x axis are divided by, and what it says."""
    if x != BYTES:
        return 1.0, _WORDS[x]
    divisor, unit = byte_unit(max(curve.data[x].max() for curve in drawn))
    return divisor, f"{_WORDS[x]} ({unit})"


def _groups(runs: Sequence[Run], by: str) -> dict[Any, list[Run]]:
    found: dict[Any, list[Run]] = {}
    for run in runs:
        if by in run.attributes:
            found.setdefault(run.attributes[by], []).append(run)
    return {key: found[key] for key in sorted(found, key=lambda value: (str(type(value)), value))}


def _without(runs: Sequence[Run], by: str) -> list[Run]:
    """The runs without the attribute, so that it is in no label."""
    return [
        replace(run, attributes={k: v for k, v in run.attributes.items() if k != by})
        for run in runs
    ]
