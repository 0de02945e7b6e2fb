"""g5k_execution.py on the stand-in for Grid'5000: the same numbers, one job, nothing left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import experiment
import pytest
from experiment import Run

CLUSTER = "paradoxe"


@pytest.fixture
def run(grid5000: Any, tmp_path: Path) -> Run:
    """An experiment on two nodes, started as its user would."""
    return Run(tmp_path, grid5000.environment, BACKEND="grid5000", cluster=CLUSTER, NB_MACHINE=2,
               walltime="0:10:00", WAIT=60)  # fmt: skip


def posts(grid5000: Any) -> int:
    return sum(r.startswith("POST") and r.endswith("/jobs") for r in grid5000.api.requests)


def test_the_same_numbers_as_here_and_nothing_stays_reserved(run: Run, grid5000: Any) -> None:
    done = run.finish()
    assert done.returncode == 0, done.stderr
    assert experiment.weights(run.folder) == experiment.local_weights(run)
    assert list(run.folder.glob("**/*.pdf")) and posts(grid5000) == 1
    assert grid5000.left() == []


def test_a_killed_orchestrator_finds_its_job_again(run: Run, grid5000: Any) -> None:
    command = run.start()
    run.await_event("started")
    command.kill()
    command.wait()
    assert len(grid5000.api.live_jobs()) == 1
    done = run.verb("resume")
    assert done.returncode == 0, done.stderr
    assert posts(grid5000) == 1 and grid5000.left() == []
    assert experiment.weights(run.folder) == experiment.local_weights(run)
