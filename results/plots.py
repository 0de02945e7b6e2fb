"""Figures of a run or of several, ready for a paper: one function a figure.

A figure of one run shows the mean over its nodes, the band that holds nine nodes in ten (5 to
95 %) and, as thin lines, the worst and the best node. A figure of several runs shows one line
per setting; runs that differ by their seed only become one line with a 95 % band for the mean.
Its data are saved beside it as CSV.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.curves import BYTES, SECONDS, Curve, curves
from results.files import replacing
from results.load import Run
from results.style import (
    LEGEND_ROW,
    SIZES,
    byte_unit,
    legend_columns,
    line_style,
    log_axis,
    styled,
    suits_log,
    whole_numbers,
)
from results.tables import write_csv

_ITERATION: Final = "iteration"
_MARKS: Final = 8
#: Where float32 is about to overflow.
_DIVERGED: Final = 1e30


@dataclass(frozen=True)
class Quantity:
    """What a y axis shows: a metric, its words, and whether powers of ten may suit it."""

    metric: str
    label: str
    may_be_log: bool


TRAIN_LOSS: Final = Quantity("train_loss", "Train loss", True)
TEST_LOSS: Final = Quantity("test_loss", "Test loss", True)
TEST_ACCURACY: Final = Quantity("test_acc", "Test accuracy (%)", False)
CONSENSUS: Final = Quantity("consensus_distance", "Consensus distance", True)


class NothingToPlotError(ValueError):
    """No run recorded what a figure shows."""


class RunFigure(Figure):
    """A figure with its data; a notebook shows it without pyplot's global state."""

    def __init__(self, width: str, data: pd.DataFrame) -> None:
        super().__init__(figsize=SIZES[width], layout="constrained")
        self.data = data

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with styled():
            self.savefig(buffer, format="png")
        return buffer.getvalue()


def train_loss_by_iteration(runs: Sequence[Run], width: str = "single") -> RunFigure:
    """Mean loss on the nodes' own training sets against the iteration."""
    return _figure(runs, TRAIN_LOSS, _ITERATION, width)


def train_loss_by_bytes(runs: Sequence[Run], width: str = "single") -> RunFigure:
    """Mean loss on the nodes' own training sets against the bytes sent per node."""
    return _figure(runs, TRAIN_LOSS, BYTES, width)


def test_loss_by_iteration(runs: Sequence[Run], width: str = "single") -> RunFigure:
    """Loss on the test set against the iteration."""
    return _figure(runs, TEST_LOSS, _ITERATION, width)


def test_loss_by_bytes(runs: Sequence[Run], width: str = "single") -> RunFigure:
    """Loss on the test set against the bytes sent per node."""
    return _figure(runs, TEST_LOSS, BYTES, width)


def test_accuracy_by_iteration(runs: Sequence[Run], width: str = "single") -> RunFigure:
    """Accuracy on the test set, in per cent, against the iteration."""
    return _figure(runs, TEST_ACCURACY, _ITERATION, width)


def test_accuracy_by_bytes(runs: Sequence[Run], width: str = "single") -> RunFigure:
    """Accuracy on the test set, in per cent, against the bytes sent per node."""
    return _figure(runs, TEST_ACCURACY, BYTES, width)


def test_accuracy_by_seconds(runs: Sequence[Run], width: str = "single") -> RunFigure:
    """Accuracy on the test set, in per cent, against the time since the first training step.

    The time of a simulated run is simulated, and so says the axis when all runs are.
    """
    figure = _figure(runs, TEST_ACCURACY, SECONDS, width)
    if all(run.simulated for run in runs):
        figure.axes[0].set_xlabel("Simulated time (s)")
    return figure


def consensus_distance_by_iteration(runs: Sequence[Run], width: str = "single") -> RunFigure:
    """How far the nodes' parameters are from their mean (l2), against the iteration."""
    return _figure(runs, CONSENSUS, _ITERATION, width)


#: file name -> the function that draws it
FIGURES: Final[dict[str, Callable[[Sequence[Run], str], RunFigure]]] = {
    "train_loss_iteration": train_loss_by_iteration,
    "train_loss_bytes": train_loss_by_bytes,
    "test_loss_iteration": test_loss_by_iteration,
    "test_loss_bytes": test_loss_by_bytes,
    "test_accuracy_iteration": test_accuracy_by_iteration,
    "test_accuracy_bytes": test_accuracy_by_bytes,
    "test_accuracy_seconds": test_accuracy_by_seconds,
    "consensus_distance_iteration": consensus_distance_by_iteration,
}


def save_figures(runs: Sequence[Run], folder: Path, width: str = "single") -> list[Path]:
    """Write every figure that the runs have data for; returns the PDFs."""
    saved = []
    for name, draw in FIGURES.items():
        try:
            figure = draw(runs, width)
        except NothingToPlotError:
            continue
        saved.append(save(figure, folder / f"{name}.pdf"))
    return saved


