"""What dies is noticed, named, and takes nothing with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import Experiment, end_all, leftovers, server_of, wait_for_round, workers_of

from decentralizepy.graphs.generators import ring
from decentralizepy.runfolder import MachineFolder, machine_records

FOREVER = 1_000_000
#: evaluation at iteration 1 and every 20 leaves records to be kept
MORE = ("-ta", "20", "-tea", "20")


@pytest.fixture
def experiment(tmp_path: Path, cache: Path) -> Experiment:
    return Experiment(tmp_path, ring(8), cache)


@pytest.fixture
def running(experiment: Experiment) -> Iterator[list]:
    """Processes that a test started; what is left of them is ended."""
    started: list = []
    yield started
    end_all(started)


def test_a_killed_worker_ends_the_run_on_all_machines(
    experiment: Experiment, running: list
) -> None:
    root, processes = experiment.start((4, 4), 2, FOREVER, *MORE)
    running += processes
    wait_for_round(root / "machine1", 21)
    workers = workers_of(processes[1])
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    killed = time.monotonic()
    texts = [process.communicate(timeout=20)[1] for process in processes]
    took = time.monotonic() - killed
    assert [process.returncode for process in processes] == [5, 5]
    assert took < 10, "a loaded machine may be slow, but not by the 60 s of a time-out"
    for text in texts:
        assert "machine 1, worker" in text and "SIGKILL" in text
        assert "node" in text and "iteration" in text
    assert not leftovers(processes)
    folder = MachineFolder(root / "machine1")
    assert {row["iteration"] for row in machine_records(folder).rows} >= {1, 20}
    assert folder.results(0).exists(), "what was measured is turned into results all the same"
    assert json.loads(folder.run.read_text())["outcome"] == "failed"


def test_a_killed_server_of_the_workers_is_named(experiment: Experiment, running: list) -> None:
    _, processes = experiment.start((8,), 2, FOREVER, *MORE)
    running += processes
    wait_for_round(experiment.folder / "run1" / "machine0", 2)
    os.kill(server_of(processes[0]), signal.SIGKILL)
    _, text = processes[0].communicate(timeout=20)
    assert processes[0].returncode == 5
    assert "ended with the server of the workers, which was killed by SIGKILL" in text
    assert "255" not in text and not leftovers(processes)


def test_a_killed_machine_ends_the_others(experiment: Experiment, running: list) -> None:
    root, processes = experiment.start((4, 4), 1, FOREVER, *MORE)
    running += processes
    wait_for_round(root / "machine0", 2)
    os.kill(processes[1].pid, signal.SIGKILL)
    _, text = processes[0].communicate(timeout=20)
    processes[1].communicate(timeout=20)
    assert processes[0].returncode == 5
    assert "machine 1 is gone" in text
    assert not leftovers(processes), "workers end with their supervisor, even when it is killed"


def test_workers_end_with_a_killed_supervisor_in_the_middle_of_a_step(
    tmp_path: Path, cache: Path, running: list
) -> None:
    """One of them even stands still: nobody has to look at a line for that."""
    experiment = Experiment(tmp_path / "long", ring(8), cache, rounds="200000")
    root, processes = experiment.start((8,), 2, FOREVER, *MORE)
    running += processes
    wait_for_state(root / "machine0", "running")
    workers = workers_of(processes[0])
    os.kill(workers[0], signal.SIGSTOP)
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].communicate(timeout=20)
    assert len(workers) == 2 and not leftovers(processes)


SLOW = """\
import time

from decentralizepy.sharing.sharing import Sharing


class Slow(Sharing):
    def __init__(self) -> None:
        super().__init__()
        time.sleep(1000)
