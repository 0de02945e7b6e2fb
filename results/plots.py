"""Figures of a run or of several, ready for a paper.

A figure of one run shows the mean over its nodes, the band that holds nine nodes in ten (5 to
95 %) and, as thin lines, the worst and the best node. A figure of several runs shows one line
per setting; runs that differ by their seed only become one line with a 95 % band for the mean.
Its data are saved beside it as CSV. Whether an axis is logarithmic is chosen per metric, from all
curves of the comparison, so that figures of the same data look the same.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from decentralizepy.files import replacing
from results.csvfile import write_csv
from results.curves import BYTES, ITERATION, SECONDS, Curve, curves
from results.load import Run
from results.metrics import file_name, label, may_be_log
from results.settings import Setting, settings
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
from results.tables import compared_metrics
from results.usage import ENERGY

#: What a metric can be drawn against -> the column of its curves
AXES: Final[dict[str, str]] = {
    "iteration": ITERATION, "bytes": BYTES, "seconds": SECONDS, "joules": ENERGY,
}  # fmt: skip
#: Metadata without a date, by format.
_UNDATED: Final[dict[str, dict[str, Any]]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {},
}
FORMATS: Final = tuple(_UNDATED)
_MARKS: Final = 8
#: With more curves, bands are paler: they lie upon each other.
_FEW: Final = 4
#: A band, or limits, of more points than twice these are drawn in so many parts: each is a tenth
#: of a point wide in a figure, which is as fine as matplotlib draws lines.
_PARTS: Final = 2000
#: Where float32 is about to overflow.
_DIVERGED: Final = 1e30


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


@dataclass(frozen=True)
class Look:
    """What people choose about figures: ``width`` is a key of `results.style.SIZES`.

    ``log`` names the metrics with a logarithmic axis; None chooses by the data.
    """

    width: str = "single"
    log: Collection[str] | None = None
    formats: Sequence[str] = ("pdf",)


def figure(
    runs: Sequence[Run],
    metric: str,
    against: str = "iteration",
    width: str = "single",
    log: bool | None = None,
) -> RunFigure:
    """A metric against one of `AXES`; raises `NothingToPlotError` if no run recorded both.

    Seconds, bytes and joules count from the first training step. The time of a simulated run is
    simulated, and so says the axis when all runs are.
    """
    drawn = curves(settings(runs), metric)
    look = Look(width, None if log is None else [metric] * log)
    return draw_curves(drawn, metric, against, look, all(run.simulated for run in runs))


def save_figures(
    compared: Sequence[Setting],
    folder: Path,
    look: Look = Look(),
    metrics: Sequence[str] = (),
) -> list[Path]:
    """Write every figure that the runs have data for; returns the figures, without their data.

    ``metrics`` are drawn against all of `AXES`; without it, all that were evaluated, the consensus
    distance and the programs' own are, against what is usual for them.
    """
    runs = [run for setting in compared for run in setting.runs]
    simulated = all(run.simulated for run in runs)
    saved: list[Path] = []
    for metric in metrics or compared_metrics(runs):
        drawn = curves(compared, metric)
        for against in AXES if metrics else usual_axes(metric):
            with suppress(NothingToPlotError):
                made = draw_curves(drawn, metric, against, look, simulated)
                stem = folder / f"{file_name(metric)}_{against}"
                saved += save(made, stem, look.formats)
    return saved


def usual_axes(metric: str) -> Sequence[str]:
    """What a metric is drawn against unless it is asked for: training time is for results."""
    if metric.startswith("test_") and not metric.endswith("_loss"):
        return tuple(AXES)
    if metric.startswith(("test_", "train_")):
        return ("iteration", "bytes")
    return ("iteration",)


def save(made: RunFigure, stem: Path, formats: Sequence[str] = ("pdf",)) -> list[Path]:
    """Write a figure in each format, and its data as CSV; the same data give the same bytes."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in formats]
    for path, kind in zip(paths, formats, strict=True):
        with styled(), replacing(path) as aside:
            made.savefig(aside, format=kind, metadata=_UNDATED[kind])
    write_csv(made.data, stem.with_name(f"{stem.name}.csv"))
    return paths


def draw_curves(
    drawn: Sequence[Curve], metric: str, against: str, look: Look, simulated: bool
) -> RunFigure:
    """The curves of a metric; raises `NothingToPlotError` if none has what it is drawn against."""
    x = AXES[against]
    shown = [curve for curve in drawn if x in curve.data and len(curve.data)]
    if not shown:
        raise NothingToPlotError(f"no run recorded {metric} by {against}")
    data = pd.concat([_labelled(curve) for curve in shown], ignore_index=True)
    with styled():
        made = RunFigure(look.width, data)
        axes = made.add_subplot()
        _draw(axes, shown, x)
        axes.set_ylabel(label(metric))
        if x == SECONDS and simulated:
            axes.set_xlabel("Simulated time (s)")
        if _is_log(metric, drawn, look):
            log_axis(axes)
        _legend(made, axes, shown)
    return made


