"""Folders of the reference system: results files instead of records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decentralizepy.runfolder import LEGACY_RESULTS, RunFolder
from results.load import RunWarning, load_run
from results.tables import wide
from results.tidy import tidy

pytestmark = pytest.mark.filterwarnings("error")


def _write(path: Path, **series: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(series))


def test_same_frame_as_from_the_records(
    make_run: Callable[..., Any], as_reference: Callable[[Path], None]
) -> None:
    root = make_run().root
    before = tidy([load_run(root)])
    as_reference(root)
    after = tidy([load_run(root)])
    expected = before[before["metric"].isin(LEGACY_RESULTS)].reset_index(drop=True)
    assert len(after) == len(expected)
    merged = after.merge(expected, on=["run", "machine", "uid", "iteration", "metric"])
    assert len(merged) == len(after)
    assert (merged["value_x"] == merged["value_y"]).all()


def test_nodes_are_numbered_by_machine_then_rank(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for machine, count in ((0, 3), (1, 11)):
        for rank in range(count):
            value = 100.0 * machine + rank
            _write(run.machine(machine).results(rank), test_acc={"1": value})
    frame = tidy([load_run(tmp_path)]).sort_values("uid")
    assert frame["uid"].tolist() == list(range(14))
    assert frame["value"].tolist() == [0, 1, 2] + [100 + rank for rank in range(11)]


@pytest.mark.parametrize(("procs", "first"), [([4], 4), ([5, 2], 5), (4, 4), (None, 2), (["x"], 2)])
def test_placement_comes_from_the_flags(tmp_path: Path, procs: Any, first: int) -> None:
    """The last node of machine 0 left no file: only the flags know that it was there."""
    run = RunFolder(tmp_path)
    for machine, rank in ((0, 0), (0, 1), (1, 0)):
        _write(run.machine(machine).results(rank), test_acc={"1": 1.0})
        run.machine(machine).args.write_text(json.dumps({"procs_per_machine": procs}))
    assert sorted(tidy([load_run(tmp_path)])["uid"]) == [0, 1, first]


def test_cut_file_is_left_out_with_a_warning(
    make_run: Callable[..., Any], as_reference: Callable[[Path], None]
) -> None:
    root = make_run().root
    as_reference(root)
    path = RunFolder(root).machine(0).results(1)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.warns(RunWarning, match="left out 1 results file"):
        run = load_run(root)
    assert run.uids.tolist() == [0, 2, 3, 4]


def test_a_single_machine_without_its_folder(tmp_path: Path) -> None:
    _write(tmp_path / "0_results.json", test_acc={"1": 10.0}, received_this_round={})
    _write(tmp_path / "not_results.json", test_acc={"1": 10.0})
    (tmp_path / "args.json").write_text('{"machine_id": 3, "procs_per_machine": [1]}')
    frame = tidy([load_run(tmp_path)])
    assert frame[["machine", "uid", "value"]].values.tolist() == [[3, 3, 10.0]]


def test_bytes_of_every_iteration_do_not_make_rows(tmp_path: Path) -> None:
    each = {str(t): 100.0 * t for t in range(1, 11)}
    for rank in (0, 1):
        path = RunFolder(tmp_path).machine(0).results(rank)
        _write(path, total_bytes=each, test_acc={"1": 10.0, "10": 20.0}, total_data_per_n=each)
    table = wide(load_run(tmp_path))
    assert table["iteration"].tolist() == [1, 10]
    assert table["total_data_per_n sum"].tolist() == [200.0, 2000.0]


def test_a_federated_server_is_no_node(tmp_path: Path) -> None:
    machine = RunFolder(tmp_path).machine(0)
    _write(machine.root / "-1_results.json", test_acc={"5": 70.0}, total_bytes={"5": 1e9})
    for rank in (0, 1):
        _write(machine.results(rank), total_bytes={"5": 10.0})
    run = load_run(tmp_path)
    table = wide(run)
    assert run.nodes == 2
    assert table["test_acc mean"].tolist() == [70.0]
    assert table["total_bytes max"].tolist() == [10.0]
