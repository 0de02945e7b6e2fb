"""How our figures look: sizes, fonts, colours, and axes that people can read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from itertools import accumulate
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

#: (width, height) in inches: one column and two columns of a conference paper
SIZES: Final[dict[str, tuple[float, float]]] = {"single": (3.33, 2.4), "double": (6.9, 3.0)}
#: Height in inches of a line of the legend.
LEGEND_ROW: Final = 0.14
#: The palette of Okabe and Ito without black and yellow (too pale for lines), then grey.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
DASHES: Final = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (3, 1)))

_LEGEND_SIZE: Final = 7
_EM: Final = _LEGEND_SIZE / 72
#: Inches of a legend's handle with the pad behind it, between columns, and around it.
_HANDLE: Final = 2.4 * _EM
_GAP: Final = 1.2 * _EM
_MARGIN: Final = 1.0 * _EM

_STYLE: Final[Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same file on every machine
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": _LEGEND_SIZE,
    "legend.title_fontsize": _LEGEND_SIZE,
    "legend.frameon": False,
    "legend.borderpad": 0.0,
    "legend.borderaxespad": 0.4,
    "legend.handlelength": 1.9,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "pdf.compression": 6,
    "svg.fonttype": "none",
    "svg.hashsalt": "results",  # the same file every time
    "text.usetex": False,
    "savefig.dpi": 200,
    "savefig.bbox": "standard",
}

_BYTE_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
#: A curve spanning less than this factor is easier to read on a linear axis.
_LOG_FROM: Final = 8.0


def styled() -> AbstractContextManager[None]:
    """Our style for the time of a ``with`` block: both while drawing and while saving."""
    return rc_context(_STYLE)


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the ``index``-th curve: distinct also in black and white."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
    }


def byte_unit(largest: float) -> tuple[float, str]:
    """(divisor, unit) that shows ``largest`` bytes as 1 to 1000, in powers of 1000."""
    power = 0
    while largest >= 1000 and power < len(_BYTE_UNITS) - 1:
        largest /= 1000
        power += 1
    return 1000.0**power, _BYTE_UNITS[power]


def human_bytes(count: float) -> str:
    """A number of bytes in words: 12.3 MB."""
    if not math.isfinite(count):
        return "unknown"
    divisor, unit = byte_unit(count)
    return f"{count:.0f} B" if unit == "B" else f"{count / divisor:.3g} {unit}"


def legend_columns(labels: Sequence[str], width: float) -> int:
    """The most columns in which a legend with these labels fits into ``width`` inches."""
    wide = [_entry_width(label) for label in labels]
    for columns in range(len(labels), 1, -1):
        rows, longer = divmod(len(labels), columns)  # matplotlib's first columns are the longer
        sizes = [rows + 1] * longer + [rows] * (columns - longer)
        ends = list(accumulate(sizes))
        widest = [max(wide[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
        if sum(widest) + _GAP * (columns - 1) <= width - _MARGIN:
            return columns
    return 1


@cache  # text paths are slow, and the figures of a run have the same legend
def _entry_width(label: str) -> float:
    """Inches of a legend's handle, pad and text."""
    with styled():
        text = TextPath((0, 0), label, size=_LEGEND_SIZE).get_extents().width
    return float(text) / 72 + _HANDLE


def suits_log(values: np.ndarray) -> bool:
    """Whether values are all positive and span enough for a logarithmic axis."""
    finite = values[np.isfinite(values)]
    if finite.size == 0 or finite.min() <= 0:
        return False
    return bool(finite.max() / finite.min() >= _LOG_FROM)


def log_axis(axes: Axes) -> None:
    """A logarithmic y axis labelled in plain numbers, also between powers of ten when few."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def whole_numbers(axes: Axes) -> None:
    """An x axis of iterations: ticks at whole numbers only, also for a single one."""
    low, high = axes.get_xlim()
    if high - low < 1:
        middle = round((low + high) / 2)
        axes.set_xlim(middle - 1, middle + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 2.5, 5, 10]))