def _is_log(metric: str, drawn: Sequence[Curve], look: Look) -> bool:
    """Decided by all curves of a metric, also those that this figure has no x for."""
    values = np.concatenate([_finite(curve.data["mean"]) for curve in drawn])
    if look.log is not None:
        return metric in look.log and bool((values > 0).any())
    return may_be_log(metric) and suits_log(values)


def _labelled(curve: Curve) -> pd.DataFrame:
    data = curve.data.copy()
    data.insert(0, "curve", curve.label)
    return data


def _draw(axes: Axes, drawn: Sequence[Curve], x: str) -> None:
    divisor = _x_axis(axes, drawn, x)
    for curve in drawn:
        _draw_curve(axes, curve, curve.data[x].to_numpy() / divisor, len(drawn))
    if x == ITERATION:
        whole_numbers(axes)


def _x_axis(axes: Axes, drawn: Sequence[Curve], x: str) -> float:
    """Label the x axis; returns what its values are to be divided by."""
    if x == ITERATION:
        axes.set_xlabel("Iteration")
        return 1.0
    if x == SECONDS:
        axes.set_xlabel("Time (s)")
        return 1.0
    if x == ENERGY:
        axes.set_xlabel("Energy of all nodes (J)")
        return 1.0
    divisor, unit = byte_unit(max(curve.data[x].max() for curve in drawn))
    axes.set_xlabel(f"Bytes sent per node ({unit})")
    return divisor


def _draw_curve(axes: Axes, curve: Curve, x: np.ndarray, count: int) -> None:
    style, alone = line_style(curve.number), count == 1
    if curve.band:
        alpha = 0.22 if count <= _FEW else 0.1
        _draw_band(axes, curve, x, style["color"], alpha, curve.about if alone else None)
    if curve.limits and alone:
        _draw_limits(axes, curve, x, style["color"])
    every = max(1, len(x) // _MARKS)
    axes.plot(x, _finite(curve.data["mean"]), label=curve.label, markevery=every, **style)


def _draw_band(
    axes: Axes, curve: Curve, x: np.ndarray, colour: str, alpha: float, label: str | None
) -> None:
    assert curve.band is not None
    low, high = (_finite(curve.data[name]) for name in curve.band)
    if len(x) == 1:  # a band over a single point would have no width
        axes.vlines(x, low, high, color=colour, alpha=0.3, linewidth=4, label=label or "")
    else:
        x, low, high = envelope(x, low, high)
        axes.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0, label=label)


def envelope(
    x: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A band of many points in `_PARTS` parts, each as wide as its widest; others as they are.

    ``x`` [n] ascends; ``low`` and ``high`` [n] may have gaps of NaN.
    """
    if len(x) <= 2 * _PARTS:
        return x, low, high
    starts = np.linspace(0, len(x) - 1, _PARTS).astype(np.int64)  # the last point is a part
    return x[starts], np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts)


def _draw_limits(axes: Axes, curve: Curve, x: np.ndarray, colour: str) -> None:
    assert curve.limits is not None
    marker = "_" if len(x) == 1 else ""
    x, *limits = envelope(x, *(_finite(curve.data[name]) for name in curve.limits))
    for values, said in zip(limits, ("min and max", None), strict=True):
        axes.plot(x, values, label=said, color=colour, linewidth=0.5, alpha=0.7, marker=marker)


def _finite(column: pd.Series) -> np.ndarray:
    """Values with a gap where a loss diverged: such numbers stretch the axis beyond use."""
    values = column.to_numpy(dtype=float)
    return np.where(np.abs(values) < _DIVERGED, values, np.nan)


def _legend(figure: RunFigure, axes: Axes, drawn: Sequence[Curve]) -> None:
    """Above the axes, where it hides no data; the figure grows by what it needs."""
    handles, labels = axes.get_legend_handles_labels()
    if len(drawn) == 1:  # the mean first, then what surrounds it
        handles, labels = [handles[-1], *handles[:-1]], [labels[-1], *labels[:-1]]
    put_legend(figure, handles, labels, _title(drawn))


def put_legend(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str | None = None
) -> None:
    """A legend above the axes in as many columns as fit; the figure grows by what it needs."""
    width, height = figure.get_size_inches()
    columns = legend_columns(labels, width)
    rows = math.ceil(len(labels) / columns) + bool(title)
    figure.set_size_inches(width, height + LEGEND_ROW * max(0, rows - 2))
    figure.legend(
        handles, labels, title=title, ncols=columns, alignment="left", loc="outside upper left"
    )


def legend_of(figure: Figure) -> tuple[list[Any], list[str]]:
    """Handles and labels of all axes of a figure, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, said in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(said, handle)
    return [*found.values()], [*found]


def _title(drawn: Sequence[Curve]) -> str | None:
    if len(drawn) == 1:
        return None
    about = dict.fromkeys(c.about for c in sorted(drawn, key=lambda c: c.band is None) if c.about)
    return f"mean and {', '.join(about)}" if any(curve.band for curve in drawn) else None
