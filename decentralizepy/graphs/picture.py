"""A picture of a graph, as a PDF that is the same, byte for byte, each time it is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from decentralizepy.graphs.files import written_aside
from decentralizepy.graphs.graph import Graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Positions = NDArray[np.float64]

CIRCLE_UP_TO = 24
"""Up to this many nodes, a circle shows every edge."""

SPRINGS_UP_TO = 2000
"""Beyond, springs would take minutes and show no more than a circle does."""

LABELS_UP_TO = 150
SMALLEST_NODE, LARGEST_NODE = 3.0, 14.0
"""Diameters in points."""

SINGLE_COLUMN, DOUBLE_COLUMN = 3.33, 6.9
"""Widths in inches."""

BLUE, GREY = "#0072B2", "#5f5f5f"


def draw(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Draw ``graph`` into the PDF file ``path``: nodes by uid, arrows for one-way edges.

    Raises:
        ValueError: if ``path`` doesn't end in ``.pdf``.
        ImportError: if matplotlib is missing; says how to install it.
        OSError: if the file can't be written.
    """
    path = Path(path)
    if path.suffix != ".pdf":
        raise ValueError(f"{path}: pictures are PDF files: let the name end in .pdf")
    try:
        import matplotlib
    except ImportError:
        raise ImportError(
            "a picture needs matplotlib: pip install 'decentralizepy[results]'"
        ) from None

    # TrueType fonts, as publishers ask; no date, so that the same graph gives the same file.
    with matplotlib.rc_context({"pdf.fonttype": 42}), written_aside(path) as draft:
        figure(graph).savefig(draft, format="pdf", metadata={"CreationDate": None})


def figure(graph: Graph) -> Figure:
    """The picture as a matplotlib figure, to be saved or put into a notebook."""
    from matplotlib.figure import Figure

    width = SINGLE_COLUMN if graph.n <= CIRCLE_UP_TO else DOUBLE_COLUMN
    canvas = Figure(figsize=(width, width), layout="constrained")
    axes = canvas.add_subplot()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.margins(0.06)
    places = positions(graph)
    diameter = _diameter(places, width)
    _draw_edges(axes, graph, places, diameter)
    _draw_nodes(axes, graph, places, diameter)
    axes.set_title(graph.describe(), fontsize=8)
    return canvas


def positions(graph: Graph) -> Positions:
    """Where the nodes are drawn: float64 ``[n, 2]``, inside the unit square.

    On a circle if they are few (or far too many); else where springs along the edges put them.
    """
    springs = CIRCLE_UP_TO < graph.n <= SPRINGS_UP_TO
    places = _springs(graph) if springs else _circle(graph.n)
    low, high = places.min(axis=0), places.max(axis=0)
    span = float((high - low).max()) or 1.0
    return (places - (low + high) / 2) / span + 0.5


def _circle(n: int) -> Positions:
    """Clockwise from the top."""
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def _springs(graph: Graph) -> Positions:
    """A force-directed layout that starts from the circle: the same each time."""
    import networkx as nx

    drawn = nx.Graph(graph.edges)
    drawn.add_nodes_from(range(graph.n))
    start = dict(enumerate(_circle(graph.n)))
    steps = int(np.clip(40_000 // graph.n, 50, 300))
    try:
        places = nx.spring_layout(drawn, pos=start, iterations=steps, seed=0)
    except ImportError:  # from 500 nodes on networkx wants scipy, which may be missing
        places = start
    return np.array([places[uid] for uid in range(graph.n)])


def _diameter(places: Positions, width: float) -> float:
    """The size of a node in points: under the usual distance between nearest neighbours."""
    if len(places) == 1 or len(places) > SPRINGS_UP_TO:
        return LARGEST_NODE if len(places) == 1 else SMALLEST_NODE
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    usual = float(np.median(gaps.min(axis=0))) * 0.85 * width * 72
    return float(np.clip(0.7 * usual, SMALLEST_NODE, LARGEST_NODE))


def _draw_edges(axes: Axes, graph: Graph, places: Positions, diameter: float) -> None:
    from matplotlib.collections import LineCollection

    width = min(0.8, 18 / (graph.size + 1) ** 0.5)
    if graph.is_symmetric():
        lines = [places[[u, v]] for u, v in graph.edges if u < v]
        axes.add_collection(LineCollection(lines, colors=GREY, linewidths=width, zorder=1))
        return
    arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": width, "mutation_scale": 4}
    gap = diameter / 2
    for u, v in graph.edges:
        style = {**arrow, "shrinkA": gap, "shrinkB": gap}
        axes.annotate("", places[v], places[u], arrowprops=style, zorder=1)


def _draw_nodes(axes: Axes, graph: Graph, places: Positions, diameter: float) -> None:
    x, y = places.T
    axes.scatter(
        x, y, s=diameter**2, c=BLUE, edgecolors="white", linewidths=0.4, zorder=2, clip_on=False
    )
    if graph.n > LABELS_UP_TO:
        return
    style: dict[str, Any] = {"color": "white", "ha": "center", "va": "center_baseline"}
    for uid in range(graph.n):
        axes.text(x[uid], y[uid], str(uid), fontsize=0.5 * diameter, **style)
