"""Many nodes on a small machine: memory, first step, pace; and records of a long run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import engine, loops
from benchmarks.load import Load
from benchmarks.result import Result
from decentralizepy.runfolder import RecordWriter

REPOSITORY = Path(__file__).resolve().parents[1]
LENET = "decentralizepy.models.cifar10.LeNet"


def start_and_memory(folder: Path) -> Iterator[Result]:
    """128 and 1,024 LeNet nodes: the first step, and the memory of all processes."""
    for nodes, most_s, most_gb in ((128, 4.0, 0.6), (1024, None, 1.5)):
        load = Load(LENET, nodes, 8, samples=9)
        seconds, megabytes = engine.start_and_memory(folder, load, 2, iterations=2)
        if most_s is not None:
            name = f"start, {nodes} LeNet nodes: seconds"
            yield Result(name, seconds, most_s, "until training begins")
        yield Result(
            f"memory, {nodes} LeNet nodes: GB", megabytes / 1000, most_gb, "peak, all processes"
        )


def pace(folder: Path, repeats: int) -> Iterator[Result]:
    """1,024 LeNet nodes against the best bare loop."""
    load, count = Load(LENET, 1024, 8, samples=9), 1
    pairs = [
        (loops.seconds("best", load, 2, 1, count), engine.seconds(folder, load, 2, count))
        for _ in range(repeats)
    ]
    best, ours = (sorted(values)[repeats // 2] for values in zip(*pairs, strict=True))
    detail = f"best {best:.2f} s, engine {ours:.2f} s"
    yield Result("LeNet, 1024 nodes, batch 8: engine / best", ours / best, 1.10, detail)


def ten_thousand(folder: Path) -> Iterator[Result]:
    """10,000 digits MLPs: five iterations of them all."""
    load = Load("decentralizepy.models.digits.MLP", 10_000, 1, steps=1)
    named = {"dataset_package": "many_digits", "dataset_class": "ManyDigits", "times": 10}
    command = engine.prepare(folder, load, more={"DATASET": named})
    status = engine.run(folder, command, 5, "--workers", "2")
    yield Result(
        "MLP, 10000 nodes, batch 1: iterations done",
        5 - status["round_min"],
        0,
        f"0 missing; {status['elapsed_s'] / 5:.2f} s an iteration, {status['wall_s']:.0f} s in all",
    )


def records(repeats: int) -> Iterator[Result]:
    """A record late in a long run against one at its start."""
    row = {"iteration": 1, "uid": 0, "machine": 0, "rank": 0, "test_loss": 0.5, "test_acc": 90.0}

    def thousand(writer: RecordWriter) -> float:
        started = time.perf_counter()
        for _ in range(1000):
            writer.append(row)
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as name:
        writer = RecordWriter(Path(name) / "records_0.jsonl")
        thousand(writer)
        early = min(thousand(writer) for _ in range(repeats))
        for _ in range(200):
            thousand(writer)
        late = min(thousand(writer) for _ in range(repeats))
        writer.close()
    detail = f"{1000 * early:.1f} us at first, {1000 * late:.1f} us after 200,000"
    yield Result("a record late in a run / at its start", late / early, 1.5, detail)


def dry_run(repeats: int) -> Iterator[Result]:
    """The command, from a cold Python to the printed plan of the quickstart."""
    command = [sys.executable, "g5k_execution.py", "g5k_config/quickstart.json", "--dry-run"]

    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
        return time.perf_counter() - began

    taken = statistics.median(seconds() for _ in range(repeats))
    yield Result("dry run of the quickstart: seconds", taken, 1.0, "from command to plan")


def results(folder: Path, repeats: int) -> Iterator[Result]:
    """All rows of this file."""
    yield from start_and_memory(folder)
    yield from pace(folder, repeats)
    yield from ten_thousand(folder)
    yield from records(5)
    yield from dry_run(5)
