"""Unequal work, schedules, clipping and NaN in real runs: the same bits, recorded, or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from in_process import undisturbed
from launching import Experiment, digests, end_all, finish, leftovers

from decentralizepy.graphs.generators import ring
from decentralizepy.graphs.graph import Graph
from decentralizepy.runfolder import MachineFolder, machine_records

NODES = 6
COSINE = """
[LR_SCHEDULE]
schedule_package = decentralizepy.training.schedules
schedule_class = Cosine
warmup = 2
"""
#: everything of this page at once
ALL = {
    "training": "TrainingClipping",
    "rounds": "3, 1, 0, 2, 3, 5",
    "batch_size": "batches.json",
    "train_options": "clipping_norm = 0.5\non_nan = continue",
    "schedule": COSINE,
}
BATCHES = {"1": 500, "4": 16, "default": 8}
MODELS = {
    "plain": {"model_package": "everything", "model": "Everything", "optimizer": "Adam"},
    "stacked": {"optimizer_options": "momentum = 0.9"},
}


def experiment(folder: Path, cache: Path, **options: str) -> Experiment:
    made = Experiment(folder, ring(NODES), cache, **options)
    (folder / "batches.json").write_text(json.dumps(BATCHES))
    return made


@pytest.mark.parametrize("optimizer, times", [("Adam", 1), ("SGD", 0)])
def test_what_torchs_optimizers_load_is_loaded_once_for_all_workers(
    optimizer: str, times: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    made = experiment(tmp_path / "all", cache, optimizer=optimizer)
    _, (process,) = made.start((NODES,), 3, 1)
    try:
        _, errors = process.communicate(timeout=120)
    finally:
        end_all([process])
    assert process.returncode == 0 and not leftovers([process])
    loaded = [line.split("|")[-1].strip() for line in errors.splitlines()]
    assert loaded.count("torch") == 1
    assert loaded.count("torch._dynamo") == times


@pytest.mark.parametrize("case", MODELS)
def test_the_same_bits_whatever_the_number_of_workers(
    case: str, tmp_path: Path, cache: Path
) -> None:
    options = MODELS[case]
    made = experiment(tmp_path / "all", cache, **options, **ALL)
    two, processes = made.start((NODES,), 2, 3, "-ta", "3", "--digests")
    one = undisturbed(made, 3, "-ta", "3")
    finish(processes)
    assert digests(two) == one
    folder = MachineFolder(two / "machine0")
    for row in machine_records(folder).rows:
        uid, t = row["uid"], row["iteration"]
        steps = [3, 1, 0, 2, 3, 5][uid] * t
        own = BATCHES.get(str(uid), 8)
        assert row["local_steps"] == steps and "nan" not in row
        if uid != 1:
            assert row["samples"] == steps * own
    log = folder.log(1).read_text()
    assert "WARNING" in log and "fewer than batch_size = 500: every batch holds all of them" in log
    assert "fewer" not in folder.log(0).read_text()
    assert json.loads((folder.root / "batches.json").read_text()) == BATCHES


def test_unequal_work_gives_other_parameters(tmp_path: Path, cache: Path) -> None:
    """The comparison above can fail: it sees one node's rounds."""
    first, second = (
        undisturbed(experiment(tmp_path / rounds, cache, **ALL | {"rounds": rounds}), 1)
        for rounds in ("3,1,0,2,3,5", "3,1,0,2,3,4")
    )  # fmt: skip
    differ = {uid for t, uid in first if first[(t, uid)] != second[(t, uid)]}
    assert differ == {4, 5, 0}, "node 5 and its neighbours"


EXPLODES = """
def explode(t, iterations):
    return 1e38 if t == 2 else 1.0
"""
DIVERGING = {
    "rounds": "one.json",
    "schedule": "[LR_SCHEDULE]\nschedule_package = my_lr\nschedule_class = explode",
}


def diverging(folder: Path, cache: Path, **options: str) -> Experiment:
    """Node 3 alone trains, and with an absurd lr in the third iteration."""
    pairs = Graph.undirected(NODES, [(0, 1), (1, 2), (3, 4), (4, 5)])
    made = Experiment(folder, pairs, cache, **DIVERGING, **options)
    (folder / "my_lr.py").write_text(EXPLODES)
    (folder / "one.json").write_text('{"3": 2, "default": 0}')
    return made


