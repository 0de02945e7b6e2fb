"""The reader: run folders to tidy frames."""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentralizepy.runfolder import RunFolder
from results.load import Run, RunWarning, load_each, load_run, load_runs, newest
from results.tidy import TIDY_COLUMNS, tidy

pytestmark = pytest.mark.filterwarnings("error")


def _frame(run: Run) -> Any:
    return tidy([run])


def _as_set(frame: Any) -> set[tuple[Any, ...]]:
    return set(frame[["machine", "uid", "iteration", "metric", "value"]].itertuples(index=False))


def _expected(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    keys = ("iteration", "uid", "machine", "rank")
    return {
        (row["machine"], row["uid"], row["iteration"], metric, float(value))
        for row in rows
        for metric, value in row.items()
        if metric not in keys
    }


def test_every_recorded_value_is_one_row(make_run: Callable[..., Any]) -> None:
    written = make_run()
    frame = _frame(load_run(written.root))
    assert list(frame.columns) == list(TIDY_COLUMNS)
    assert set(frame["run"]) == {"run"}
    assert len(frame) == len(_expected(written.rows))
    assert _as_set(frame) == _expected(written.rows)


def test_run_knows_its_settings(make_run: Callable[..., Any]) -> None:
    run = load_run(make_run(seed=90, lr=0.125).root)
    assert (run.name, run.experiment, run.nodes, run.machines) == ("run", "experiment", 5, 2)
    assert run.provenance == {"seed": 90, "outcome": "done"}
    assert run.attributes == {
        "dataset_class": "Digits",
        "model_class": "MLP",
        "random_seed": 90,
        "optimizer_class": "SGD",
        "lr": 0.125,
        "rounds": 3,
        "shuffle": True,
        "sharing_class": "Sharing",
        "graph_file": "graph.edges",
        "nb_agents": 5,
    }


def test_args_and_ini_of_a_machine_are_enough(make_run: Callable[..., Any]) -> None:
    run = RunFolder(make_run().root)
    run.config.unlink()
    run.ini.rename(run.machine(0).root / "what_i_called_it.ini")
    args = {
        "iterations": 30,
        "eval_file": "testing.py",
        "graph_file": "/some/where/ring.edges",
        "averaging_rounds": 2,
    }
    run.machine(0).args.write_text(json.dumps(args))
    loaded = load_run(run.root)
    assert loaded.experiment == "run"
    assert (loaded.attributes["lr"], loaded.attributes["eval_file"]) == (0.05, "testing.py")
    assert loaded.attributes["graph_file"] == "ring.edges"
    assert (loaded.attributes["nb_iteration"], loaded.attributes["averaging_steps"]) == (30, 2)


def test_a_key_of_two_sections_keeps_both_values(make_run: Callable[..., Any]) -> None:
    run = RunFolder(make_run().root)
    run.ini.write_text("[DATASET]\nalpha = 0.1\n[SHARING]\nalpha = [1, 2]\n")
    attributes = load_run(run.root).attributes
    assert (attributes["alpha"], attributes["sharing.alpha"]) == (0.1, "[1, 2]")


@pytest.mark.parametrize("text", ["no section", "[DATASET]\nx", "\x00", "[DATASET"])
def test_a_broken_ini_or_json_only_costs_the_attributes(
    make_run: Callable[..., Any], text: str
) -> None:
    run = RunFolder(make_run().root)
    run.ini.write_text(text)
    run.config.write_text(text)
    assert load_run(run.root).attributes == {"random_seed": 1}


def test_nan_is_kept_and_null_has_no_row(make_run: Callable[..., Any]) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"train_loss": math.nan, "test_loss": "", "test_acc": 10**400}

    root = make_run(change=change).root
    for path in root.glob("machine*/records_*.jsonl"):
        path.write_text(path.read_text().replace('"test_loss":""', '"test_loss":null'))
    frame = _frame(load_run(root))
    assert frame.loc[frame["metric"] == "train_loss", "value"].isna().sum() == 20
    assert "test_loss" not in set(frame["metric"])
    assert set(frame.loc[frame["metric"] == "test_acc", "value"]) == {math.inf}


def test_unknown_columns_are_kept_after_the_known(make_run: Callable[..., Any]) -> None:
    root = make_run(counts=(1,), iterations=[1]).root
    with RunFolder(root).machine(0).records(0).open("a") as out:
        out.write('{"iteration":2,"uid":0,"mine":3,"label":"x","flag":true}\n')
    metrics = load_run(root).metrics
    assert metrics[0] == "train_loss"
    assert metrics[-2:] == ["flag", "mine"]


def test_killed_at_any_byte_all_complete_rows_are_read(make_run: Callable[..., Any]) -> None:
    def slim(row: dict[str, Any]) -> dict[str, Any]:
        return {key: row[key] for key in ("iteration", "uid", "machine", "rank", "test_acc")}

    root = make_run(counts=(2,), iterations=(1, 2), change=slim).root
    path = RunFolder(root).machine(0).records(1)
    whole = path.read_bytes()
    assert whole.count(b"\n") == 2
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            frame = _frame(load_run(root))
        assert len(frame) == 2 + whole[:size].count(b"\n")
        cut = not (whole[:size].endswith(b"\n") or size == 0)
        assert [w.category for w in caught] == [RunWarning] * cut


