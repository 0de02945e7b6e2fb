"""The topology of a run, its nodes coloured by a metric."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection

from decentralizepy.errors import ConfigError
from decentralizepy.graphs.files import read_graph
from decentralizepy.graphs.graph import Graph
from decentralizepy.graphs.picture import positions
from decentralizepy.jsonfile import read_object
from decentralizepy.runfolder import MachineFolder, RunFolder
from results.load import Run
from results.metrics import label
from results.plots import NothingToPlotError, RunFigure
from results.style import styled

ABOUT = "the topology of a run, its nodes coloured by a metric"
_MOST_EDGES = 20_000


def add_arguments(add: argparse._ActionsContainer) -> None:
    """The flags of this figure."""
    add.add_argument("--metric", default="test_acc", help="any column of the records (test_acc)")
    add.add_argument("--iteration", type=int, help="after which iteration (the last)")


def draw(runs: Sequence[Run], args: argparse.Namespace) -> RunFigure:
    """The figure of the first run."""
    return node_map(runs[0], args.metric, args.iteration, args.width)


def node_map(
    run: Run, metric: str = "test_acc", iteration: int | None = None, width: str = "single"
) -> RunFigure:
    """Raises `NothingToPlotError` where the run's graph or the metric is not there."""
    graph, values = graph_of(run), _values(run, metric, iteration)
    places = positions(graph)
    data = pd.DataFrame({"uid": range(graph.n), "x": places[:, 0], "y": places[:, 1]})
    data[metric] = [values.get(uid, np.nan) for uid in range(graph.n)]
    data["degree"] = [graph.out_degree(uid) for uid in range(graph.n)]
    with styled():
        made = RunFigure(width, data)
        made.set_size_inches(3.33, 3.0)
        axes = made.add_subplot()
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.margins(0.06)
        lines: Any = [places[list(edge)] for edge in graph.edges[:_MOST_EDGES]]
        axes.add_collection(LineCollection(lines, colors="#BBBBBB", linewidths=0.4, zorder=1))
        size = float(np.clip(4000 / graph.n, 8, 160))
        drawn = axes.scatter(
            places[:, 0], places[:, 1], c=data[metric], s=size, cmap=_colours(), zorder=2,
            edgecolors="#333333", linewidths=0.4, plotnonfinite=True,
        )  # fmt: skip
        made.colorbar(drawn, ax=axes, shrink=0.8, label=label(metric))
    return made


def _colours() -> Any:
    """Light to dark, so that it reads in grey too; what has no value is white."""
    return mpl.colormaps["viridis_r"].with_extremes(bad="#FFFFFF")


def graph_of(run: Run) -> Graph:
    """The graph that a run was started with, from its folder; raises `NothingToPlotError`."""
    machines = [*RunFolder(run.folder).machines().values()] or [MachineFolder(run.folder)]
    for machine in machines:
        args = read_object(machine.args)
        name = Path(str(args.get("graph_file") or "")).name
        for path in (machine.root / name, run.folder / name):
            if name and path.is_file():
                try:
                    return read_graph(path, args.get("graph_type") or None)
                except ConfigError as error:
                    raise NothingToPlotError(f"{path}: {error}") from None
    raise NothingToPlotError(f"{run.name}: no copy of its graph in the folder")


def _values(run: Run, metric: str, iteration: int | None) -> dict[int, float]:
    if metric not in run.records.column_names:
        raise NothingToPlotError(f"{run.name} did not record {metric}")
    frame = run.records.select(["iteration", "uid", metric]).to_pandas().dropna()
    if frame.empty:
        raise NothingToPlotError(f"{run.name} did not record {metric}")
    at = frame["iteration"].max() if iteration is None else iteration
    frame = frame[frame["iteration"] == at]
    if frame.empty:
        raise NothingToPlotError(f"{run.name}: {metric} was not recorded in iteration {at}")
    return dict(zip(frame["uid"].tolist(), frame[metric].tolist(), strict=True))
