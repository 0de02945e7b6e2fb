"""What the shapes share: runs on the digits, means over seeds, a figure with its data beside it."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decentralizepy import run_here
from decentralizepy.graphs.generators import regular
from results.style import SIZES, line_style, styled

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
SEEDS = (90, 91, 92)
_PLAIN = "decentralizepy.sharing.Sharing\nsharing_class = Sharing"


@dataclass(frozen=True)
class Setting:
    """A sharing method with its options, and the averaging rounds of an iteration."""

    name: str
    sharing: str = "Sharing"
    options: str = ""
    rounds: int = 1


def best_accuracy(
    setting: Setting, seed: int, *, nodes: int = 16, degree: int = 4, iterations: int = 100,
    partition: str = "iid",
) -> float:  # fmt: skip
    """The most, over the evaluations of a run, that nodes reach on average on the test set (%)."""
    text = (ROOT / "run_configuration" / "digits_kshard2_mlp.ini").read_text()
    named = f"decentralizepy.sharing.{setting.sharing}\nsharing_class = {setting.sharing}"
    text = text.replace(_PLAIN, f"{named}\n{setting.options}")
    text = text.replace("random_seed = 90", f"random_seed = {seed}").replace("kshard", partition)
    found = run_here(
        text, regular(nodes, degree, seed), iterations, averaging_rounds=setting.rounds,
        test_after=iterations // 4, train_evaluate_after=0, reset_optimizer=0,
    )  # fmt: skip
    reached: dict[int, list[float]] = {}
    for record in found.records:
        reached.setdefault(record["iteration"], []).append(record["test_acc"])
    return max(statistics.fmean(values) for values in reached.values())


def save_data(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``rows`` as ``docs/figures/<name>.csv``."""
    FIGURES.mkdir(exist_ok=True)
    with (FIGURES / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(
    name: str, curves: Mapping[str, Mapping[float, Sequence[float]]], x: str, y: str,
    level: tuple[str, float] | None = None, ticks: Sequence[float] = (),
) -> None:  # fmt: skip
    """Save ``docs/figures/<name>.png``: a curve of means with all its values, by seed, behind it.

    ``level`` is a name and a value for a horizontal line; without ``ticks``, those of the last
    curve's points are taken.
    """
    from matplotlib.figure import Figure

    with styled():
        canvas = Figure(figsize=SIZES["single"], layout="constrained")
        axes = canvas.add_subplot()
        for index, (label, points) in enumerate(curves.items()):
            means = [statistics.fmean(values) for values in points.values()]
            (line,) = axes.plot(list(points), means, label=label, **line_style(index))
            low, high = ([f(values) for values in points.values()] for f in (min, max))
            axes.fill_between(list(points), low, high, color=line.get_color(), alpha=0.2, lw=0)
        if level is not None:
            axes.axhline(level[1], color="black", lw=0.8, ls=(0, (1, 2)), label=level[0])
        axes.set(xlabel=x, ylabel=y, xscale="log")
        axes.set_xticks(ticks or list(points), [f"{value:g}" for value in ticks or points])
        axes.minorticks_off()
        axes.legend()
        canvas.savefig(FIGURES / f"{name}.png")
