"""The wide and tidy tables against independent computations."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from decentralizepy.files import replacing
from decentralizepy.runfolder import RunFolder
from results.csvfile import write_csv
from results.load import load_run, load_runs
from results.settings import settings
from results.spread import RunWarning
from results.tables import (
    WIDE_METRICS,
    WIDE_STATISTICS,
    runs_table,
    settings_table,
    time_to_accuracy,
    wide,
    write_wide,
)
from results.targets import parse_target
from results.tidy import tidy, tidy_rows, write_tidy

pytestmark = pytest.mark.filterwarnings("error")

STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    "std": lambda values: float(np.std(values, ddof=1)),
    "sum": np.sum,
    "min": np.min,
    "max": np.max,
    "percentile_50": np.median,
    "percentile_95": lambda values: float(np.percentile(values, 95)),
}


RECORDED = {m: n for m, n in WIDE_METRICS.items() if not m.startswith("validation")}


def test_a_validation_set_has_columns_beside_those_of_the_test_set(make_run) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"validation_loss": row["test_loss"] + 1, "validation_acc": row["uid"]}

    written = make_run(change=change)
    table = wide(load_run(written.root))
    columns = list(table.columns)
    assert columns.index("validation_loss mean") == columns.index("test_acc percentile_95") + 1
    np.testing.assert_allclose(table["validation_loss mean"], table["test_loss mean"] + 1)
    expected = [written.values("validation_acc", t).max() for t in table["iteration"]]
    assert table["validation_acc max"].tolist() == expected


def test_every_statistic_equals_numpys(make_run: Callable[..., Any]) -> None:
    written = make_run()
    table = wide(load_run(written.root))
    assert table["iteration"].tolist() == [1, 10, 20, 30]
    for metric, name in {**RECORDED, "wire_bytes": "wire_bytes", "elapsed_s": "elapsed_s"}.items():
        for statistic, compute in STATISTICS.items():
            expected = [compute(written.values(metric, t)) for t in table["iteration"]]
            np.testing.assert_allclose(table[f"{name} {statistic}"], expected, rtol=1e-12)


def test_columns_are_those_of_the_reference_notebooks(make_run: Callable[..., Any]) -> None:
    columns = list(wide(load_run(make_run().root)).columns)
    values = [f"{name} {s}" for name in RECORDED.values() for s in WIDE_STATISTICS]
    more = ("wire_bytes", "consensus_distance", "local_steps", "samples", "elapsed_s")
    values += [f"{name} {s}" for name in more for s in WIDE_STATISTICS]
    assert columns[: len(values) + 3] == [
        "iteration",
        *values,
        "experience_name",
        "number_agents",
    ]
    assert "total_data_per_n mean" in values
    assert "total_data mean" not in values
    assert {"lr", "random_seed", "graph_file"} <= set(columns)


def test_metrics_of_other_tasks_and_of_programs_have_columns(make_run: Callable[..., Any]) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        kept = {key: row[key] for key in ("iteration", "uid", "machine", "rank", "total_bytes")}
        own = {"staleness": row["uid"], "fresh": True, "phase": "warm", "attempt": 1, "nan": 3}
        return {**kept, "test_perplexity": row["test_loss"] * 9, "train_rmse": 0.5, **own}

    written = make_run(change=change)
    run = load_run(written.root)
    table = wide(run)
    names = [name.removesuffix(" mean") for name in table if name.endswith(" mean")]
    assert names == ["total_bytes", "fresh", "staleness", "test_perplexity", "train_rmse"]
    assert table["staleness max"].tolist() == [4] * 4
    expected = [written.values("test_perplexity", t).mean() for t in table["iteration"]]
    np.testing.assert_allclose(table["test_perplexity mean"], expected)


def _compared(make_run: Callable[..., Any]) -> list[Any]:
    """Two settings: three seeds of one, one run of the other, which failed."""
    runs = [make_run(f"lr1_{seed}", lr=1.0, seed=seed) for seed in (1, 2, 3)]
    runs.append(make_run("lr2", lr=2.0, iterations=(1, 10)))
    about = {"seed": 1, "outcome": "failed", "error": "machine 1 is gone"}
    (runs[3].root / "machine0" / "run.json").write_text(json.dumps(about))
    return runs


def test_a_comparison_has_a_row_per_run(make_run: Callable[..., Any]) -> None:
    runs = _compared(make_run)
    table = runs_table(settings(load_runs([run.root for run in runs]))).set_index("run")
    assert table["setting"].tolist() == ["lr = 1.0"] * 3 + ["lr = 2.0"]
    assert table["outcome"].tolist() == ["done"] * 3 + ["failed"]
    assert table["error"].iloc[3] == "machine 1 is gone"
    assert table["iteration"].tolist() == [30] * 3 + [10]
    assert table["lr"].tolist() == [1.0] * 3 + [2.0]
    assert table["random_seed"].tolist() == [1, 2, 3, 1]
    final = runs[1].values("test_acc", 30)
    row = table.loc["lr1_2"]
    np.testing.assert_allclose([row["test_acc mean"], row["test_acc std"]],
                               [final.mean(), final.std(ddof=1)])  # fmt: skip
    assert (row["bytes_per_node"], row["bytes"]) == (126002, 630010)
    assert (row["wire_bytes"], row["seconds"]) == (150_000, pytest.approx(3.0))
    assert (row["nodes"], row["machines"], row["evaluations"]) == (5, 2, 4)


def test_a_comparison_has_a_row_per_setting(make_run: Callable[..., Any]) -> None:
    runs = _compared(make_run)
    means = np.array([run.values("test_acc", 30).mean() for run in runs[:3]])
    target = float(np.sort(means)[1]) - 1e-3  # two of three seeds get there
    table = settings_table(settings(load_runs([run.root for run in runs])), [60.0, target])
    first, second = (row for _, row in table.iterrows())
    assert (first["setting"], first["n"], first["seeds"]) == ("lr = 1.0", 3, "1 2 3")
    half = 4.302653 * means.std(ddof=1) / math.sqrt(3)
    found = [first[f"test_acc {name}"] for name in ("mean", "ci95_low", "ci95_high")]
    np.testing.assert_allclose(found, [means.mean(), means.mean() - half, means.mean() + half])
    assert (first["test_acc n"], second["test_acc n"]) == (3, 1)
    assert math.isnan(second["test_acc ci95_low"])
    assert (first["iteration"], second["iteration"]) == (30, 10)
    assert (first["seconds to 60 mean"], first["seconds to 60 n"]) == (pytest.approx(2.0), 3)
    assert (first["bytes_per_node to 60 mean"], first["iteration to 60 mean"]) == (84002, 20)
    assert first[f"seconds to {target:g} n"] == 2
    assert second["seconds to 60 n"] == 0 and math.isnan(second["seconds to 60 mean"])


def test_a_short_seed_is_compared_where_all_were_evaluated(make_run: Callable[..., Any]) -> None:
    long, short = make_run("a", seed=1), make_run("b", seed=2, iterations=(1, 10))
    with pytest.warns(RunWarning, match="b ends at 10, a at 30"):
        compared = settings(load_runs([long.root, short.root]))
    (row,) = settings_table(compared).to_dict("records")
    means = [run.values("test_loss", 10).mean() for run in (long, short)]
    assert (row["iteration"], row["test_loss n"]) == (10, 2)
    assert row["test_loss mean"] == pytest.approx(np.mean(means))
    assert row["bytes_per_node mean"] == 42002


def test_tables_with_any_text_are_read_back(make_run: Callable[..., Any], tmp_path: Path) -> None:
    frame = pd.DataFrame({"a,b": [1.5, math.nan], "text": ['x, "y"\nz', None], "yes": [True, False],
                          "mixed": pd.Series([1, "x"], dtype=object)})  # fmt: skip
    read = pd.read_csv(write_csv(frame, tmp_path / "t.csv"))
    assert read["text"].iloc[0] == 'x, "y"\nz' and pd.isna(read["text"].iloc[1])
    assert read["yes"].tolist() == [True, False] and read["mixed"].tolist() == ["1", "x"]
    assert read["a,b"].iloc[0] == 1.5 and math.isnan(read["a,b"].iloc[1])


def test_only_metrics_that_were_recorded(make_run: Callable[..., Any]) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {key: row[key] for key in ("iteration", "uid", "machine", "rank", "test_acc")}

    columns = list(wide(load_run(make_run(change=change).root)).columns)
    assert columns[: 1 + len(WIDE_STATISTICS)] == [
        "iteration",
        *(f"test_acc {s}" for s in WIDE_STATISTICS),
    ]
    assert not [column for column in columns if "loss" in column or "roc" in column]


def test_one_node_has_no_deviation(make_run: Callable[..., Any]) -> None:
    table = wide(load_run(make_run(counts=(1,)).root))
    assert table["test_acc std"].isna().all()
    assert (table["test_acc mean"] == table["test_acc percentile_95"]).all()
    assert set(table["number_agents"]) == {1}


def test_diverged_nodes_are_left_out_of_means(make_run: Callable[..., Any]) -> None:
    diverged = {0: math.nan, 1: math.inf}

    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"train_loss": diverged.get(row["uid"], 1.0), "test_loss": math.nan}

    table = wide(load_run(make_run(change=change).root))
    assert table["train_loss mean"].tolist() == [1.0] * 4
    assert table["train_loss max"].tolist() == [1.0] * 4
    assert table["test_loss sum"].isna().all()


def test_end_that_few_nodes_reached_is_left_out(make_run: Callable[..., Any]) -> None:
    written = make_run()
    last = [row | {"iteration": 40} for row in written.rows if row["iteration"] == 30]
    with RunFolder(written.root).machine(0).records(0).open("a") as out:
        out.writelines(json.dumps(row) + "\n" for row in last[:2])
    run = load_run(written.root)
    with pytest.warns(RunWarning, match="iteration 40 was reported by 2 of 5 nodes"):
        table = wide(run)
    assert table["iteration"].tolist() == [1, 10, 20, 30]
    assert 40 in set(tidy([run])["iteration"])


def test_a_node_that_left_for_good_ends_nothing(make_run: Callable[..., Any]) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        gone = row["uid"] == 4 and row["iteration"] > 10
        return row | {"iteration": 10} if gone else row

    table = wide(load_run(make_run(change=change).root))
    assert table["iteration"].tolist() == [1, 10, 20, 30]


def test_csv_gives_back_the_same_numbers(make_run: Callable[..., Any], tmp_path: Path) -> None:
    run = load_run(make_run().root)
    read = pd.read_csv(write_wide(run, tmp_path / "table.csv"))
    pd.testing.assert_frame_equal(read, wide(run), check_dtype=False, rtol=1e-15)


def test_tidy_files_hold_everything(make_run: Callable[..., Any], tmp_path: Path) -> None:
    runs = load_runs([make_run("a", lr=0.1).root, make_run("b", lr=0.2).root])
    parquet, csv = write_tidy(runs, tmp_path / "out", "both")
    assert (parquet.name, csv.name) == ("both_tidy.parquet", "both_tidy.csv")
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), tidy(runs), check_dtype=False)
    read = pd.read_csv(csv)
    pd.testing.assert_frame_equal(read, tidy(runs), check_dtype=False, rtol=1e-15)


def test_a_long_csv_is_written_on_demand_only(
    make_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [load_run(make_run().root)]
    assert tidy_rows(runs) == len(tidy(runs))
    assert len(write_tidy(runs, tmp_path, "x")) == 2
    monkeypatch.setattr("results.tidy.MOST_CSV_ROWS", tidy_rows(runs) - 1)
    assert [path.name for path in write_tidy(runs, tmp_path, "x")] == ["x_tidy.parquet"]
    assert not (tmp_path / "x_tidy.csv").exists()  # that of before would be another run's
    assert len(write_tidy(runs, tmp_path, "x", always_csv=True)) == 2


def test_parquet_says_what_it_is(make_run: Callable[..., Any], tmp_path: Path) -> None:
    parquet, _ = write_tidy([load_run(make_run(seed=7).root)], tmp_path, "one")
    metadata = pq.read_schema(parquet).metadata
    assert metadata[b"schema_version"] == b"1"
    assert "per cent" in json.loads(metadata[b"metrics"])["test_acc"]
    about = json.loads(metadata[b"runs"])["run"]
    assert about["attributes"]["random_seed"] == 7
    assert about["provenance"]["outcome"] == "done"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as aside:
        aside.write_text("ne")
        raise OSError("disk full")
    assert path.read_text() == "old"
    with replacing(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_time_to_accuracy_is_when_the_last_node_got_there(make_run: Callable[..., Any]) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        """Node 0 takes three times as long as the others."""
        return row | {"elapsed_s": row["elapsed_s"] * (3 if row["uid"] == 0 else 1)}

    written = make_run(change=change)
    accuracy = {t: written.values("test_acc", t).mean() for t in (1, 10, 20, 30)}
    targets = [accuracy[1] - 0.001, accuracy[10] + 0.001, accuracy[30] - 0.001, 99.9]
    times = time_to_accuracy(load_runs([written.root]), targets)
    assert times["target"].tolist() == targets
    assert times["iteration"].tolist()[:3] == [1, 20, 30]
    assert times["seconds"].tolist()[:3] == pytest.approx([0.3, 6.0, 9.0])
    assert times["bytes_per_node"].tolist()[:3] == [4202, 84002, 126002]
    assert times.iloc[3][["seconds", "iteration", "bytes_per_node"]].isna().all()
    assert not times["simulated"].any()


def test_time_to_accuracy_without_tests_or_seconds(make_run: Callable[..., Any]) -> None:
    untested = make_run("a", change=lambda row: {k: v for k, v in row.items() if k != "test_acc"})
    timeless = make_run("b", change=lambda row: {k: v for k, v in row.items() if k != "elapsed_s"})
    times = time_to_accuracy(load_runs([untested.root, timeless.root]), [20.0])
    assert times["iteration"].isna().tolist() == [True, False]
    assert times["seconds"].isna().all()


def test_losses_are_targets_too_and_joules_a_cost(make_run: Callable[..., Any]) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"energy_j": 2.0 * row["iteration"]}

    written = make_run(change=change)
    runs = load_runs([written.root])
    loss = written.values("test_loss", 20).mean()
    targets = [parse_target(f"test_loss={loss + 1e-9}"), parse_target("test_loss=0.0001"), 20.0]
    times = time_to_accuracy(runs, targets)
    assert times["metric"].tolist() == ["test_loss", "test_loss", "test_acc"]
    assert times["iteration"].tolist()[:2] == pytest.approx([20, math.nan], nan_ok=True)
    assert times["energy_j"].iloc[0] == 5 * 40
    (row,) = settings_table(settings(runs), [targets[1]], window=2).to_dict("records")
    assert row["seconds to test_loss 0.0001 n"] == 0
    last = [written.values("test_acc", t).mean() for t in (20, 30)]
    assert row["test_acc last2 mean"] == pytest.approx(np.mean(last))
    for text in ("high", "test_loss=", "=nan"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_target(text)
