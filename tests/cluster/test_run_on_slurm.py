"""g5k_execution.py on a real Slurm: the same numbers, one job, nothing left."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import experiment
import pytest
from experiment import Run

pytestmark = pytest.mark.timeout(400)  # on a busy computer


@pytest.fixture
def run(slurm: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """An experiment on three nodes, whose run folder the nodes see."""
    shared = slurm.testbed.shared / request.node.name
    return Run(tmp_path, slurm.environment, BACKEND="slurm", NB_MACHINE=3, walltime="0:10:00",
               WAIT=60, LOCAL_SAVE_DIR=str(shared))  # fmt: skip


def left(slurm: Any) -> list[str]:
    return slurm.jobs() + slurm.testbed.strangers()


def test_the_same_numbers_as_here_and_no_job_is_left(run: Run, slurm: Any) -> None:
    done = run.finish()
    assert done.returncode == 0, done.stderr + done.stdout
    assert experiment.weights(run.folder) == experiment.local_weights(run)
    slurm.wait_for(lambda: left(slurm) == [])
    assert not list(run.folder.rglob("run.key"))
    for node in slurm.nodes:
        assert "run.key" not in node.run("find", "/tmp", "-name", "run.key").stdout


def test_a_killed_orchestrator_finds_its_job_again(run: Run, slurm: Any) -> None:
    command = run.start()
    run.await_event("started")
    command.kill()
    command.wait()
    assert len(slurm.jobs()) == 1
    done = run.verb("resume")
    assert done.returncode == 0, done.stderr
    assert run.events().count("reserving") == 1
    assert len(experiment.weights(run.folder)) == 16
    slurm.wait_for(lambda: left(slurm) == [])


def test_ctrl_c_cancels_the_job(run: Run, slurm: Any) -> None:
    command = run.start()
    run.await_event("reserving")
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 130, errors
    slurm.wait_for(lambda: left(slurm) == [])
