"""How losses of members and of non-members are distributed, by iteration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.figures import roc
from results.figures.kept_losses import KeptLosses, kept_losses
from results.load import Run
from results.plots import RunFigure, legend_of, put_legend
from results.style import COLOURS, styled

ABOUT = "losses of members and non-members of one node"
_BINS = 30
MOST = 3


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure: those of the ROC."""
    roc.add_arguments(add)


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure of the first run."""
    return loss_distribution(
        kept_losses(runs[0], args.cache_dir, args.set), args.node, args.iterations
    )


def loss_distribution(kept: KeptLosses, node: int = 0, iterations: Sequence[int] = ()) -> RunFigure:
    """Histograms of equal area of log10 of the losses, an axis per iteration."""
    chosen = kept.some(node, iterations, MOST)
    frames: list[pd.DataFrame] = []
    with styled():
        made = RunFigure("double", pd.DataFrame())
        for number, (axes, (iteration, members, others)) in enumerate(
            zip(made.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True)
        ):
            sides = {"members": _logs(members), "non-members": _logs(others)}
            edges = np.histogram_bin_edges(np.concatenate([*sides.values()]), _BINS)
            for colour, hatch, (name, values) in zip(
                COLOURS, ("", "////"), sides.items(), strict=False
            ):
                density, _ = np.histogram(values, edges, density=True)
                axes.stairs(
                    density,
                    edges,
                    label=name if not number else None,
                    color=colour,
                    fill=not hatch,
                    alpha=0.55 if not hatch else 1.0,
                    hatch=hatch,
                )
                frames.append(pd.DataFrame({
                    "iteration": iteration, "side": name, "log10_loss_from": edges[:-1],
                    "log10_loss_to": edges[1:], "density": density,
                }))  # fmt: skip
            axes.set_xlabel("log10 of the loss")
            axes.set_title(f"iteration {iteration}", fontsize=8)
            if not number:
                axes.set_ylabel("Density")
        made.data = pd.concat(frames, ignore_index=True)
        put_legend(made, *legend_of(made))
    return made


def _logs(losses: np.ndarray) -> np.ndarray:
    return np.log10(np.clip(np.nan_to_num(losses, nan=1e6, posinf=1e6), 1e-8, 1e6))
