"""Figures as files: fonts, stable bytes, data beside them, and runs that are not pretty."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pypdf import PdfReader
from pypdf.generic import DictionaryObject

from results import plots
from results.curves import Curve
from results.load import load_run, load_runs
from results.settings import settings
from results.style import SIZES, byte_unit, human_bytes, legend_columns, styled, suits_log

pytestmark = pytest.mark.filterwarnings("error")


def _fonts(path: Path) -> Iterator[DictionaryObject]:
    for page in PdfReader(path).pages:
        resources: Any = page["/Resources"]
        for font in resources["/Font"].get_object().values():
            yield font.get_object()
            for descendant in font.get_object().get("/DescendantFonts", []):
                yield descendant.get_object()


def test_a_figure_is_a_page_with_truetype_fonts_and_its_data(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    figure = plots.figure([load_run(make_run().root)], "consensus_distance")
    (path,) = plots.save(figure, tmp_path / "figures" / "f")
    types = {str(font["/Subtype"]) for font in _fonts(path)}
    assert types
    assert types <= {"/TrueType", "/Type0", "/CIDFontType2"}
    page = PdfReader(path).pages[0]
    assert (page.mediabox.width, page.mediabox.height) == pytest.approx(
        [72 * inches for inches in SIZES["single"]]
    )
    data = pd.read_csv(path.with_suffix(".csv"))
    assert {"curve", "iteration", "mean", "min", "max"} <= set(data)
    assert len(list(path.parent.iterdir())) == 2


def test_same_data_same_bytes(make_run: Callable[..., Any], tmp_path: Path) -> None:
    """Also in another process with other hashes, at another time."""
    root = make_run().root
    (here,) = plots.save(plots.figure([load_run(root)], "test_loss", "bytes"), tmp_path / "here")
    (again,) = plots.save(plots.figure([load_run(root)], "test_loss", "bytes"), tmp_path / "again")
    assert here.read_bytes() == again.read_bytes()

    script = (
        "import sys; from pathlib import Path; from results import load, plots\n"
        "figure = plots.figure([load.load_run(sys.argv[1])], 'test_loss', 'bytes')\n"
        "plots.save(figure, Path(sys.argv[2]).with_suffix(''))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    there = tmp_path / "there.pdf"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-c", script, str(root), str(there)]
    subprocess.run(command, check=True, env=environment, timeout=60)
    assert here.read_bytes() == there.read_bytes()
    assert here.with_suffix(".csv").read_bytes() == there.with_suffix(".csv").read_bytes()


def test_comparison_has_one_line_a_setting(make_run: Callable[..., Any]) -> None:
    roots = [make_run(f"{lr}_{seed}", lr=lr, seed=seed).root for lr in (1, 2) for seed in (1, 2)]
    figure = plots.figure(load_runs(roots), "test_acc", "bytes", "double")
    (axes,) = figure.axes
    assert [str(line.get_label()) for line in axes.lines] == ["lr = 1", "lr = 2"]
    assert len({(line.get_marker(), line.get_color()) for line in axes.lines}) == 2
    assert len({str(line.get_linestyle()) for line in axes.lines}) == 2
    assert len(axes.collections) == 2
    assert figure.legends[0].get_title().get_text() == "mean and 95 % band over 2 seeds"
    assert axes.get_xlabel() == "Bytes sent per node (kB)"
    assert figure.get_size_inches()[0] == 6.9


def test_losses_are_logarithmic_when_it_helps(make_run: Callable[..., Any]) -> None:
    run = load_run(make_run(iterations=(1, 40, 80)).root)
    assert plots.figure([run], "train_loss").axes[0].get_yscale() == "log"
    assert plots.figure([run], "test_acc").axes[0].get_yscale() == "linear"
    short = load_run(make_run("short", iterations=(1, 2)).root)
    assert plots.figure([short], "train_loss").axes[0].get_yscale() == "linear"


def test_a_metric_has_one_scale_in_all_figures(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    """The run whose losses fall by much has no bytes: its scale counts for the other's too."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key != "total_bytes"}

    flat = make_run("flat", lr=1, change=lambda row: row | {"train_loss": 1.0})
    steep = make_run("steep", lr=2, iterations=(1, 40, 80), change=change)
    runs = load_runs([flat.root, steep.root])
    by_bytes = plots.figure(runs, "train_loss", "bytes")
    assert set(by_bytes.data["curve"]) == {"lr = 1"}
    assert by_bytes.axes[0].get_yscale() == "log"
    assert plots.figure(runs, "train_loss").axes[0].get_yscale() == "log"
    assert plots.figure(runs[:1], "train_loss").axes[0].get_yscale() == "linear"


def test_the_scale_can_be_chosen(make_run: Callable[..., Any], tmp_path: Path) -> None:
    run = load_run(make_run(iterations=(1, 40, 80)).root)

    def scale(metric: str, log: bool | None) -> str:
        return str(plots.figure([run], metric, log=log).axes[0].get_yscale())

    assert [scale("train_loss", log) for log in (None, True, False)] == ["log", "log", "linear"]
    assert [scale("test_acc", log) for log in (None, True, False)] == ["linear", "log", "linear"]
    plots.save_figures(settings([run]), tmp_path, plots.Look(log=["test_acc"]), ["train_loss"])
    linear = plots.save(plots.figure([run], "train_loss", log=False), tmp_path / "linear")
    assert (tmp_path / "train_loss_iteration.pdf").read_bytes() == linear[0].read_bytes()


