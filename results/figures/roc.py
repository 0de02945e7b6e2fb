"""ROC of the threshold on losses, linear and log-log, by node."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from results.figures.kept_losses import KeptLosses, kept_losses
from results.load import Run
from results.plots import RunFigure, legend_of, put_legend
from results.style import line_style, styled

ABOUT = "ROC of the loss threshold for one node, linear and log-log"
_LOWEST = 1e-5
MOST = 6


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure."""
    add.add_argument("--node", type=int, default=0, help="whose models (0)")
    add.add_argument(
        "--iterations", type=int, nargs="+", default=[], help="of which iterations (a few)"
    )
    add.add_argument("--cache-dir", type=Path, metavar="DIR", help="where prepared data are kept")
    add.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change a key of the run's INI, as where the data lie now; may be repeated",
    )  # fmt: skip


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure of the first run."""
    return roc_figure(kept_losses(runs[0], args.cache_dir, args.set), args.node, args.iterations)


def roc_figure(kept: KeptLosses, node: int = 0, iterations: Sequence[int] = ()) -> RunFigure:
    """A curve per iteration; members are the positives."""
    from results.attacks.scores import auc, roc

    chosen = kept.some(node, iterations, MOST)
    frames, curves = [], []
    for iteration, members, others in chosen:
        fpr, tpr = roc(members, others)
        name = f"iteration {iteration}, AUC {auc(members, others):.3f}"
        curves.append((name, fpr, tpr))
        frames.append(pd.DataFrame({"iteration": iteration, "fpr": fpr, "tpr": tpr}))
    with styled():
        made = RunFigure("double", pd.concat(frames, ignore_index=True))
        for axes, log in zip(made.subplots(1, 2), (False, True), strict=True):
            diagonal = np.geomspace(_LOWEST, 1, 50)
            axes.plot(diagonal, diagonal, color="#999999", linewidth=0.6, linestyle=(0, (2, 2)))
            for number, (name, fpr, tpr) in enumerate(curves):
                style = {**line_style(number), "marker": ""}
                said = None if log else name
                axes.plot(fpr, tpr, label=said, drawstyle="steps-post", **style)
            axes.set_xlabel("False positive rate")
            axes.set_ylabel("True positive rate")
            if log:
                axes.set_xscale("log")
                axes.set_yscale("log")
                axes.set_xlim(_LOWEST, 1)
                axes.set_ylim(_LOWEST, 1)
        put_legend(made, *legend_of(made))
    return made
