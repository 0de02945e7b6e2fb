"""What the figures are drawn from: spread over nodes, bands over seeds, labels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from results.curves import BYTES, curves
from results.interval import half_width_95, student
from results.load import Run, RunWarning, load_run, load_runs
from results.settings import settings

pytestmark = pytest.mark.filterwarnings("error")


def _labels(runs: Sequence[Run]) -> list[str]:
    return [setting.label for setting in settings(runs)]


def test_one_run_shows_the_spread_over_nodes(make_run: Callable[..., Any]) -> None:
    written = make_run()
    (curve,) = curves(settings([load_run(written.root)]), "test_acc")
    values = [written.values("test_acc", t) for t in curve.data["iteration"]]
    assert curve.label == "mean of 5 nodes"
    assert (curve.band, curve.limits) == (("percentile_5", "percentile_95"), ("min", "max"))
    np.testing.assert_allclose(curve.data["mean"], [v.mean() for v in values])
    np.testing.assert_allclose(curve.data["percentile_5"], [np.percentile(v, 5) for v in values])
    np.testing.assert_allclose(curve.data["max"], [v.max() for v in values])
    assert curve.data[BYTES].tolist() == [4200 * t + 2 for t in curve.data["iteration"]]
    assert curve.data["nodes"].tolist() == [5] * 4


def test_seeds_become_one_curve_with_a_band(make_run: Callable[..., Any]) -> None:
    seeds = [make_run(f"lr{lr}_{seed}", lr=lr, seed=seed) for lr in (0.1, 0.2) for seed in (1, 2)]
    first, second = curves(settings(load_runs([run.root for run in seeds])), "test_loss")
    assert (first.label, second.label) == ("lr = 0.1", "lr = 0.2")
    assert first.about == "95 % band over 2 seeds"
    means = [run.values("test_loss", 20).mean() for run in seeds[:2]]
    row = first.data.set_index("iteration").loc[20]
    half = 12.706 * np.std(means, ddof=1) / math.sqrt(2)
    np.testing.assert_allclose(row["mean"], np.mean(means))
    np.testing.assert_allclose(row["ci95_high"] - row["mean"], half, rtol=1e-3)
    np.testing.assert_allclose(row["mean"] - row["ci95_low"], half, rtol=1e-3)


def test_a_seed_that_ended_early_makes_no_jump(make_run: Callable[..., Any]) -> None:
    long, short = make_run("a", seed=1), make_run("b", seed=2, iterations=(1, 10))
    other = make_run("c", lr=1.0)
    runs = load_runs([long.root, short.root, other.root])
    said = r"lr = 0.05: the mean over 2 seeds .* up to iteration 10; b ends at 10, a at 30"
    with pytest.warns(RunWarning, match=said):
        compared = settings(runs)
    first, second = curves(compared, "test_acc")
    assert first.data["iteration"].tolist() == [1, 10]
    assert second.data["iteration"].tolist() == [1, 10, 20, 30]
    assert (second.band, second.about) == (None, "no band for 1 seed")


def test_seeds_that_share_no_evaluation_stay_apart(make_run: Callable[..., Any]) -> None:
    odd, even = make_run("odd", seed=1, iterations=(1, 3)), make_run("even", seed=2, iterations=[2])
    compared = settings(load_runs([odd.root, even.root]))
    assert [setting.label for setting in compared] == ["odd", "even"]
    assert [len(curve.data) for curve in curves(compared, "test_acc")] == [2, 1]


def test_a_metric_of_some_seeds_says_so(make_run: Callable[..., Any]) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key != "test_acc"}

    runs = [make_run("a", seed=1), make_run("b", seed=2), make_run("c", seed=3, change=change)]
    compared = settings(load_runs([run.root for run in runs]))
    with pytest.warns(RunWarning, match="test_acc was recorded by 2 of 3 seeds only"):
        (curve,) = curves(compared, "test_acc")
    assert set(curve.data["seeds"]) == {2}
    assert (curve.label, curve.about) == ("mean of 3 seeds", "95 % band over 2 seeds")


def test_the_mean_of_seeds_carries_no_single_runs_name(make_run: Callable[..., Any]) -> None:
    def label(names: Sequence[str], other: str = "") -> str:
        folder = "-".join([*names, other])
        runs = [make_run(f"{folder}/{n}", seed=i, name=n).root for i, n in enumerate(names)]
        if other:
            odd = make_run(f"{folder}/{other}", name=other, lr=1.0).root
            ini = odd / "config.ini"
            for key in ("rounds", "optimizer_class", "model_class"):  # too many for a legend
                ini.write_text(ini.read_text().replace(f"{key} = ", f"{key} = 1"))
            runs.append(odd)
        return _labels(load_runs(runs))[0]

    assert label(["night_seed1", "night_seed2", "night_seed3"]) == "mean of 3 seeds"
    assert label(["night_seed1", "night_seed2"], "day") == "night"
    assert label(["night-s1", "night-s2"], "day") == "night"
    assert label(["same", "same"], "day") == "same"
    assert label(["x1", "y2"], "day") == "x1, y2"


def test_labels_of_ones_own(make_run: Callable[..., Any]) -> None:
    runs = load_runs([make_run(f"{lr}_{s}", lr=lr, seed=s).root for lr in (1, 2) for s in (1, 2)])
    assert [setting.label for setting in settings(runs, ["slow", "fast"])] == ["slow", "fast"]
    with pytest.raises(ValueError, match="1 labels for 2 settings: 'lr = 1', 'lr = 2'"):
        settings(runs, ["slow"])


def test_a_setting_looks_the_same_in_every_figure(make_run: Callable[..., Any]) -> None:
    def untested(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key != "test_acc"}

    first, second = make_run("a", lr=1.0, change=untested), make_run("b", lr=2.0)
    compared = settings(load_runs([first.root, second.root]))
    (curve,) = curves(compared, "test_acc")
    assert (curve.label, curve.number) == ("lr = 2.0", 1)
    assert [curve.number for curve in curves(compared, "test_loss")] == [0, 1]


def test_servers_are_in_no_mean_and_no_band(make_run: Callable[..., Any]) -> None:
    written = make_run()
    server = [{"iteration": t, "uid": u, "test_acc": 0.0, "queue": 3} for t in (1, 10, 20, 30, 35)
              for u in (-1, -2)]  # fmt: skip
    with (written.root / "machine0" / "records_0.jsonl").open("a") as out:
        out.writelines(json.dumps(row) + "\n" for row in server)
    run = load_run(written.root)
    (curve,) = curves(settings([run]), "test_acc")
    assert (run.nodes, curve.label) == (5, "mean of 5 nodes")
    assert curve.data["iteration"].tolist() == [1, 10, 20, 30]
    assert curve.data["min"].min() > 0 and set(curve.data["nodes"]) == {5}
    (own,) = curves(settings([run]), "queue")  # which no node has
    assert own.data["mean"].tolist() == [3.0] * 4


def test_a_server_alone_is_called_so(make_run: Callable[..., Any]) -> None:
    run = load_run(make_run(counts=(1,), change=lambda row: row | {"uid": -1}).root)
    (curve,) = curves(settings([run]), "test_acc")
    assert (run.nodes, curve.label, len(curve.data)) == (0, "server", 4)


def test_same_seed_twice_is_not_averaged(make_run: Callable[..., Any]) -> None:
    runs = load_runs([make_run("a").root, make_run("b").root])
    assert _labels(runs) == ["a", "b"]


def test_experiments_with_much_between_them_go_by_name(make_run: Callable[..., Any]) -> None:
    one, two = make_run("a", name="small"), make_run("b", name="large", counts=(4, 4), lr=1.0)
    for key in ("rounds", "optimizer_class"):
        ini = two.root / "config.ini"
        ini.write_text(ini.read_text().replace(f"{key} = ", f"{key} = 1"))
    assert _labels(load_runs([one.root, two.root])) == ["small", "large"]


def test_runs_that_say_nothing_stay_apart(make_run: Callable[..., Any]) -> None:
    roots = [make_run(name, seed=seed).root for seed, name in enumerate("ab")]
    for root in roots:
        (root / "config.ini").unlink()
        (root / "g5k_config.json").unlink()
    assert _labels(load_runs(roots)) == ["a", "b"]


def test_run_without_the_metric_has_no_curve(make_run: Callable[..., Any]) -> None:
    assert curves(settings([load_run(make_run().root)]), "validation_acc") == []


def test_student_matches_the_printed_tables() -> None:
    printed = {
        1: 12.706,
        2: 4.303,
        5: 2.571,
        10: 2.228,
        11: 2.201,
        15: 2.131,
        30: 2.042,
        100: 1.984,
    }
    for freedom, value in printed.items():
        assert student(freedom) == pytest.approx(value, abs=6e-4)


def test_one_seed_has_no_interval() -> None:
    assert np.isnan(half_width_95(np.ones((3, 1)))).all()


def test_options_of_one_class_are_not_in_a_label_that_tells_without_them(
    make_run: Callable[..., Any],
) -> None:
    runs = []
    for name, more in (("zerosum", "self_noise = True"), ("muffliato", "accelerated = True")):
        for noise in (0.1, 0.2):
            root = make_run(f"{name}{noise}", name=name).root
            ini = root / "config.ini"
            keys = f"sharing_class = {name}\nnoise_std = {noise}\n{more}"
            ini.write_text(ini.read_text().replace("sharing_class = Sharing", keys))
            runs.append(load_run(root))
    labels = [setting.label for setting in settings(runs)]
    assert labels[0] == "zerosum, noise_std = 0.1" and labels[3] == "muffliato, noise_std = 0.2"
