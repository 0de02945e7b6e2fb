"""``python -m results compare``: pairs of seeds, nodes of single runs, and plain recomputation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from results.cli import main


def _shifted(by: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: {**row, "test_acc": row["test_acc"] + by}


def _compared(roots: list[Path], output: Path, *flags: str) -> pd.DataFrame:
    words = ["compare", *map(str, roots), "--output", str(output), *flags]
    assert main(words) == 0
    return pd.read_csv(output)


def test_seeds_are_paired(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = [make_run(f"a{seed}", seed=seed) for seed in (1, 2, 3, 4)]
    two = [make_run(f"b{seed}", seed=seed, lr=1, change=_shifted(0.1 * seed)) for seed in (4, 2, 3)]
    roots = [written.root for written in (*one, *two)]
    row = _compared(roots, tmp_path / "c.csv", "--metrics", "test_acc").iloc[0]
    means = [[w.values("test_acc", 30).mean() for w in side] for side in (one, two)]
    expected = stats.ttest_rel([means[1][1], means[1][2], means[1][0]], means[0][1:])
    assert (row["over"], row["paired"], row["n"]) == ("seeds", True, 3)
    assert (row["t"], row["p_t"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert row["difference"] == pytest.approx(0.3)
    assert row["p_wilcoxon"] == 0.25  # of three pairs there is nothing lower
    assert "significant at 5 %" in capsys.readouterr().out


def test_other_seeds_are_not(make_run: Callable[..., Any], tmp_path: Path) -> None:
    one = [make_run(f"a{seed}", seed=seed) for seed in (1, 2, 3)]
    two = [make_run(f"b{seed}", seed=seed, lr=1) for seed in (4, 5)]
    frame = _compared([w.root for w in (*one, *two)], tmp_path / "c.csv")
    assert set(frame["metric"]) == {"test_acc"}
    means = [[w.values("test_acc", 30).mean() for w in side] for side in (one, two)]
    expected = stats.ttest_ind(means[1], means[0], equal_var=False)
    assert not frame["paired"].any() and np.isnan(frame["p_wilcoxon"]).all()
    assert frame["p_t"].item() == pytest.approx(expected.pvalue)


def test_single_runs_go_by_node_and_attacks_count(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [make_run("a").root, make_run("b", lr=1, seed=2).root, make_run("c", lr=2).root]
    for number, root in enumerate(roots):
        (root / "attacks").mkdir()
        rows = [{"agent": uid, "target": 0, "iteration": t, "roc_auc": 0.5 + uid * number / 100}
                for t in (1, 30) for uid in range(5)]  # fmt: skip
        pd.DataFrame(rows).to_csv(root / "attacks/threshold_x.csv", index=False)
    flags = ["--metrics", "test_loss", "threshold.roc_auc", "--labels", "A", "B", "C"]
    frame = _compared(roots, tmp_path / "c.csv", *flags, "--baseline", "B")
    assert set(frame["over"]) == {"nodes"} and frame["n"].tolist() == [5] * 4
    row = frame[(frame["metric"] == "threshold.roc_auc") & (frame["setting"] == "C")].iloc[0]
    assert (row["baseline"], row["difference"]) == ("B", pytest.approx(0.02))
    assert (frame["p_holm"] >= frame["p_t"]).all()
    assert "one run each" in capsys.readouterr().out


def test_what_cannot_be_compared_is_told(
    make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    a, same, b = make_run("a").root, make_run("s", seed=2).root, make_run("b", lr=1).root
    for words, said in (
        ([a, same], "one setting"),
        ([a, b, "--metrics", "lira.roc_auc"], "no two settings have lira.roc_auc"),
        ([a, b, "--baseline", "c"], "the settings are"),
    ):
        assert main(["compare", *map(str, words)]) == 2
        assert said in capsys.readouterr().err