def test_broken_lines_are_counted(make_run: Callable[..., Any]) -> None:
    written = make_run()
    with RunFolder(written.root).machine(1).records(0).open("a") as out:
        out.write('nonsense\n[1]\n{"iteration":-1,"uid":0}\n{"iteration":1,"uid":10e30}\n{"cut"')
    with pytest.warns(RunWarning, match="run: left out 5 broken or cut line"):
        frame = _frame(load_run(written.root))
    assert _as_set(frame) == _expected(written.rows)


def test_a_node_that_moved_counts_once(make_run: Callable[..., Any]) -> None:
    written = make_run()
    moved = written.rows[0] | {"test_acc": 1.5}
    with RunFolder(written.root).machine(1).records(0).open("a") as out:
        out.write(json.dumps(moved) + "\n")
    with pytest.warns(RunWarning, match="1 record"):
        run = load_run(written.root)
    frame = _frame(run).query("uid == 0 and iteration == 1 and metric == 'test_acc'")
    assert (frame["value"].tolist(), frame["machine"].tolist()) == ([1.5], [1])
    assert run.nodes == 5


def test_the_folder_of_one_machine_can_be_read(make_run: Callable[..., Any]) -> None:
    run = load_run(make_run().root / "machine1")
    assert (run.name, run.nodes, set(_frame(run)["machine"])) == ("run-machine1", 2, {1})


def test_runs_are_told_apart_by_their_path(make_run: Callable[..., Any]) -> None:
    first, second = make_run("lr1/out").root, make_run("lr2/out").root
    runs = load_runs([first, second, first])
    assert [run.name for run in runs] == ["lr1-out", "lr2-out"]
    assert set(tidy(load_runs([first, second]))["run"]) == {"lr1-out", "lr2-out"}


def test_one_bad_folder_costs_only_itself(make_run: Callable[..., Any], tmp_path: Path) -> None:
    good = make_run("good").root
    (tmp_path / "explored" / "figures").mkdir(parents=True)
    folders = [tmp_path / "absent", good, tmp_path / "explored", tmp_path / "explored" / "figures"]
    loaded = load_each(folders)
    assert [run.folder for run in loaded.runs] == [good]
    assert list(loaded.failed) == [tmp_path / "absent"]
    assert "no such folder" in loaded.failed[tmp_path / "absent"]
    assert list(loaded.skipped) == folders[2:]


def test_the_newest_run_is_that_which_started_last(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    for name, started in (("b", "2026-01-02T00:00"), ("a", "2026-01-03T00:00"), ("c", "")):
        root = make_run(f"runs/{name}").root
        (root / "machine0" / "run.json").write_text(json.dumps({"started": started}))
    (tmp_path / "runs" / "explored").mkdir()
    assert newest(tmp_path / "runs").name == "a"
    with pytest.raises(ValueError, match="holds no run folder yet: `make run` makes one"):
        newest(tmp_path)


def test_wrong_folders_are_named(make_run: Callable[..., Any], tmp_path: Path) -> None:
    make_run("sweep/a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "started" / "machine0").mkdir(parents=True)
    (tmp_path / "file").touch()
    wrong = {
        "absent": "no such folder",
        "file": "not a folder",
        "empty": "not a run folder: it holds neither",
        "sweep": "name these instead",
        "started": "no node has recorded anything yet",
    }
    for folder, message in wrong.items():
        with pytest.raises(ValueError, match=message) as error:
            load_run(tmp_path / folder)
        assert folder in str(error.value)
    with pytest.raises(ValueError, match="no run folder was given"):
        load_runs([])


_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
_keys = st.sampled_from(["iteration", "uid", "machine", "test_acc", "train_loss", "mine"])
_lines = st.one_of(
    st.binary(max_size=30).map(lambda data: data.replace(b"\n", b" ")),
    st.dictionaries(_keys, _values).map(lambda row: json.dumps(row).encode()),
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.floats()).map(
        lambda t: json.dumps({"iteration": t[0], "uid": t[1], "test_acc": t[2]}).encode()
    ),
)


@settings(max_examples=60)
@given(lines=st.lists(_lines, max_size=6), end=st.sampled_from([b"", b"\n"]))
def test_whatever_stands_in_a_file_the_reader_reads_or_says_so(
    lines: list[bytes], end: bytes
) -> None:
    good = b'{"iteration":7,"uid":9,"test_acc":50.0}\n'
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        path = RunFolder(Path(folder)).machine(0).records(0)
        path.parent.mkdir()
        path.write_bytes(good + b"\n".join(lines) + end)
        frame = _frame(load_run(folder))
    assert not frame.duplicated(["uid", "iteration", "metric"]).any()
    kept = frame.query("iteration == 7 and uid == 9 and metric == 'test_acc'")
    assert kept["value"].tolist() == [50.0] or any(b'"uid": 9' in line for line in lines)
