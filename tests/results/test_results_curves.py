"""What the figures are drawn from: spread over nodes, bands over seeds, labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from results.curves import BYTES, curves, grouped, half_width_95, student
from results.load import load_run, load_runs

pytestmark = pytest.mark.filterwarnings("error")


def test_one_run_shows_the_spread_over_nodes(make_run: Callable[..., Any]) -> None:
    written = make_run()
    (curve,) = curves([load_run(written.root)], "test_acc")
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
    first, second = curves(load_runs([run.root for run in seeds]), "test_loss")
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
    first, second = curves(load_runs([long.root, short.root, other.root]), "test_acc")
    assert first.data["iteration"].tolist() == [1, 10]
    assert second.data["iteration"].tolist() == [1, 10, 20, 30]
    assert (second.band, second.about) == (None, "")


def test_same_seed_twice_is_not_averaged(make_run: Callable[..., Any]) -> None:
    runs = load_runs([make_run("a").root, make_run("b").root])
    assert list(grouped(runs)) == ["a", "b"]


def test_experiments_with_much_between_them_go_by_name(make_run: Callable[..., Any]) -> None:
    one, two = make_run("a", name="small"), make_run("b", name="large", counts=(4, 4), lr=1.0)
    for key in ("rounds", "optimizer_class"):
        ini = two.root / "config.ini"
        ini.write_text(ini.read_text().replace(f"{key} = ", f"{key} = 1"))
    assert list(grouped(load_runs([one.root, two.root]))) == ["small", "large"]


def test_runs_that_say_nothing_stay_apart(make_run: Callable[..., Any]) -> None:
    roots = [make_run(name, seed=seed).root for seed, name in enumerate("ab")]
    for root in roots:
        (root / "config.ini").unlink()
        (root / "g5k_config.json").unlink()
    assert list(grouped(load_runs(roots))) == ["a", "b"]


def test_run_without_the_metric_has_no_curve(make_run: Callable[..., Any]) -> None:
    assert curves([load_run(make_run().root)], "validation_acc") == []


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
