"""Privacy against utility: a point per run, a line per variant, the better corner marked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from results.load import Run
from results.metrics import label
from results.plots import NothingToPlotError, RunFigure, legend_of, put_legend
from results.privacy import points
from results.style import line_style, styled

ABOUT = "privacy against utility: a point per noise level, a line per variant"
_GREY = "#444444"
#: attack metrics in words
RISKS = {
    "roc_auc": "Membership AUC (threshold)",
    "tpr_at_fpr0.01": "Membership TPR at 1 % FPR",
    "lira.roc_auc": "Membership AUC (likelihood ratio)",
    "classifier.roc_auc": "Membership AUC (classifier)",
    "linkability.linkability_top1": "Share of models linked",
}


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure."""
    add.add_argument(
        "--risk", default="roc_auc", metavar="METRIC",
        help=f"what an attacker gets, as [ATTACK.]METRIC: {', '.join(RISKS)} (roc_auc)",
    )  # fmt: skip
    add.add_argument(
        "--utility", default="test_acc", metavar="METRIC",
        help="what the model is good for: its best mean over the nodes (test_acc)",
    )  # fmt: skip


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure; raises `NothingToPlotError` unless some run was attacked."""
    return trade_off(runs, args.risk, args.utility, args.width)


def trade_off(
    runs: Sequence[Run], risk: str = "roc_auc", utility: str = "test_acc", width: str = "single"
) -> RunFigure:
    """Runs that differ by their seed only are one point, their mean."""
    found = points(runs, risk, utility)
    if found.empty:
        raise NothingToPlotError(
            f"no run has both {risk} and {utility}: run `python -m results attack RUN...` first"
        )
    means = found.groupby(["variant", "noise"], sort=False, as_index=False).mean(numeric_only=True)
    with styled():
        made = RunFigure(width, means)
        axes = made.add_subplot()
        for number, (variant, line) in enumerate(means.groupby("variant", sort=False)):
            line = line.sort_values("noise")
            axes.plot(line["risk"], line["utility"], label=str(variant), **line_style(number))
            _name_ends(axes, line, above=bool(number % 2))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(y=0.1)  # room for the names of the outermost points
        axes.set_xlabel(RISKS.get(risk, risk))
        axes.set_ylabel(f"Best {label(utility)[0].lower()}{label(utility)[1:]}")
        _mark_better(axes, not utility.endswith("loss"))
        put_legend(made, *legend_of(made))
    return made


def _name_ends(axes: Axes, line: pd.DataFrame, above: bool) -> None:
    """The least and the most noise of a line, above or below their points."""
    if len(line) > 1:
        for place in (0, -1):
            at = line.iloc[place]
            axes.annotate(
                f"{at['noise']:.3g}", (at["risk"], at["utility"]), xytext=(0, 4 if above else -4),
                textcoords="offset points", fontsize=5.5, ha="center",
                va="bottom" if above else "top", zorder=5,
                path_effects=[withStroke(linewidth=1.5, foreground="white")],
            )  # fmt: skip


def _mark_better(axes: Axes, up: bool) -> None:
    """An arrow into the corner where an attacker learns little and the model is good."""
    corner, tail = ((0.03, 0.97), (0.16, 0.82)) if up else ((0.03, 0.03), (0.16, 0.18))
    axes.annotate(
        "better", corner, tail, xycoords="axes fraction", textcoords="axes fraction", fontsize=7,
        color=_GREY, ha="left", va="center", arrowprops={"arrowstyle": "->", "color": _GREY},
    )  # fmt: skip
