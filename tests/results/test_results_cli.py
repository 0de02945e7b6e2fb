"""The command: what it prints, writes and returns."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from results.cli import main
from results.tidy import TIDY_COLUMNS

FIGURES = {
    "train_loss_iteration", "train_loss_bytes", "test_loss_iteration", "test_loss_bytes",
    "test_accuracy_iteration", "test_accuracy_bytes", "test_accuracy_seconds",
    "consensus_distance_iteration",
}  # fmt: skip


def _files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _in_a_fresh_interpreter(root: Path) -> str:
    """What ``python -m results`` prints; neither torch nor the other room may be loaded."""
    script = (
        "import runpy, sys\n"
        "sys.argv = ['results', sys.argv[1]]\n"
        "try:\n    runpy.run_module('results', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "bad = {'torch', 'orchestrator', 'matplotlib.pyplot', 'scipy'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    command = [sys.executable, "-c", script, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_one_run_is_written_into_its_folder_always_the_same(
    make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    written = make_run(name="my run/1")
    assert main([str(written.root)]) == 0
    names = {path.name for path in (written.root / "tables").iterdir()}
    assert names == {"README.md", "my_run_1.csv", "my_run_1_tidy.csv", "my_run_1_tidy.parquet"}
    assert {path.stem for path in (written.root / "figures").glob("*.pdf")} == FIGURES
    assert {path.stem for path in (written.root / "figures").glob("*.csv")} == FIGURES
    out = capsys.readouterr().out
    final = written.values("test_acc", 30)
    assert "my run/1: 5 nodes on 2 machines, 4 evaluations up to iteration 30" in out
    assert f"mean {final.mean():.2f} %   min {final.min():.2f} %   max {final.max():.2f} %" in out
    assert "126 kB per node, 630 kB in all" in out
    assert str(written.root / "figures") in out
    before = _files(written.root)
    assert _in_a_fresh_interpreter(written.root) == out
    assert _files(written.root) == before


def test_targets_are_told_and_written(
    make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_run().root
    for machine in (0, 1):
        path = root / f"machine{machine}" / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"simulation": {"links": {}}}))
    assert main([str(root), "--targets", "50", "99.5"]) == 0
    out = capsys.readouterr().out
    assert "  50 % accuracy         run: after 1 simulated seconds, iteration 10" in out
    assert "  99.5 % accuracy       run: not reached" in out
    assert (root / "tables" / "experiment_time_to_accuracy.csv").is_file()


def test_several_runs_are_compared(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        keys = ("iteration", "uid", "machine", "rank", "test_acc", "total_bytes")
        return {key: row[key] for key in keys}

    roots = [str(make_run(f"s{seed}", seed=seed, change=change).root) for seed in (1, 2, 3)]
    roots.append(str(make_run("other", lr=1.0, name="other", change=change).root))
    out = tmp_path / "comparison"
    assert main([*roots, "--output", str(out), "--width", "double"]) == 0
    names = {path.name for path in (out / "tables").iterdir()}
    tables = {"s1.csv", "s2.csv", "s3.csv", "other.csv", "README.md"}
    compared = {"runs.csv", "settings.csv", "tidy.csv", "tidy.parquet"}
    assert names == tables | {f"comparison_{name}" for name in compared}
    assert (out / "figures" / "test_accuracy_bytes.pdf").is_file()
    assert not (tmp_path / "s1" / "tables").exists()
    assert "other" in capsys.readouterr().out


def test_one_bad_run_of_four_is_named_and_the_rest_drawn(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [str(make_run(f"lr{lr}", lr=lr).root) for lr in (1, 2, 3)]
    empty = tmp_path / "empty"
    (empty / "machine0").mkdir(parents=True)
    out = tmp_path / "out"
    assert main([roots[0], str(empty), *roots[1:], "--output", str(out)]) == 6
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {empty}: no node has recorded anything yet")
    assert shown.err.count("\n") == 1
    assert len(pd.read_csv(out / "tables" / "comparison_runs.csv")) == 3
    assert {path.stem for path in (out / "figures").glob("*.pdf")} == FIGURES
    assert main([roots[0], str(empty), "--output", str(out)]) == 6  # one is left: still drawn
    assert main([str(empty), str(tmp_path / "no"), "--output", str(out)]) == 2


def test_tables_of_an_earlier_comparison_among_the_runs_are_passed_over(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lr in (1, 2):
        make_run(f"runs/lr{lr}", lr=lr)
    for _ in range(2):
        folders = sorted(str(path) for path in (tmp_path / "runs").iterdir())
        assert main([*folders, "--output", str(tmp_path / "runs" / "compared")]) == 0
    err = capsys.readouterr().err
    assert err == f"warning: {tmp_path}/runs/compared: tables and figures only, no run\n"


def test_a_seed_that_cuts_its_setting_is_named_once(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [str(make_run(f"s{seed}", seed=seed).root) for seed in (1, 2)]
    roots.append(str(make_run("short", seed=3, iterations=(1, 10)).root))
    assert main([*roots, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert shown.err == (
        "warning: mean of 3 seeds: the mean over 3 seeds is taken where all were evaluated, "
        "2 times up to iteration 10; short ends at 10, s2 at 30\n"
    )
    assert "mean of 3 seeds: test accuracy" in shown.out and "over 3 seeds (95 %" in shown.out


def test_figures_as_asked_for(
    make_run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [str(make_run(f"lr{lr}", lr=lr).root) for lr in (1, 2)]
    out = tmp_path / "out"
    asked = ["--output", str(out), "--metrics", "test_acc", "samples", "--log", "samples"]
    assert main([*roots, *asked, "--labels", "slow", "fast", "--format", "png", "svg"]) == 0
    kinds = {"png", "svg", "csv"}
    stems = {f"{m}_{x}" for m in ("test_accuracy", "samples")
             for x in ("iteration", "bytes", "seconds")}  # fmt: skip
    names = {path.name for path in (out / "figures").iterdir()}
    assert names == {f"{stem}.{kind}" for stem in stems for kind in kinds} | {"README.md"}
    assert set(pd.read_csv(out / "figures" / "samples_bytes.csv")["curve"]) == {"slow", "fast"}
    before = _files(out)
    assert main([*roots, *asked, "--labels", "slow", "fast", "--format", "png", "svg"]) == 0
    assert _files(out) == before


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--metrics", "test_accuracy"], "no run recorded test_accuracy; did you mean test_acc?"),
        (["--log", "tset_loss"], "no run recorded tset_loss; did you mean test_loss?"),
        (["--labels", "a", "b"], "2 labels for 1 settings: 'mean of 5 nodes'"),
    ],
)
def test_wrong_wishes_about_figures_get_one_message(
    make_run: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    asked: list[str],
    message: str,
) -> None:
    root = make_run().root
    assert main([str(root), *asked]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (root / "tables").exists()


def test_every_column_of_a_figures_data_is_explained_beside_it(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    roots = [str(make_run(f"s{seed}", seed=seed).root) for seed in (1, 2)]
    assert main([roots[0]]) == 0
    assert main([*roots, "--output", str(tmp_path / "out")]) == 0
    for folder in (Path(roots[0]), tmp_path / "out"):
        text = (folder / "figures" / "README.md").read_text()
        for path in (folder / "figures").glob("*.csv"):
            assert all(f"| `{name}` |" in text for name in pd.read_csv(path))
        tables = (folder / "tables" / "README.md").read_text()
        assert all(f"| `{name}` |" in tables for name in TIDY_COLUMNS)
        for path in (folder / "tables").glob("comparison_*"):
            assert f"`{path.name}`" in tables.replace("<name>", "comparison")


def test_a_run_without_accuracy_tells_what_it_measured(
    make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        kept = ("iteration", "uid", "machine", "rank", "test_loss", "total_bytes", "elapsed_s")
        own = {"test_perplexity": 8.0 + row["uid"], "staleness": 0.5}
        return {key: row[key] for key in kept} | own

    root = make_run(change=change).root
    assert main([str(root)]) == 0
    out = capsys.readouterr().out
    assert "  final test perplexity  mean 10   min 8   max 12   (iteration 30)" in out
    assert "test accuracy" not in out
    stems = {"test_perplexity_iteration", "test_perplexity_bytes", "test_perplexity_seconds",
             "staleness_iteration", "test_loss_iteration", "test_loss_bytes"}  # fmt: skip
    assert {path.stem for path in (root / "figures").glob("*.pdf")} == stems
    assert main([str(root), str(make_run("b", lr=1).root), "--output", str(tmp_path / "o")]) == 0
    assert "final test accuracy: mean" in capsys.readouterr().out  # as b has it
    other = make_run("c", lr=1, change=change).root
    assert main([str(root), str(other), "--output", str(tmp_path / "o")]) == 0
    assert "final test perplexity: mean" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such folder"),
        (["run", "second"], "say where the comparison goes with --output"),
        (["run", "--output", "run/config.ini"], "config.ini"),
    ],
)
def test_mistakes_get_one_clear_message(
    make_run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(make_run().root.parent)
    make_run("second")
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_what_was_left_out_is_said(
    make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        late = {"train_loss": float("nan")} if row["iteration"] > 10 else {}
        keys = ("iteration", "uid", "machine", "rank", "train_loss")
        return {key: row[key] for key in keys} | late

    root = make_run(change=change).root
    with (root / "machine0" / "records_0.jsonl").open("a") as out:
        out.write('{"iteration":')
    about = '{"outcome": "failed", "error": "node 3 of machine 1 died in round 30"}'
    (root / "machine0" / "run.json").write_text(about)
    assert main([str(root)]) == 0
    shown = capsys.readouterr()
    assert shown.err == "warning: run: left out 1 broken or cut line(s) in the records\n"
    assert "train_loss of 5 nodes, first at iteration 20" in shown.out
    assert "failed: node 3 of machine 1 died in round 30" in shown.out


def test_a_run_that_was_never_tested(
    make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {key: row[key] for key in ("iteration", "uid", "machine", "rank", "wire_bytes")}

    assert main([str(make_run(change=change).root)]) == 0
    out = capsys.readouterr().out
    assert "no test accuracy was recorded" in out
    assert "none: nothing was evaluated" in out


def test_nodes_that_left_are_told_and_not_missed(
    make_run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nodes 3 and 4 leave before the last iteration, 30: only three report it."""
    written = make_run()
    root = written.root
    shutil.rmtree(root / "machine1")
    (root / "machine1").mkdir()
    lines = [json.dumps(r) for r in written.rows if r["machine"] == 1 and r["iteration"] < 30]
    (root / "machine1" / "records_0.jsonl").write_text("\n".join([*lines, ""]))
    epoch = {"before": 25, "left": [3, 4], "why": "machine 1 is gone"}
    about = {"seed": 1, "outcome": "done", "membership": [epoch]}
    (root / "machine0" / "run.json").write_text(json.dumps(about))
    assert main([str(root)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "5 nodes (3 at the end) on 2 machines, 4 evaluations up to iteration 30" in shown.out
    mean = written.values("test_acc", 30)[:3].mean()
    assert f"mean {mean:.2f} %" in shown.out
    assert "of 3 nodes   (iteration 30)" in shown.out
    assert "mean of 5 nodes, 3 at the end" in (root / "figures/test_loss_iteration.csv").read_text()
    assert main([str(root), str(make_run("all").root), "--output", str(root / "both")]) == 0
    assert "    3/5  " in capsys.readouterr().out
    epoch["before"] = 30  # they left after it, so their records are missing
    (root / "machine0" / "run.json").write_text(json.dumps(about))
    assert main([str(root)]) == 0
    assert "iteration 30 was reported by 3 of 5 nodes only" in capsys.readouterr().err


@pytest.mark.parametrize("alone", [False, True])
def test_a_run_that_was_told_to_record_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], alone: bool
) -> None:
    folder = tmp_path / "run" / "machine0"
    folder.mkdir(parents=True)
    given = folder if alone else folder.parent
    (folder / "run.json").write_text('{"outcome": "done", "seed": 1}')
    assert main([str(given)]) == 0
    assert "there is nothing to draw" in capsys.readouterr().out
    assert not (given / "tables").exists()
    assert main([str(given), str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    (folder / "records_0.jsonl").write_text('{"iter')
    assert main([str(given)]) == 2
    (folder / "records_0.jsonl").unlink()
    (folder / "run.json").write_text('{"outcome": "running"}')
    assert main([str(given)]) == 2
    assert "no node has recorded anything yet" in capsys.readouterr().err


def test_a_full_disk_is_told_with_the_file_and_a_remedy(
    make_run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    root = make_run().root
    monkeypatch.setattr("pyarrow.csv.write_csv", full)
    assert main([str(root)]) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert str(root / "tables" / "experiment.csv") in err
    assert "--output DIR" in err
    assert list((root / "tables").iterdir()) == []


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert all(len(line) <= 100 for line in out.splitlines())
