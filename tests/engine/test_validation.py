"""A run with a validation set, on FEMNIST in its files' formats, through the real command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from femnist_files import per_user, write, write_pairs
from launching import Experiment
from safetensors.torch import load_file

from decentralizepy.datasets.femnist import Femnist, FemnistLabelSplit
from decentralizepy.graphs.generators import star
from decentralizepy.models.femnist import RNET, LogisticRegression
from decentralizepy.runfolder import MachineFolder, machine_records

ITERATIONS = 5


def experiment(folder: Path, cache: Path, kind: str, model: str, *more: str) -> Experiment:
    """Three nodes on a star that train on small files of FEMNIST."""
    made = Experiment(folder, star(3), cache)
    ini = folder / "config.ini"
    text = ini.read_text()
    _, _, rest = text.partition("[OPTIMIZER_PARAMS]")
    data = [
        "[DATASET]", f"dataset_package = decentralizepy.datasets.{kind}", f"dataset_class = {kind}",
        f"model_class = {model}", f"train_dir = {folder}/train", f"test_dir = {folder}/test",
        "sizes =", "random_seed = 90", "test_batch_size = 64", *more,
    ]  # fmt: skip
    ini.write_text("\n".join([*data, f"[OPTIMIZER_PARAMS]{rest}"]))
    write(folder / "test", {"t.json": {"t1": 20, "t2": 13}}, "test")
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """By user, a quarter of the training samples held out; tested every 2, trained on 2 workers."""
    folder = tmp_path_factory.mktemp("validation")
    per_user(folder / "train", [20, 24, 18, 30, 22, 26])
    options = ("validation_source = Train", "validation_size = 0.25")
    made = experiment(folder, cache, "Femnist", "LogisticRegression", *options)
    return made.run((3,), 2, ITERATIONS, "-ta", "2", "-tea", "5", "-wsd", str(folder / "weights"))


def test_it_is_evaluated_where_the_test_set_is(run: Path) -> None:
    rows = machine_records(MachineFolder(run / "machine0")).rows
    for uid in range(3):
        own = [row for row in rows if row["uid"] == uid]
        for column in ("test_acc", "test_loss", "validation_acc", "validation_loss"):
            assert [row["iteration"] for row in own if column in row] == [1, 2, 4, 5]


def test_it_is_what_the_final_weights_give(run: Path, cache: Path) -> None:
    folder = run.parent
    data = Femnist(
        train_dir=str(folder / "train"), test_dir=str(folder / "test"), random_seed=90,
        validation_source="Train", validation_size=0.25,
    )  # fmt: skip
    data.prepare(cache)
    assert len(data.validation()) == 35
    last = [
        row for row in machine_records(MachineFolder(run / "machine0")).rows
        if row["iteration"] == ITERATIONS
    ]  # fmt: skip
    for row in last:
        model = LogisticRegression()
        model.load_state_dict(
            load_file(folder / "weights" / f"{ITERATIONS - 1}_weight_{row['uid']}.safetensors")
        )
        for name, part in {"validation": data.validation(), "test": data.test()}.items():
            x = torch.from_numpy(np.array(part.x)).float().permute(0, 3, 1, 2) / 255
            y = torch.from_numpy(np.array(part.y))
            with torch.no_grad():
                output = model(x)
            loss = torch.nn.functional.cross_entropy(output, y)
            assert row[f"{name}_loss"] == pytest.approx(float(loss), rel=1e-4)
            right = (output.argmax(1) == y).float().mean()
            assert row[f"{name}_acc"] == pytest.approx(100 * float(right), abs=1e-3)
        assert row["validation_loss"] != row["test_loss"]


def test_it_stands_in_the_references_file_and_in_the_log(run: Path) -> None:
    machine = MachineFolder(run / "machine0")
    results = json.loads(machine.results(0).read_text())
    assert list(results["validation_loss"]) == list(results["test_loss"]) == ["1", "2", "4", "5"]
    assert "validation_acc" in machine.log(0).read_text()


def test_the_label_split_trains_on_the_file_of_each_uid(tmp_path: Path, cache: Path) -> None:
    """Two machines: the reference takes the file of the rank there, so uid 2 that of uid 0."""
    counts = [9, 12, 17]
    write_pairs(tmp_path / "train", counts)
    made = experiment(tmp_path, cache, "FemnistLabelSplit", "RNET")
    root = made.run((2, 1), 1, 1)
    logs = [
        MachineFolder(root / f"machine{m}").log(r).read_text() for m, r in ((0, 0), (0, 1), (1, 0))
    ]
    for uid, (log, count) in enumerate(zip(logs, counts, strict=True)):
        assert f"node {uid} on" in log and f": {count} samples" in log
    rows = machine_records(MachineFolder(root / "machine1")).rows
    assert rows[0]["uid"] == 2 and "validation_acc" not in rows[0]
    data = FemnistLabelSplit(train_dir=str(tmp_path / "train"), test_dir=str(tmp_path / "test"))
    data.prepare(cache)
    assert sum(p.numel() for p in RNET().parameters()) * 4 < rows[0]["total_data"]


@pytest.mark.parametrize(
    ("option", "damage", "said"),
    [
        ("", "{", "bad.json is not a readable JSON file"),
        ("", '{"users": 3}', "bad.json is not a LEAF file"),
        ("validation_source = Tets", "", "validation_source = 'Tets' is neither Train nor Test"),
        (
            "validation_source = Test\nvalidation_size = 2",
            "",
            "validation_size = 2 must be between",
        ),
        ("validation_source = Test\nvalidation_size = 1e-9", "", "of 33 samples leaves an empty"),
    ],
)
def test_what_is_wrong_is_one_message_and_exit_code_2(
    tmp_path: Path, option: str, damage: str, said: str
) -> None:
    per_user(tmp_path / "train", [3, 4, 5])
    made = experiment(tmp_path, tmp_path / "cache", "Femnist", "CNN", option)
    if damage:
        (tmp_path / "train" / "bad.json").write_text(damage)
    command = [sys.executable, "-m", "decentralizepy", "prepare", "config.ini", "--cache-dir", "c"]
    done = subprocess.run(
        command, cwd=made.folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert "config.ini" in done.stderr and "[DATASET]" in done.stderr
    assert len(done.stderr.splitlines()) == 1