"""
IMPATIENT = """
from decentralizepy.cli import main
main({words!r})
"""


def test_a_worker_that_never_gets_ready_is_not_waited_for_without_end(
    tmp_path: Path, cache: Path
) -> None:
    experiment = Experiment(tmp_path, ring(4), cache, sharing_package="slow", sharing="Slow")
    (tmp_path / "slow.py").write_text(SLOW)
    words = experiment.words(
        tmp_path / "run", 0, (4,), 1, 2, "--progress_limit", "1", "--start_timeout", "1"
    )
    command = [sys.executable, "-c", IMPATIENT.format(words=words)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 5, done.stderr
    assert "not ready to train within 1 s (progress limit); workers not ready: 0" in done.stderr


def wait_for_state(machine: Path, state: str, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            if json.loads((machine / "status.json").read_text())["state"] == state:
                return
        time.sleep(0.02)
    raise AssertionError(f"{machine} was never {state}")


def test_a_reader_that_goes_away_does_not_end_the_run(
    experiment: Experiment, running: list
) -> None:
    root, processes = experiment.start((8,), 1, 30, *MORE)
    running += processes
    assert processes[0].stdout is not None
    processes[0].stdout.close()
    processes[0].stdout = None
    _, errors = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 0, errors
    assert json.loads((root / "machine0" / "run.json").read_text())["outcome"] == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_keeps_its_records(
    experiment: Experiment, running: list, number: signal.Signals
) -> None:
    root, processes = experiment.start((8,), 2, FOREVER, *MORE)
    running += processes
    wait_for_round(root / "machine0", 25)
    os.kill(processes[0].pid, number)
    _, text = processes[0].communicate(timeout=20)
    assert processes[0].returncode == 130
    assert "Traceback" not in text
    assert not leftovers(processes)
    folder = MachineFolder(root / "machine0")
    assert json.loads(folder.status.read_text())["state"] == "interrupted"
    assert len(machine_records(folder).rows) >= 16


@pytest.mark.parametrize("until", ["supervision", "forkserver", "the lines of records"])
def test_an_interrupt_in_the_first_seconds_is_a_line(
    experiment: Experiment, running: list, until: str
) -> None:
    """Ctrl-C reaches all processes of a terminal; the server of the workers still loads torch."""
    root, processes = experiment.start((8,), 2, FOREVER, *MORE)
    running += processes
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not begun(until, processes[0], root / "machine0"):
        time.sleep(0.005)
    os.killpg(processes[0].pid, signal.SIGINT)
    _, text = processes[0].communicate(timeout=20)
    assert processes[0].returncode in (130, -signal.SIGINT) and text.endswith("interrupted\n")
    assert "Traceback" not in text and not leftovers(processes)


def begun(what: str, process: subprocess.Popen, folder: Path) -> bool:
    """Whether a starting command has come that far."""
    if what == "supervision":
        return b"zmq" in Path(f"/proc/{process.pid}/maps").read_bytes()
    if what == "forkserver":
        return any("forkserver" in line for line in leftovers([process], 0))
    return bool(MachineFolder(folder).all_records())


BROKEN = '''\
from decentralizepy.sharing.sharing import Sharing


class Broken(Sharing):
    """Fails at a given node and iteration."""

    def merge(self, x, heard, ctx):
        if (ctx.uid, ctx.t) == (5, 3):
            raise ZeroDivisionError("as asked")
        return super().merge(x, heard, ctx)
'''


def test_a_failing_method_is_named_with_node_and_iteration(tmp_path: Path, cache: Path) -> None:
    experiment = Experiment(tmp_path, ring(8), cache, sharing_package="my_method", sharing="Broken")
    (tmp_path / "my_method.py").write_text(BROKEN)
    root, processes = experiment.start((8,), 2, 10)
    _, text = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 5
    assert "node 5 failed in iteration 4: ZeroDivisionError: as asked" in text
    assert "my_method.py" in text, "the traceback shows the user's line"
    assert "ZeroDivisionError" in (root / "machine0" / "5.log").read_text()
    assert not leftovers(processes)


def test_machines_with_different_files_do_not_start(experiment: Experiment, running: list) -> None:
    _, first = experiment.start((4, 4), 1, FOREVER, only=(0,))
    running += first
    other = experiment.folder / "other"
    again = Experiment(other, ring(8), experiment.cache, optimizer_options="momentum = 0.5")
    offset = (experiment.folder / "config.ini").read_text().split("offset = ")[1].split()[0]
    text = (other / "config.ini").read_text()
    mine = text.split("offset = ")[1].split()[0]
    (other / "config.ini").write_text(text.replace(f"offset = {mine}", f"offset = {offset}"))
    _, second = again.start((4, 4), 1, FOREVER, only=(1,))
    running += second
    for process in first + second:
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 2
        assert "INI file" in errors and "machine 1" in errors
