"""Where the time of a run went: training, sharing, waiting, evaluating."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.load import Run
from results.plots import NothingToPlotError, RunFigure, legend_of, put_legend
from results.settings import settings
from results.style import COLOURS, styled

ABOUT = "seconds of a node in training, sharing, waiting and evaluating"
PHASES = {"train_s": "training", "share_s": "sharing", "wait_s": "waiting",
          "evaluate_s": "evaluating"}  # fmt: skip
_HATCHES = ("", "////", "....", "xxxx")


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure: none."""


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure."""
    return phases(runs, args.width)


def phases(runs: Sequence[Run], width: str = "single") -> RunFigure:
    """One bar per setting: means over nodes, and over seeds, at the end of the run.

    Raises `NothingToPlotError` for runs that recorded no seconds.
    """
    rows = []
    for setting in settings(runs):
        timed = [run for run in setting.runs if "train_s" in run.over_nodes]
        if timed:
            ends = [{p: float(run.over_nodes[p, "mean"].iloc[-1]) for p in PHASES} for run in timed]
            rows.append({"setting": setting.label, **pd.DataFrame(ends).mean().to_dict()})
    if not rows:
        raise NothingToPlotError("no run recorded where its time went")
    data = pd.DataFrame(rows)
    with styled():
        made = RunFigure(width, data)
        axes = made.add_subplot()
        left = np.zeros(len(data))
        for number, (column, name) in enumerate(PHASES.items()):
            values = data[column].to_numpy()
            axes.barh(
                range(len(data)), values, 0.6, left=left, label=name, color=COLOURS[number],
                hatch=_HATCHES[number], edgecolor="white", linewidth=0.3,
            )  # fmt: skip
            left = left + values
        axes.set_yticks(range(len(data)), data["setting"])
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_xlabel("Seconds of a node, mean")
        made.set_size_inches(made.get_figwidth(), 1.1 + 0.28 * len(data))
        put_legend(made, *legend_of(made))
    return made
