"""How old what asynchronous nodes heard was: shares of nodes and evaluations by staleness."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd

from results.load import Run
from results.plots import NothingToPlotError, RunFigure, legend_of, put_legend
from results.settings import settings
from results.style import line_style, styled

ABOUT = "how many iterations old the news of asynchronous nodes were"
COLUMN = "stale"


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure."""
    add.add_argument("--metric", default=COLUMN, help=f"the column that counts it ({COLUMN})")


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure."""
    return staleness(runs, args.metric, args.width)


def staleness(runs: Sequence[Run], metric: str = COLUMN, width: str = "single") -> RunFigure:
    """The share of records with at most so many iterations, a line per setting.

    Raises `NothingToPlotError` if no run recorded the column.
    """
    frames, styles = [], {}
    for setting in settings(runs):
        values = [
            run.records[metric].drop_null().to_pandas()
            for run in setting.runs
            if metric in run.records.column_names
        ]
        values = [one for one in values if len(one)]
        if values:
            counts = pd.concat(values).round().astype(int).value_counts().sort_index()
            counts = counts.reindex(range(int(counts.index.max()) + 1), fill_value=0)
            frames.append(pd.DataFrame({
                "curve": setting.label, "staleness": counts.index,
                "share": counts.cumsum().to_numpy() / counts.sum(),
            }))  # fmt: skip
            styles[setting.label] = line_style(setting.number)
    if not frames:
        raise NothingToPlotError(f"no run recorded {metric}: asynchronous programs do")
    with styled():
        made = RunFigure(width, pd.concat(frames, ignore_index=True))
        axes = made.add_subplot()
        for frame in frames:
            name = str(frame["curve"].iloc[0])
            axes.plot(
                frame["staleness"], 100 * frame["share"], label=name, drawstyle="steps-post",
                **styles[name],
            )  # fmt: skip
        axes.set_xlabel("Iterations old, at most")
        axes.set_ylabel("Records (%)")
        axes.set_ylim(0, 104)
        put_legend(made, *legend_of(made))
    return made
