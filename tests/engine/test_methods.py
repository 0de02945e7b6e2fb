"""Methods as users write them, each one file beside an INI: the same bits wherever they run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import Experiment, digests, finish

from decentralizepy import run_here
from decentralizepy.graphs.generators import regular
from decentralizepy.here import Outcome
from decentralizepy.runfolder import RunFolder, machine_records

METHODS = Path(__file__).resolve().parents[1] / "methods"
NODES, ITERATIONS = 8, 6
SYNCHRONOUS: dict[str, dict[str, str]] = {
    "choco": {"sharing_package": "choco", "sharing": "Choco"},
    "zip_dl": {"sharing_package": "zip_dl", "sharing": "ZipDL"},
    "natural": {"sharing": "Sharing\ncompression = error_feedback + natural.Natural(lowest=-60)"},
    "fedavg": {"node": "node_package = fedavg\nnode_class = FedAvg"},
    "tracking": {"node": "node_package = tracking\nnode_class = GradientTracking"},
    "chunked": {"node": "node_package = chunked\nnode_class = Chunked"},
    "meanwhile": {"node": "node_package = meanwhile\nnode_class = Meanwhile"},
    "dp_sgd": {"training_package": "dp_sgd", "training": "PerSampleClipping",
               "train_options": "clip = 0.5\nnoise = 0.1"},
    "language": {"dataset_package": "language", "dataset": "Sentences",
                 "model_package": "language", "model": "TinyLM", "partition": "simple"},
}  # fmt: skip
ASYNCHRONOUS: dict[str, dict[str, str]] = {
    "push_sum": {"node": "node_package = push_sum\nnode_class = PushSum"},
    "pull": {"node": "node_package = pull\nnode_class = Pull"},
    "knn": {"node": "node_package = knn\nnode_class = Nearest"},
    "epidemic": {"node": "node_package = epidemic\nnode_class = EpidemicLocal"},
}


def experiment(folder: Path, cache: Path, name: str) -> Experiment:
    """The method's experiment on a 4-regular graph, its file beside the INI."""
    options = (SYNCHRONOUS | ASYNCHRONOUS)[name]
    found = Experiment(folder / name, regular(NODES, 4, 1), cache, **options)
    shutil.copy(METHODS / f"{name}.py", found.folder)
    return found


def here(one: Experiment, name: str, *, iterations: int = ITERATIONS, **options: Any) -> Outcome:
    """Run it in this process; its folder is ``name``."""
    return run_here(
        one.folder / "config.ini", one.graph, iterations, reset_optimizer=0, digests=True,
        cache_dir=one.cache, log_dir=one.folder / name / "machine0", **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_users_file_gives_the_same_bits_everywhere(
    name: str, tmp_path: Path, cache: Path
) -> None:
    one = experiment(tmp_path, cache, name)
    outcome = here(one, "here")
    expected = digests(one.folder / "here")
    assert len(expected) == ITERATIONS * len(outcome.rows)
    for counts, workers in ([NODES], 4), ([3, 5], 1):
        assert digests(one.run(counts, workers, ITERATIONS, "--digests")) == expected
    half = ITERATIONS // 2
    root, processes = one.start([NODES], 2, half + 1, "--digests", "--checkpoint_after", str(half))
    finish(processes)
    here(one, root.name, resume=True, checkpoint_after=half)
    assert digests(root) == expected


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_an_asynchronous_program_is_repeatable_in_simulated_time(
    name: str, tmp_path: Path, cache: Path
) -> None:
    one = experiment(tmp_path, cache, name)
    simulation = one.folder / "links.json"
    seconds = [0.1] * (NODES - 1) + [2.0]
    links = {"latency_s": 0.01, "bandwidth_Bps": 1e6}
    simulation.write_text(
        json.dumps({"links": links, "compute": {"seconds_per_iteration": seconds}})
    )
    first = here(one, "first", simulate=simulation, checkpoint_after=3)
    again = here(one, "again", simulate=simulation, checkpoint_after=3)
    assert all(torch.equal(first.rows[uid], again.rows[uid]) for uid in first.rows)
    here(one, "halves", iterations=4, simulate=simulation, checkpoint_after=3)
    resumed = here(one, "halves", simulate=simulation, checkpoint_after=3, resume=True)
    assert all(torch.equal(first.rows[uid], resumed.rows[uid]) for uid in first.rows)


@pytest.mark.parametrize("counts, workers", [([NODES], 4), ([3, 5], 2)])
def test_push_sum_keeps_its_mass_in_real_time(
    counts: list[int], workers: int, tmp_path: Path, cache: Path
) -> None:
    """Through a checkpoint at which mail is saved, and a resume; nothing is lost or doubled."""
    one = experiment(tmp_path, cache, "push_sum")
    more = ("-ta", "1", "--checkpoint_after", "3")
    root, processes = one.start(counts, workers, 5, *more)
    finish(processes)
    assert sum(weights_at(root, 5).values()) == pytest.approx(NODES, rel=1e-12)
    saved = [json.loads(path.read_text()) for path in root.glob("machine*/checkpoints/3/set.json")]
    assert sorted(uid for one in saved for uid in one["uids"]) == list(range(NODES))
    for path in root.glob("machine*/checkpoints/5"):
        shutil.rmtree(path)
    one.runs -= 1
    root, processes = one.start(counts, workers, 8, *more, "--resume")
    finish(processes)
    assert sum(weights_at(root, 8).values()) == pytest.approx(NODES, rel=1e-12)


def weights_at(root: Path, iteration: int) -> dict[int, float]:
    """The push-sum weight of each node in its record of an iteration."""
    rows = [row for one in RunFolder(root).machines().values() for row in machine_records(one).rows]
    return {row["uid"]: row["weight"] for row in rows if row["iteration"] == iteration}


@pytest.mark.parametrize("name", ["pull", "knn", "epidemic"])
def test_an_asynchronous_program_ends_in_real_time(name: str, tmp_path: Path, cache: Path) -> None:
    one = experiment(tmp_path, cache, name)
    root = one.run([3, 5], 2, 6, "-ta", "3", "--checkpoint_after", "2")
    rows = [row for one in RunFolder(root).machines().values() for row in machine_records(one).rows]
    assert {row["uid"] for row in rows if row["iteration"] == 6} == set(range(NODES))
