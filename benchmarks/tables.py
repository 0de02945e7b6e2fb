"""Tables and figures of a long run: CPU seconds and memory of the command."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.result import Result
from decentralizepy.runfolder import RunFolder, final_records, has_records, write_json

NODES, RECORDS, MACHINES, WORKERS = 128, 10_000, 2, 2
_LINE = (
    '{"iteration":%d,"uid":%d,"machine":%d,"rank":%d,"train_loss":%r,"test_loss":%r,"test_acc":%r,'
    '"total_bytes":%d,"total_data":%d,"total_meta":%d,"wire_bytes":%d,"consensus_distance":%r,'
    '"local_steps":%d,"samples":%d,"elapsed_s":%.6f,"train_s":%.6f,"share_s":%.6f,"wait_s":%.6f,'
    '"evaluate_s":%.6f}\n'
)


def write_run(root: Path, nodes: int = NODES, records: int = RECORDS) -> int:
    """Write the records of a run of LeNet as its workers would; returns their bytes."""
    each = nodes // MACHINES // WORKERS
    for place in range(MACHINES * WORKERS):
        machine = RunFolder(root).machine(place // WORKERS)
        write_json(machine.run, {"seed": 90, "outcome": "done"})
        rng = random.Random(place)
        first = place % WORKERS * each
        with machine.records(place % WORKERS).open("w") as out:
            for t in range(1, records + 1):
                lines = (_line(t, place // WORKERS, first + i, rng.random()) for i in range(each))
                out.write("".join(lines))
    return sum(path.stat().st_size for path in root.rglob("records_*.jsonl"))


def _line(t: int, machine: int, rank: int, noise: float) -> str:
    uid = machine * (NODES // MACHINES) + rank
    loss = 2.3 / (1 + t / 100) + noise
    sent = 359_356 * t
    return _LINE % (
        t, uid, machine, rank, loss, loss + 0.1, 60 + 30 * noise, sent, sent - 512 * t, 512 * t,
        sent // 2, 3 * noise, 3 * t, 24 * t, 0.12 * t + noise, 0.1 * t + noise, 0.01 * t, 0.01 * t,
        0.001 * t,
    )  # fmt: skip


def spent(command: list[str]) -> tuple[float, float]:
    """(CPU seconds, peak gigabytes) of a command; raises if it fails."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def results(folder: Path, repeats: int) -> Iterator[Result]:
    """All rows of this file."""
    root = folder / "long"
    size = write_run(root)
    command = [sys.executable, "-m", "results", str(root), "--output", str(folder / "out")]
    pairs = [spent(command) for _ in range(repeats)]
    seconds, gigabytes = (sorted(values)[repeats // 2] for values in zip(*pairs, strict=True))
    detail = f"{NODES} nodes x {RECORDS:,} records, {size / 1e6:.0f} MB"
    yield Result("tables and figures of a long run: CPU s", seconds, 10.0, detail)
    yield Result("tables and figures of a long run: GB", gigabytes, 0.8, "peak")
    machines = RunFolder(root).machines().values()
    started = time.process_time()
    assert all(has_records(machine) for machine in machines)
    yield Result("whether a long run left records: CPU s", time.process_time() - started, 0.1, "")
    started = time.process_time()
    assert sum(len(final_records(machine)) for machine in machines) == NODES
    took = time.process_time() - started
    yield Result("what a long run took, from its records: CPU s", took, 5.0, "")
