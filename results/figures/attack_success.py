"""What attackers get as training goes on: a metric of an attack against iterations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd

from results.figures.trade_off import RISKS
from results.interval import half_width_95
from results.load import Run
from results.plots import NothingToPlotError, RunFigure, legend_of, put_legend
from results.privacy import attack_tables
from results.settings import settings
from results.style import line_style, styled, whole_numbers

ABOUT = "success of an attack over time, mean over nodes (with several seeds: over seeds)"
#: with more lines, bands are paler: they lie upon each other
_FEW = 4


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure."""
    add.add_argument("--attack", default="threshold", help="which attack (threshold)")
    add.add_argument("--metric", default="roc_auc", help="which column of its table (roc_auc)")


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure."""
    return attack_success(runs, args.attack, args.metric, args.width)


def attack_success(
    runs: Sequence[Run], attack: str = "threshold", metric: str = "roc_auc", width: str = "single"
) -> RunFigure:
    """A line per setting, with a band: 5 to 95 % of the nodes, or 95 % for the mean over seeds.

    Raises `NothingToPlotError` unless a run has the column.
    """
    lines = []
    for setting in settings(runs):
        frames = [attack_tables(run.folder).get(attack) for run in setting.runs]
        there = [f for f in frames if f is not None and metric in f and "iteration" in f]
        if there:
            lines.append((setting.number, setting.label, _line(there, metric)))
    if not lines:
        raise NothingToPlotError(f"no run has {metric} of the attack {attack}")
    data = pd.concat([line.assign(curve=name) for _, name, line in lines], ignore_index=True)
    with styled():
        made = RunFigure(width, data)
        axes = made.add_subplot()
        for number, name, line in lines:
            style = line_style(number)
            axes.fill_between(
                line["iteration"], line["low"], line["high"], color=style["color"],
                alpha=0.2 if len(lines) <= _FEW else 0.08, linewidth=0,
            )  # fmt: skip
            axes.plot(line["iteration"], line["mean"], label=name, **style)
        axes.set_xlabel("Iteration")
        risk = metric if attack == "threshold" else f"{attack}.{metric}"
        axes.set_ylabel(RISKS.get(risk, f"{metric} ({attack})"))
        whole_numbers(axes)
        put_legend(made, *legend_of(made))
    return made


def _line(frames: Sequence[pd.DataFrame], metric: str) -> pd.DataFrame:
    by_seed = [frame.groupby("iteration")[metric] for frame in frames]
    if len(frames) == 1:
        (one,) = by_seed
        found = {"mean": one.mean(), "low": one.quantile(0.05), "high": one.quantile(0.95)}
        return pd.DataFrame(found).reset_index()
    means = pd.concat([one.mean() for one in by_seed], axis=1).dropna()
    half = half_width_95(means.to_numpy())
    mean = means.mean(axis=1)
    found = {"mean": mean, "low": mean - half, "high": mean + half}
    return pd.DataFrame(found).reset_index()
