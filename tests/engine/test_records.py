"""What a run writes: evaluation schedule, records, the reference's files, weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from launching import Experiment
from safetensors.torch import load_file

from decentralizepy.graphs.generators import star
from decentralizepy.messages.header import row_message_bytes
from decentralizepy.models.digits import MLP
from decentralizepy.runfolder import RECORD_COLUMNS, MachineFolder, machine_records

ITERATIONS = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> MachineFolder:
    """Five nodes on a star (irregular), tested every 4, train loss every 5 iterations."""
    path = tmp_path_factory.mktemp("records")
    experiment = Experiment(path, star(5), cache)
    root = experiment.run((5,), 2, ITERATIONS, "-ta", "4", "-tea", "5", "-as", "2")
    return MachineFolder(root / "machine0")


def test_evaluation_at_the_first_every_t_th_and_the_last(folder: MachineFolder) -> None:
    rows = machine_records(folder).rows
    assert {row["uid"] for row in rows} == set(range(5))
    for uid in range(5):
        own = [row for row in rows if row["uid"] == uid]
        assert [row["iteration"] for row in own if "test_acc" in row] == [1, 4, 8, 11]
        assert [row["iteration"] for row in own if "train_loss" in row] == [1, 5, 10, 11]
        assert all(row.keys() <= RECORD_COLUMNS.keys() for row in own)


def test_bytes_are_those_of_the_formula(folder: MachineFolder) -> None:
    payload, header = row_message_bytes(4810, 5, ITERATIONS, 2)
    degree = {uid: 4 if uid == 0 else 1 for uid in range(5)}
    for row in machine_records(folder).rows:
        messages = degree[row["uid"]] * row["iteration"] * 2
        assert row["total_data"] == messages * payload
        assert row["total_meta"] == messages * header
        assert row["total_bytes"] == row["total_data"] + row["total_meta"]
        assert row["wire_bytes"] == 0


def test_consensus_distance_is_the_distance_from_the_mean(folder: MachineFolder) -> None:
    states = [_weights(folder, uid) for uid in range(5)]
    rows = torch.stack([torch.cat([v.flatten() for v in s.values()]) for s in states]).double()
    distances = (rows - rows.mean(0)).norm(dim=1)
    last = [row for row in machine_records(folder).rows if row["iteration"] == ITERATIONS]
    for row in last:
        assert row["consensus_distance"] == pytest.approx(float(distances[row["uid"]]), rel=1e-5)


def _weights(folder: MachineFolder, uid: int) -> dict[str, torch.Tensor]:
    return load_file(folder.root / f"{ITERATIONS - 1}_weight_{uid}.safetensors")


def test_final_weights_give_the_final_accuracy(folder: MachineFolder, cache: Path) -> None:
    from decentralizepy.datasets.digits import Digits

    data = Digits()
    data.prepare(cache)
    test = data.test()
    x = torch.from_numpy(test.x.copy()).float().permute(0, 3, 1, 2) / 16
    last = [row for row in machine_records(folder).rows if row["iteration"] == ITERATIONS]
    for row in last:
        model = MLP()
        model.load_state_dict(_weights(folder, row["uid"]))
        with torch.no_grad():
            right = (model(x).argmax(1).numpy() == test.y).mean()
        assert row["test_acc"] == pytest.approx(100 * right)


def test_the_references_files(folder: MachineFolder) -> None:
    for rank in range(5):
        results = json.loads(folder.results(rank).read_text())
        assert list(results["test_acc"]) == ["1", "4", "8", "11"]
        assert list(results["train_loss"]) == ["1", "5", "10", "11"]
        assert set(results) == {
            "train_loss", "test_loss", "test_acc", "total_bytes", "total_meta", "total_data_per_n",
        }  # fmt: skip
        log = folder.log(rank).read_text()
        assert "iteration 11" in log and "[INFO]" in log
    args = json.loads(folder.args.read_text())
    assert args["iterations"] == ITERATIONS and args["averaging_rounds"] == 2
    assert (folder.root / "config.ini").exists() and (folder.root / "graph.edges").exists()


def test_run_json_has_what_a_repetition_needs(folder: MachineFolder) -> None:
    run = json.loads(folder.run.read_text())
    assert run["outcome"] == "done"
    assert run["seed"] == 90 and run["workers"] == 2 and run["threads_per_worker"] == 1
    assert "lr = 0.05" in run["ini"]
    assert run["packages"]["torch"] and run["code_sha256"] and run["graph"]["sha256"]


def test_no_iterations_prepare_and_end_well(tmp_path: Path, cache: Path) -> None:
    root = Experiment(tmp_path, star(3), cache).run((3,), 1, 0)
    assert not machine_records(MachineFolder(root / "machine0")).rows


def test_one_node_trains_alone(tmp_path: Path, cache: Path) -> None:
    from decentralizepy.graphs.graph import Graph

    root = Experiment(tmp_path, Graph(1, []), cache, partition="iid").run((1,), 4, 60, "-ta", "60")
    rows = machine_records(MachineFolder(root / "machine0")).rows
    assert rows[-1]["test_acc"] > 75
    assert rows[-1]["consensus_distance"] == 0 and rows[-1]["total_bytes"] == 0