Diverged = dict[str, tuple[Path, Popen[str]]]


@pytest.fixture(scope="module")
def stopping(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Diverged]:
    """By model, runs that NaN ends."""
    yield from start_all(tmp_path_factory.mktemp("stopping"), cache, "")


@pytest.fixture(scope="module")
def going_on(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Diverged]:
    """By model, runs that NaN does not end."""
    yield from start_all(tmp_path_factory.mktemp("going on"), cache, "on_nan = continue")


def start_all(folder: Path, cache: Path, on_nan: str) -> Iterator[Diverged]:
    """Runs of all models at the same time."""
    found: Diverged = {}
    for model, options in MODELS.items():
        more = options | {"optimizer": "SGD", "train_options": on_nan}
        made = diverging(folder / model, cache, **more)
        root, (process,) = made.start((NODES,), 2, 6, "-ta", "1")
        found[model] = root, process
    yield found
    end_all(process for _, process in found.values())


@pytest.mark.parametrize("model", MODELS)
def test_nan_ends_the_run(model: str, stopping: Diverged) -> None:
    root, process = stopping[model]
    _, text = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "machine 0, worker 1: node 3: parameters are not finite" in text
    assert "of iteration 3; lower lr" in text and "Traceback" not in text
    assert not leftovers([process])
    folder = MachineFolder(root / "machine0")
    assert "[ERROR] node 3: parameters are not finite" in folder.log(3).read_text()
    rows = {(row["uid"], row["iteration"]): row for row in machine_records(folder).rows}
    # What node 3 has behind it when it trains a third time; how far the others are, nobody knows.
    assert rows.keys() >= {(3, 1), (3, 2), (4, 1)}
    farthest = {3: 2, 4: 2, 5: 3}  # who waits for node 3; the others do not
    assert all(t <= farthest.get(uid, 6) for uid, t in rows)
    for (_, t), row in rows.items():  # what was measured is kept, though nobody met the others
        assert t < 3 or "consensus_distance" not in row


@pytest.mark.parametrize("model", MODELS)
def test_nan_is_recorded_and_the_run_goes_on(model: str, going_on: Diverged) -> None:
    root, process = going_on[model]
    finish([process])
    folder = MachineFolder(root / "machine0")
    rows = machine_records(folder).rows
    found = {(row["uid"], row["iteration"]): row["nan"] for row in rows if "nan" in row}
    assert found == {(3, t): 3 for t in (3, 4, 5, 6)}
    assert len(rows) == 6 * NODES
    log = folder.log(3).read_text()
    assert log.count("[WARNING] node 3: parameters are not finite") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rounds": "1, 2"}, "[TRAIN_PARAMS] rounds has 2 entries for 6 nodes"),
        ({"batch_size": "nowhere.json"}, "nowhere.json: cannot be read: No such file"),
        ({"rounds": "batches.json", "batch_size": "0"}, "batch_size = 0: must be at least 1"),
        ({"schedule": COSINE.replace("Cosine", "Cosin")}, "(did you mean 'Cosine'?)"),
        ({"schedule": COSINE + "peak = 3"}, "Cosine has no option 'peak'"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    options: dict[str, str], words: str, tmp_path: Path, cache: Path
) -> None:
    root, processes = experiment(tmp_path, cache, **options).start((NODES,), 1, 2)
    _, text = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 2 and words in text and text.count("\n") == 1
    assert not root.exists()


def test_machines_with_different_numbers_do_not_start(tmp_path: Path, cache: Path) -> None:
    """The INI is the same; the file that it names is not."""
    first = experiment(tmp_path / "a", cache, rounds="batches.json")
    second = experiment(tmp_path / "b", cache, rounds="batches.json")
    (second.folder / "config.ini").write_text((first.folder / "config.ini").read_text())
    (second.folder / "batches.json").write_text('{"default": 3}')
    processes = first.start((3, 3), 1, 100, only=(0,))[1]
    processes += second.start((3, 3), 1, 100, only=(1,))[1]
    for process in processes:
        text = process.communicate(timeout=60)[1]
        assert process.returncode == 2
        assert "batches.json" in text and "machine 1" in text
