"""Which labels each node has: a circle per node and label, its area the number of samples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import MachineFolder, RunFolder
from results.load import Run
from results.plots import NothingToPlotError, RunFigure
from results.style import COLOURS, styled

ABOUT = "the labels of each node's samples"
_MOST_NODES = 40


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure."""
    add.add_argument(
        "--nodes", type=int, default=_MOST_NODES, help=f"at most so many ({_MOST_NODES})"
    )


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure of the first run."""
    return label_histogram(runs[0], args.nodes, args.width)


def label_counts(run: Run) -> pd.DataFrame:
    """Columns uid, label, samples, of all nodes; raises `NothingToPlotError` without labels."""
    machines = [*RunFolder(run.folder).machines().values()] or [MachineFolder(run.folder)]
    rows = []
    for machine in machines:
        nodes = read_object(machine.root / "data.json").get("nodes")
        for uid, said in nodes.items() if isinstance(nodes, dict) else ():
            labels = said.get("labels") if isinstance(said, dict) else None
            for name, count in _pairs(labels):
                rows.append({"uid": int(uid), "label": name, "samples": count})
    if not rows:
        raise NothingToPlotError(f"{run.name}: its folder says nothing of its nodes' labels")
    return pd.DataFrame(rows).sort_values(["uid", "label"], ignore_index=True)


def _pairs(labels: object) -> list[tuple[int, int]]:
    if isinstance(labels, dict):
        return [(int(name), int(count)) for name, count in labels.items()]
    return [(i, int(n)) for i, n in enumerate(labels)] if isinstance(labels, list) else []


def label_histogram(run: Run, nodes: int = _MOST_NODES, width: str = "single") -> RunFigure:
    """The first ``nodes`` nodes."""
    counts = label_counts(run)
    shown = counts[counts["uid"].isin(sorted(counts["uid"].unique())[:nodes])]
    with styled():
        made = RunFigure(width, counts)
        axes = made.add_subplot()
        most = max(int(shown["samples"].max()), 1)
        made.set_size_inches(made.get_figwidth(), max(2.0, 0.16 * shown["label"].nunique() + 1.0))
        axes.scatter(
            shown["uid"], shown["label"], s=60 * shown["samples"] / most, color=COLOURS[0],
            linewidths=0,
        )  # fmt: skip
        axes.set_xlabel("Node")
        axes.set_ylabel("Label")
        labels = np.unique(shown["label"])
        axes.set_yticks(labels[:: max(1, len(labels) // 12)])
        axes.margins(y=0.1)
        axes.set_title(f"largest circle: {most} samples", fontsize=7, loc="left")
    return made
