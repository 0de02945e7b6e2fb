"""The figures of a report as SVG, to stand in the page itself."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from results.curves import curves
from results.figures.node_map import node_map
from results.figures.phases import phases
from results.load import Run
from results.metrics import headlines, label
from results.plots import Look, NothingToPlotError, RunFigure, draw_curves
from results.privacy import attack_tables
from results.settings import Setting
from results.style import styled
from results.tables import compared_metrics

#: a page with more pictures is not read
_MOST_METRICS: Final = 12


@dataclass(frozen=True)
class Picture:
    """A figure as SVG text, with what it shows."""

    title: str
    svg: str


def pictures(compared: Sequence[Setting]) -> list[Picture]:
    """Every figure for which there are data; raises nothing for those that there are none for."""
    return list(_pictures(compared))


def _pictures(compared: Sequence[Setting]) -> Iterator[Picture]:
    runs = [run for setting in compared for run in setting.runs]
    number = 0
    for metric in compared_metrics(runs)[:_MOST_METRICS]:
        for against in ("iteration", "bytes") if metric.startswith("test_acc") else ("iteration",):
            made = _made(partial(_curve, compared, runs, metric, against))
            if made is not None:
                number += 1
                yield Picture(f"{label(metric)} against {against}", svg(made, f"c{number}"))
    if len(runs) == 1:
        metric = next(iter(headlines(compared_metrics(runs))), "test_acc")
        made = _made(lambda: node_map(runs[0], metric))
        if made is not None:
            yield Picture(f"Topology and {label(metric).lower()}", svg(made, "topology"))
    made = _made(lambda: phases(runs))
    if made is not None:
        yield Picture("Where a node's time went", svg(made, "phases"))
    if any(attack_tables(run.folder) for run in runs):
        yield from _of_attacks(runs)


def _curve(
    compared: Sequence[Setting], runs: Sequence[Run], metric: str, against: str
) -> RunFigure:
    simulated = all(run.simulated for run in runs)
    return draw_curves(curves(compared, metric), metric, against, Look(), simulated)


def _of_attacks(runs: Sequence[Run]) -> Iterator[Picture]:
    from results.figures.attack_success import attack_success
    from results.figures.trade_off import trade_off

    found: list[tuple[str, Callable[[], RunFigure]]] = [
        ("Membership attack over time", lambda: attack_success(runs)),
    ]
    if len(runs) > 1:
        found.append(("Privacy against utility", lambda: trade_off(runs)))
    for number, (title, make) in enumerate(found):
        made = _made(make)
        if made is not None:
            yield Picture(title, svg(made, f"a{number}"))


def _made(make: Callable[[], RunFigure]) -> RunFigure | None:
    try:
        return make()
    except (NothingToPlotError, ValueError):
        return None


def svg(made: RunFigure, prefix: str) -> str:
    """The figure as an ``<svg>`` element whose ids begin with ``prefix``, so that several may
    stand in one page."""
    buffer = io.StringIO()
    with styled():
        made.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    for name in sorted(ids, key=len, reverse=True):
        text = text.replace(f'id="{name}"', f'id="{prefix}-{name}"')
        text = text.replace(f'"#{name}"', f'"#{prefix}-{name}"')
        text = text.replace(f"url(#{name})", f"url(#{prefix}-{name})")
    return text