def test_nothing_positive_has_no_logarithm(make_run: Callable[..., Any]) -> None:
    run = load_run(make_run(change=lambda row: row | {"test_gain": -1.0}).root)
    assert plots.figure([run], "test_gain", log=True).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e300])
def test_strange_losses_are_drawn(
    make_run: Callable[..., Any], tmp_path: Path, value: float
) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        late = row["iteration"] >= 20 and row["uid"] < 4
        return row | {"train_loss": value} if late else row

    figure = plots.figure([load_run(make_run(change=change).root)], "train_loss")
    plots.save(figure, tmp_path / "f")
    assert np.isfinite(figure.axes[0].get_ylim()).all()


def test_all_losses_lost(make_run: Callable[..., Any], tmp_path: Path) -> None:
    run = load_run(make_run(change=lambda row: row | {"train_loss": math.nan}).root)
    plots.save(plots.figure([run], "train_loss", "bytes"), tmp_path / "f")


def test_one_node_is_a_line_without_a_band(make_run: Callable[..., Any], tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"consensus_distance": 0.0, "total_bytes": 0}

    run = load_run(make_run(counts=(1,), change=change).root)
    plots.save(plots.figure([run], "consensus_distance"), tmp_path / "zero")
    figure = plots.figure([run], "test_acc", "bytes")
    plots.save(figure, tmp_path / "f")
    (axes,) = figure.axes
    assert [str(line.get_label()) for line in axes.lines] == ["1 node"]
    assert not axes.collections


def test_one_evaluation_is_a_point(make_run: Callable[..., Any], tmp_path: Path) -> None:
    figure = plots.figure([load_run(make_run(iterations=[1]).root)], "test_acc")
    plots.save(figure, tmp_path / "f")
    assert figure.axes[0].get_xlim() == (0, 2)


def test_figures_without_data_are_skipped(make_run: Callable[..., Any], tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {key: row[key] for key in ("iteration", "uid", "machine", "rank", "test_acc")}

    run = load_run(make_run(change=change).root)
    saved = plots.save_figures(settings([run]), tmp_path)
    assert [path.name for path in saved] == ["test_accuracy_iteration.pdf"]
    with pytest.raises(plots.NothingToPlotError, match="no run recorded train_loss"):
        plots.figure([run], "train_loss")


def test_notebooks_can_show_a_figure(make_run: Callable[..., Any]) -> None:
    figure = plots.figure([load_run(make_run().root)], "test_loss")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_figure_grows_with_its_legend(make_run: Callable[..., Any]) -> None:
    roots = [make_run(str(lr), lr=lr).root for lr in range(9)]
    figure = plots.figure(load_runs(roots), "test_acc")
    lines = figure.axes[0].lines
    assert len({(line.get_color(), str(line.get_marker())) for line in lines}) == 9
    assert figure.get_size_inches()[1] > SIZES["single"][1]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("text", ["lr = 0.{}", "a method with a rather long name {}", "WWWWW {}"])
def test_a_legend_stays_in_its_figure(count: int, text: str) -> None:
    data = pd.DataFrame({"iteration": [1, 2], "mean": [1.0, 2.0]})
    drawn = [Curve(text.format(i), data, None, None, "", i) for i in range(count)]
    figure = plots.draw_curves(drawn, "test_acc", "iteration", plots.Look(), False)
    with styled():
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    if text.startswith("lr"):
        assert figure.legends[0]._ncols == min(count, 4)


def test_units_are_human() -> None:
    assert [human_bytes(count) for count in (0, 999, 1000, 12_345_678, 4.2e12, math.nan)] == [
        "0 B",
        "999 B",
        "1 kB",
        "12.3 MB",
        "4.2 TB",
        "unknown",
    ]
    assert byte_unit(2.5e9) == (1e9, "GB")
    assert legend_columns(["a" * 100, "b"], 3.33) == 1
    assert legend_columns(["a", "b", "c"], 3.33) == 3
    assert suits_log(np.array([1.0, 10.0, np.nan])) and not suits_log(np.array([0.0, 10.0]))
    assert not suits_log(np.array([np.nan]))


def test_the_time_axis_says_when_it_is_simulated(make_run: Callable[..., Any]) -> None:
    real, simulated = load_runs([make_run("real", lr=1).root, make_run("simulated", lr=2).root])
    simulated.provenance["simulation"] = {"links": {}}
    for runs, label in [
        ([simulated], "Simulated time (s)"), ([real], "Time (s)"), ([real, simulated], "Time (s)")
    ]:  # fmt: skip
        figure = plots.figure(runs, "test_acc", "seconds")
        assert figure.axes[0].get_xlabel() == label
        assert figure.data["seconds"].tolist()[:4] == pytest.approx([0.1, 1.0, 2.0, 3.0])


def test_a_band_of_many_points_is_drawn_in_parts_that_cover_it() -> None:
    x = np.arange(10_001)
    low, high = np.sin(x / 50.0), np.sin(x / 50.0) + 1
    low[7], high[7], high[5000] = np.nan, np.nan, 9
    parts = plots.envelope(x, low, high)
    assert 1000 < len(parts[0]) <= 2000
    at = np.searchsorted(parts[0], x, side="right") - 1
    told = np.isfinite(low)
    assert (parts[1][at][told] <= low[told]).all() and (parts[2][at][told] >= high[told]).all()
    assert np.nanmax(parts[2]) == 9 and parts[0][-1] == x[-1]
    assert len(plots.envelope(x[:100], low[:100], high[:100])[0]) == 100