def save(figure: RunFigure, path: Path) -> Path:
    """Write a figure as PDF and its data as CSV beside it; the same data give the same bytes."""
    with styled(), replacing(path) as aside:
        figure.savefig(aside, format="pdf", metadata={"CreationDate": None})
    write_csv(figure.data, path.with_suffix(".csv"))
    return path


def _figure(runs: Sequence[Run], quantity: Quantity, x: str, width: str) -> RunFigure:
    drawn = [curve for curve in curves(runs, quantity.metric) if x in curve.data]
    if not drawn:
        raise NothingToPlotError(f"no run recorded {quantity.metric} by {x}")
    data = pd.concat([_labelled(curve) for curve in drawn], ignore_index=True)
    with styled():
        figure = RunFigure(width, data)
        _draw(figure, drawn, quantity, x)
    return figure


def _labelled(curve: Curve) -> pd.DataFrame:
    data = curve.data.copy()
    data.insert(0, "curve", curve.label)
    return data


def _draw(figure: RunFigure, drawn: Sequence[Curve], quantity: Quantity, x: str) -> None:
    axes = figure.add_subplot()
    divisor = _x_axis(axes, drawn, x)
    for index, curve in enumerate(drawn):
        _draw_curve(axes, curve, curve.data[x].to_numpy() / divisor, index, len(drawn) == 1)
    if x == _ITERATION:
        whole_numbers(axes)
    axes.set_ylabel(quantity.label)
    shown = np.concatenate([_finite(curve.data["mean"]) for curve in drawn])
    if quantity.may_be_log and suits_log(shown):
        log_axis(axes)
    _legend(figure, axes, drawn)


def _x_axis(axes: Axes, drawn: Sequence[Curve], x: str) -> float:
    """Label the x axis; returns what its values are to be divided by."""
    if x == _ITERATION:
        axes.set_xlabel("Iteration")
        return 1.0
    if x == SECONDS:
        axes.set_xlabel("Time (s)")
        return 1.0
    divisor, unit = byte_unit(max(curve.data[x].max() for curve in drawn))
    axes.set_xlabel(f"Bytes sent per node ({unit})")
    return divisor


def _draw_curve(axes: Axes, curve: Curve, x: np.ndarray, index: int, alone: bool) -> None:
    style = line_style(index)
    if curve.band:
        _draw_band(axes, curve, x, style["color"], curve.about if alone else None)
    if curve.limits and alone:
        _draw_limits(axes, curve, x, style["color"])
    every = max(1, len(x) // _MARKS)
    axes.plot(x, _finite(curve.data["mean"]), label=curve.label, markevery=every, **style)


def _draw_band(axes: Axes, curve: Curve, x: np.ndarray, colour: str, label: str | None) -> None:
    assert curve.band is not None
    low, high = (_finite(curve.data[name]) for name in curve.band)
    if len(x) == 1:  # a band over a single point would have no width
        axes.vlines(x, low, high, color=colour, alpha=0.3, linewidth=4, label=label or "")
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0, label=label)


def _draw_limits(axes: Axes, curve: Curve, x: np.ndarray, colour: str) -> None:
    assert curve.limits is not None
    marker = "_" if len(x) == 1 else ""
    for name, label in zip(curve.limits, ("min and max", None), strict=True):
        values = _finite(curve.data[name])
        axes.plot(x, values, label=label, color=colour, linewidth=0.5, alpha=0.7, marker=marker)


def _finite(column: pd.Series) -> np.ndarray:
    """Values with a gap where a loss diverged: such numbers stretch the axis beyond use."""
    values = column.to_numpy(dtype=float)
    return np.where(np.abs(values) < _DIVERGED, values, np.nan)


def _legend(figure: RunFigure, axes: Axes, drawn: Sequence[Curve]) -> None:
    """Above the axes, where it hides no data; the figure grows by what it needs."""
    handles, labels = axes.get_legend_handles_labels()
    if len(drawn) == 1:  # the mean first, then what surrounds it
        handles, labels = [handles[-1], *handles[:-1]], [labels[-1], *labels[:-1]]
    title = _title(drawn)
    width, height = figure.get_size_inches()
    columns = legend_columns(labels, width)
    rows = math.ceil(len(labels) / columns) + bool(title)
    figure.set_size_inches(width, height + LEGEND_ROW * max(0, rows - 2))
    figure.legend(
        handles, labels, title=title, ncols=columns, alignment="left", loc="outside upper left"
    )


def _title(drawn: Sequence[Curve]) -> str | None:
    about = " / ".join(dict.fromkeys(curve.about for curve in drawn if curve.about))
    return f"mean and {about}" if about and len(drawn) > 1 else None
