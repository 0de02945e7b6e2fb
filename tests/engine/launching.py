"""Starts the real command for the engine's tests, and looks for what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from decentralizepy.graphs.files import write_graph
from decentralizepy.graphs.graph import Graph

MODEL = '''\
"""A model with everything that has state: convolutions, batch norm, dropout, a mask, a count."""
import torch
from torch import nn


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(4 * 36, 10)
        self.register_buffer("mask", torch.arange(10) < 9)
        self.register_buffer("seen", torch.tensor([5, 6]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += self.training
        out = self.out(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))
        return (1 + self.mask / self.seen[0]) * out
'''

INI = """\
[DATASET]
dataset_package = {dataset_package}
dataset_class = {dataset}
model_package = {model_package}
model_class = {model}
random_seed = 90
partition_niid = {partition}
shards = 2
[OPTIMIZER_PARAMS]
optimizer_package = torch.optim
optimizer_class = {optimizer}
lr = 0.05
{optimizer_options}
[TRAIN_PARAMS]
training_package = {training_package}
training_class = {training}
rounds = {rounds}
batch_size = {batch_size}
shuffle = True
{train_options}
loss_package = torch.nn
loss_class = CrossEntropyLoss
[COMMUNICATION]
comm_package = decentralizepy.communication.TCP
comm_class = TCP
addresses_filepath = ip.json
offset = {offset}
[SHARING]
sharing_package = {sharing_package}
sharing_class = {sharing}
[NODE]
{node}
{schedule}
"""

DEFAULTS = {
    "dataset_package": "decentralizepy.datasets.Digits",
    "dataset": "Digits",
    "model_package": "decentralizepy.models.digits",
    "model": "MLP",
    "partition": "kshard",
    "optimizer": "SGD",
    "optimizer_options": "",
    "sharing_package": "decentralizepy.sharing.Sharing",
    "sharing": "Sharing",
    "node": "",
    "training_package": "",
    "training": "Training",
    "rounds": "3",
    "batch_size": "8",
    "train_options": "",
    "schedule": "",
}


#: where to look next: ports that were given are not given again while there are others
_next_port = 20_000 + os.getpid() % 10_000


def free_ports(count: int, addresses: Sequence[str] = ("127.0.0.1", "127.0.0.2")) -> int:
    """The first of ``count`` consecutive TCP ports that are free on all addresses.

    Experiments that run at the same time, and have not taken their ports yet, get others.
    """
    global _next_port
    for first in (*range(_next_port, 60_000, count), *range(20_000, _next_port, count)):
        if all(_free(address, first + i) for address in addresses for i in range(count)):
            _next_port = first + count
            return first
    raise RuntimeError("no free ports")


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


class Experiment:
    """An experiment in a folder of its own, to be run in any placement."""

    def __init__(self, folder: Path, graph: Graph, cache: Path, **options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.graph, self.cache = folder, graph, cache
        values = DEFAULTS | options
        values["training_package"] = (
            values["training_package"] or f"decentralizepy.training.{values['training']}"
        )
        (folder / "config.ini").write_text(INI.format(**values, offset=free_ports(12)))
        (folder / "everything.py").write_text(MODEL)
        (folder / "ip.json").write_text(json.dumps({"0": "127.0.0.1", "1": "127.0.0.2"}))
        write_graph(graph, folder / "graph.edges")
        self.runs = 0

    def words(
        self, root: Path, machine: int, counts: Sequence[int], workers: int, iterations: int,
        *more: str,
    ) -> list[str]:  # fmt: skip
        """What a machine is told, from the verb on; its files are named as in our folder."""
        return [
            "run", "-mid", str(machine), "-ms", str(len(counts)), "-ps", *map(str, counts),
            "-cf", "config.ini", "-gf", "graph.edges", "-is", str(iterations), "-ro", "0",
            "--workers", str(workers), "-ld", str(root / f"machine{machine}"),
            "--cache-dir", str(self.cache), *more,
        ]  # fmt: skip

    def start(
        self,
        counts: Sequence[int],
        workers: int,
        iterations: int,
        *more: str,
        only: Sequence[int] = (),
    ) -> tuple[Path, list[subprocess.Popen[str]]]:
        """Start the command on every machine (or ``only`` some); returns folder and processes."""
        self.runs += 1
        root = self.folder / f"run{self.runs}"
        found = []
        for machine in only or range(len(counts)):
            words = self.words(root, machine, counts, workers, iterations, *more)
            process = subprocess.Popen(
                [sys.executable, "-m", "decentralizepy", *words],
                cwd=self.folder, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_hear_interrupts,
            )  # fmt: skip
            found.append(process)
        return root, found

    def run(self, counts: Sequence[int], workers: int, iterations: int, *more: str) -> Path:
        """Run to the end, as `finish` asserts."""
        root, processes = self.start(counts, workers, iterations, *more)
        finish(processes)
        return root


def finish(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Asserts that every machine ends well and leaves nothing behind."""
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert not leftovers(processes)


def _hear_interrupts() -> None:
    """A shell has its background jobs ignore Ctrl-C, nohup a hang-up, and all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def leftovers(processes: Iterable[subprocess.Popen[str]], patience: float = 2.0) -> list[str]:
    """Processes of the given sessions that are still there after a moment."""
    sessions = {process.pid for process in processes}
    deadline = time.monotonic() + patience
    while found := list(_processes(sessions)):
        if time.monotonic() > deadline:
            return found
        time.sleep(0.05)
    return []


def _processes(sessions: set[int]) -> Iterable[str]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text()
            command = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        if int(fields[3]) in sessions and fields[0] != "Z":
            yield f"{folder.name} {command}"


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the workers of a running command."""
    found = []
    for line in _processes({process.pid}):
        pid = int(line.split()[0])
        status = Path(f"/proc/{pid}/status").read_text()
        parent = next(x.split()[1] for x in status.splitlines() if x.startswith("PPid"))
        grandparent = _parent(int(parent))
        if grandparent == process.pid and "forkserver" in line:
            found.append(pid)
    return found


def server_of(process: subprocess.Popen[str]) -> int:
    """Process id of the server that forks the workers of a running command."""
    return _parent(workers_of(process)[0])


def _parent(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(next(x.split()[1] for x in status.splitlines() if x.startswith("PPid")))


def wait_for_round(machine: Path, at_least: int, timeout: float = 60.0) -> None:
    """Wait until the slowest node of a machine has done that many iterations."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            status = json.loads((machine / "status.json").read_text())
        except (OSError, ValueError):
            status = {"round_min": 0}
        if status["round_min"] >= at_least:
            return
        time.sleep(0.02)
    raise AssertionError(f"{machine} did not reach iteration {at_least}")


def end_all(processes: Iterable[subprocess.Popen[str]]) -> None:
    """Kill what a failing test may have left running."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def digests(root: Path) -> dict[tuple[int, int], str]:
    """(iteration, uid) -> SHA-256 of the node's row, over all machines and workers."""
    lines = [
        json.loads(line)
        for path in sorted(root.glob("machine*/digests_*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return {(line["iteration"], line["uid"]): line["sha256"] for line in lines}
