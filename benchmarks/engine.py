"""The same work through the real command, ``decentralizepy run``."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.load import Load
from benchmarks.loops import WARM
from decentralizepy.communication.keys import make_key
from decentralizepy.graphs.files import write_graph
from decentralizepy.graphs.generators import regular
from decentralizepy.runfolder import MachineFolder, machine_records

#: sections of an INI, and options in them
Sections = Mapping[str, Mapping[str, object]]
_NOTHING: Sections = {}
#: modules of our own, which are copied beside the INIs as users' would lie there
_PROGRAMS = Path(__file__).parent / "programs"
_METHODS = Path(__file__).parents[1] / "tests/methods"


def sections(folder: Path, load: Load, more: Sections) -> dict[str, dict[str, object]]:
    """The INI of a load: our options, then those of ``more`` in their place."""
    module, _, model = load.model.rpartition(".")
    dataset = "CIFAR10" if module.endswith("cifar10") else "Digits"
    found: dict[str, dict[str, object]] = {
        "DATASET": {
            "dataset_package": f"decentralizepy.datasets.{dataset}",
            "dataset_class": dataset,
            "model_package": module,
            "model_class": model,
            "train_dir": folder / "data",
            "test_dir": folder / "data",
            "random_seed": 90,
            "partition_niid": "iid",
        },
        "OPTIMIZER_PARAMS": {
            "optimizer_package": "torch.optim", "optimizer_class": "SGD", "lr": load.lr,
        },
        "TRAIN_PARAMS": {
            "training_package": "decentralizepy.training.Training",
            "training_class": "Training",
            "rounds": load.steps,
            "batch_size": load.batch,
            "shuffle": True,
            "loss_package": "torch.nn",
            "loss_class": "CrossEntropyLoss",
        },
        "COMMUNICATION": {
            "comm_package": "decentralizepy.communication.TCP", "comm_class": "TCP",
        },
        "SHARING": {
            "sharing_package": "decentralizepy.sharing.Sharing", "sharing_class": "Sharing",
        },
    }  # fmt: skip
    for name, options in more.items():
        found[name] = found.get(name, {}) | dict(options)
    return found


def write_ini(folder: Path, load: Load, more: Sections) -> Path:
    """Write an INI, under a name of its own; returns its path."""
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())
        for name, options in sections(folder, load, more).items()
    )
    path = folder / f"{zlib.crc32(text.encode()):08x}.ini"
    path.write_text(text)
    return path


def write_cifar(folder: Path, train: int = 10_000, test: int = 1_000) -> None:
    """Random images in CIFAR-10's own files."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    rng = np.random.default_rng(0)
    parts = [(f"data_batch_{i}", train // 5) for i in range(1, 6)] + [("test_batch", test)]
    for name, count in parts:
        value = {
            b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            b"labels": rng.integers(0, 10, count).tolist(),
        }
        (batches / name).write_bytes(pickle.dumps(value, protocol=2))


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder with CIFAR-shaped data, programs and a cache, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        write_cifar(folder / "data")
        for module in (*_PROGRAMS.glob("[a-z]*.py"), _METHODS / "zip_dl.py"):
            shutil.copy(module, folder)
        yield folder


def graph_flags(folder: Path, nodes: int, degree: int) -> list[str]:
    """The flags of a regular graph; with degree 0 there is none, for programs that need none."""
    if not degree:
        return ["-ps", str(nodes)]
    path = folder / f"{nodes}_{degree}.edges"
    if not path.exists():
        write_graph(regular(nodes, degree, 0), path)
    return ["-gf", str(path)]


def prepare(folder: Path, load: Load, degree: int = 4, more: Sections = _NOTHING) -> list[str]:
    """Write INI and graph; returns the command but for iterations and log folder."""
    return [
        sys.executable, "-m", "decentralizepy", "run",
        "-cf", str(write_ini(folder, load, more)), *graph_flags(folder, load.nodes, degree),
        "-ta", "0", "-tea", "0", "-ro", "0", "--cache-dir", str(folder / "cache"),
        "--device", load.device,
    ]  # fmt: skip


def _log_folder(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder)) / "machine0"


def run(folder: Path, command: list[str], iterations: int, *more: str) -> dict[str, float]:
    """Run; returns the final status with ``wall_s`` added."""
    log = _log_folder(folder)
    started = time.perf_counter()
    subprocess.run(
        [*command, "-is", str(iterations), "-ld", str(log), *more],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wall = time.perf_counter() - started
    status = json.loads((log / "status.json").read_text())
    return status | {"wall_s": wall}


def seconds(
    folder: Path,
    load: Load,
    workers: int,
    iterations: int,
    degree: int = 4,
    more: Sections = _NOTHING,
) -> float:
    """Seconds an iteration once warm: a long run less a short one, as the loops warm up too."""
    command = prepare(folder, load, degree, more)
    short, long = (
        run(folder, command, count, "--workers", str(workers))["elapsed_s"]
        for count in (WARM, WARM + iterations)
    )
    return (long - short) / iterations


def training_seconds(folder: Path, load: Load, workers: int, iterations: int) -> float:
    """Seconds of local steps in an iteration, once warm, of each worker."""
    last = WARM + iterations
    more = ["-is", str(last), "-ta", str(last), "--test_samples", "1", "--workers", str(workers)]
    spent = _spent(folder, [*prepare(folder, load), *more], "train_s")
    return (spent[last] - spent[1]) / (last - 1) / workers


def _spent(folder: Path, command: list[str], column: str) -> Mapping[int, float]:
    """Sums over nodes of a column of seconds, by iteration, of a run."""
    log = _log_folder(folder)
    subprocess.run([*command, "-ld", str(log)], check=True, stdout=subprocess.DEVNULL)
    found: defaultdict[int, float] = defaultdict(float)
    for row in machine_records(MachineFolder(log)).rows:
        found[row["iteration"]] += row[column]
    return found


def two_machines(folder: Path, load: Load, iterations: int) -> float:
    """Seconds an iteration, once warm, of two encrypted machines of one worker each."""
    short, long = (_two_machines(folder, load, count) for count in (WARM, WARM + iterations))
    return (long - short) / iterations


def _two_machines(folder: Path, load: Load, iterations: int) -> float:
    command, log = prepare(folder, load), _log_folder(folder)
    make_key(log.parent)
    (folder / "ip.json").write_text('{"0": "127.0.0.1", "1": "127.0.0.2"}')
    processes = [
        subprocess.Popen(
            [*command, "-is", str(iterations), "-ms", "2", "-mid", str(machine), "--workers", "1",
             "-ld", str(log.with_name(f"machine{machine}"))],
            stdout=subprocess.DEVNULL,
        )
        for machine in (0, 1)
    ]  # fmt: skip
    assert [process.wait() for process in processes] == [0, 0]
    return float(json.loads((log / "status.json").read_text())["elapsed_s"])


def evaluation_seconds(folder: Path, load: Load, workers: int, rounds: int = 4) -> float:
    """Seconds of one evaluation of all nodes on ``load.samples`` test images, per worker."""
    more = ["-is", str(rounds), "-ta", "1", "--workers", str(workers)]
    spent = _spent(folder, [*prepare(folder, load), *more], "evaluate_s")
    return (spent[rounds] - spent[1]) / (rounds - 1) / workers  # without the first, which warms up


def start_and_memory(
    folder: Path, load: Load, workers: int, iterations: int = 20
) -> tuple[float, float]:
    """(seconds until training begins, peak megabytes of all processes of the run)."""
    command = prepare(folder, load)
    run(folder, command, 0)  # prepares the data set, which is done once
    log = _log_folder(folder)
    began = time.time()
    process = subprocess.Popen(
        [*command, "-is", str(iterations), "-ld", str(log), "--workers", str(workers)],
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, session_megabytes(process.pid))
        time.sleep(0.1)
    assert process.returncode == 0
    started = json.loads((log / "run.json").read_text())["training_started"]
    return started - began, peak


def session_megabytes(session: int) -> float:
    """Proportional set size of a session's processes, file-backed pages apart, in MB."""
    total = 0
    for folder in Path("/proc").iterdir():
        try:
            if os.getsid(int(folder.name)) != session:
                continue
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except (ValueError, OSError):
            continue
        fields = dict(line.split(":", 1) for line in lines[1:])
        total += sum(int(fields[key].split()[0]) for key in ("Pss_Anon", "Pss_Shmem"))
    return total * 1024 / 1e6
