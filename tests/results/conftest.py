"""Synthetic run folders, written through the core's own writer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decentralizepy.runfolder import MachineFolder, RecordWriter, RunFolder, write_json

INI = """\
[DATASET]
dataset_package = decentralizepy.datasets.Digits
dataset_class = Digits
model_class = MLP
random_seed = {seed}
train_dir = /somewhere/data
[OPTIMIZER_PARAMS]
optimizer_package = torch.optim
optimizer_class = SGD
lr = {lr} ; a comment
[TRAIN_PARAMS]
rounds = 3
shuffle = True
[COMMUNICATION]
comm_class = TCP
offset = 9000
[SHARING]
sharing_class = Sharing
"""


@dataclass(frozen=True)
class Written:
    """A synthetic run folder and the records in it."""

    root: Path
    rows: list[dict[str, Any]]

    def values(self, metric: str, iteration: int) -> np.ndarray:
        """What the nodes reported after an iteration, by uid."""
        rows = [row for row in self.rows if row["iteration"] == iteration]
        return np.array([row[metric] for row in sorted(rows, key=lambda row: row["uid"])])


def make_rows(counts: Sequence[int], iterations: Iterable[int], seed: int) -> list[dict[str, Any]]:
    """Records of all nodes, machine by machine, with falling losses."""
    random = np.random.default_rng(seed)
    places = [(m, rank) for m, count in enumerate(counts) for rank in range(count)]
    return [
        {
            "iteration": iteration,
            "uid": uid,
            "machine": machine,
            "rank": rank,
            "train_loss": 2.3 * math.exp(-iteration / 20) + 0.01 + 0.01 * random.random(),
            "test_loss": 2.3 * math.exp(-iteration / 25) + 0.1 + 0.1 * random.random(),
            "test_acc": 95.0 - 80 * math.exp(-iteration / 15) + random.random(),
            "total_bytes": iteration * 4200 + uid,
            "total_data": iteration * 4000,
            "total_meta": iteration * 200 + uid,
            "wire_bytes": iteration * 1000,
            "consensus_distance": math.exp(-iteration / 30) + 0.01 * random.random(),
            "local_steps": iteration * (1 + uid % 3),
            "samples": iteration * (1 + uid % 3) * 8,
            "elapsed_s": iteration * 0.1,
        }
        for iteration in iterations
        for uid, (machine, rank) in enumerate(places)
    ]


def write_rows(root: Path, rows: Iterable[Mapping[str, Any]], workers: int = 2) -> None:
    """Append records as the workers of each machine would."""
    for row in rows:
        machine = RunFolder(root).machine(row["machine"])
        writer = RecordWriter(machine.records(row["rank"] % workers))
        writer.append(row)
        writer.close()


def write_about(root: Path, counts: Sequence[int], seed: int, lr: float, name: str) -> None:
    """Write the files that say what the run was."""
    run = RunFolder(root)
    config = {"job_name": name, "NB_AGENTS": sum(counts), "GRAPH_FILE": "graph.edges"}
    write_json(run.config, config | {"walltime": "0:10:00"})
    run.ini.write_text(INI.format(seed=seed, lr=lr), encoding="utf-8")
    for machine in range(len(counts)):
        write_json(run.machine(machine).run, {"seed": seed, "outcome": "done"})


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Written]:
    """Write a run folder: two machines of 3 and 2 nodes, four evaluations, unless told."""

    def make(
        folder: str = "run",
        counts: Sequence[int] = (3, 2),
        iterations: Sequence[int] = (1, 10, 20, 30),
        seed: int = 1,
        lr: float = 0.05,
        name: str = "experiment",
        change: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row,
    ) -> Written:
        root = tmp_path / folder
        rows = [change(row) for row in make_rows(counts, iterations, seed)]
        write_rows(root, rows)
        write_about(root, counts, seed, lr, name)
        return Written(root, rows)

    return make


@pytest.fixture
def as_reference() -> Callable[[Path], None]:
    """Leave of a run folder what the reference system would: results files, and no records."""
    from decentralizepy.runfolder import write_legacy_results

    def convert(root: Path) -> None:
        for machine in RunFolder(root).machines().values():
            write_legacy_results(machine)
            _forget_records(machine)

    return convert


def _forget_records(machine: MachineFolder) -> None:
    for path in machine.all_records():
        path.unlink()
